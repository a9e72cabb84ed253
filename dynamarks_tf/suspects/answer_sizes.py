"""How large the answer of a served model may be: what the owner's model would answer, and room for more classes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from dynamarks_tf.errors import SuspectError

MOST_VALUES = 2**23  # numbers in the answer to one batch, where the owner's model is not known
LARGEST_ANSWER = 2**28  # bytes
LONGEST_TEXT = 2**12  # characters of a class name
_LEAST = 2**12  # numbers that one input may be answered with
_TIMES = 16
_BYTES = 64  # that one number may take in JSON, with the name of its class


def expected_values(batch_size: int, each: int) -> int:
    """How many numbers a suspect may answer one batch with.

    Args:
        batch_size: the largest number of inputs.
        each: how many numbers the owner's model answers to one input.
    """
    return batch_size * max(_LEAST, _TIMES * each)


def largest_answer(most_values: int) -> int:
    """How many bytes these numbers may take in a message."""
    return min(LARGEST_ANSWER, 2**20 + _BYTES * most_values)


def check_texts(given: Any) -> None:
    """Checks that no text in nested lists is so long that an array of equal widths, as NumPy's, fills the memory.

    Raises:
        SuspectError: one is.
    """
    items: Iterable[Any] = [given]
    while items:
        lists = []
        for item in items:
            if isinstance(item, (list, tuple)):
                lists.append(item)
            elif isinstance(item, (str, bytes)) and len(item) > LONGEST_TEXT:
                raise SuspectError(
                    f"The suspect's answer holds a text of {len(item):,} characters; the name of a class may have "
                    f"{LONGEST_TEXT:,}."
                )
        items = list(chain.from_iterable(lists))
