"""Answers in the owner's order of classes: read once to find the order, and again to be assessed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.evidence.answers import is_one_hot
from dynamarks_tf.evidence.class_order import Confusion, class_order, in_order

Array = npt.NDArray[Any]
Answers = Iterable[tuple[Array, ...]]

_IN_MEMORY = 64 * 2**20  # bytes of answers; what is more goes to a temporary file


def aligned(answers: Answers, num_classes: int) -> tuple[tuple[int, ...], Iterator[tuple[Array, ...]]]:
    """Finds the suspect's order of classes from all answers, and puts them into the owner's.

    Args:
        answers: clean and suspect answers, batch by batch: probabilities of shape `(n, ..., C)`, and probabilities of
            shape `(n, ..., K)` or class numbers of shape `(n, ...)`. What follows stays as it is.
        num_classes: how many classes the owner model has, C.

    Returns:
        For each class of the owner, the suspect's, -1 if it has none; and the answers again. Where every answer is a
        single 1 among zeros, they are class numbers.

    Raises:
        SuspectError: the suspect answers some batches with more classes than others.
    """
    file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 -- lives as long as the answers
    confusion, widths, one_hot, count = Confusion(), set[int | None](), True, 0
    num_parts = 2
    for batch in answers:
        (clean, suspect, *_), num_parts = batch, len(batch)
        for array in batch:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        labels = suspect.ndim < clean.ndim
        widths.add(None if labels else suspect.shape[-1])
        if len(widths) > 1:
            raise SuspectError("The suspect answers some batches with other numbers of classes than others.")
        one_hot = one_hot and not labels and is_one_hot(suspect)
        theirs = suspect if labels else suspect.argmax(axis=-1)
        confusion.add(clean.argmax(axis=-1).ravel(), theirs.ravel())
        count += 1
    order = class_order(confusion, num_classes, next(iter(widths), None))
    return order, _again(file, count, num_parts, order, one_hot)


def _again(
    file: IO[bytes], count: int, num_parts: int, order: tuple[int, ...], one_hot: bool
) -> Iterator[tuple[Array, ...]]:
    file.seek(0)
    for _ in range(count):
        clean, suspect, *others = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(num_parts))
        labels = one_hot or suspect.ndim < clean.ndim
        yield clean, in_order(suspect.argmax(axis=-1) if one_hot else suspect, order, labels=labels), *others
    file.close()
