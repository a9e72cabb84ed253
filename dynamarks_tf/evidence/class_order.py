"""Which class of the suspect is which of the owner's, as their best classes tell. NumPy, and SciPy where it is needed.

Nothing here takes a secret sign: the order of the classes is a function of clean and suspect answers alone.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.answers import UNKNOWN_CLASS

Array = npt.NDArray[Any]

NOT_THERE = -1
MOST_CLASSES = 4096
"""How many classes may occur for an order to be searched: the search takes memory of their square."""
_FEW_PAIRS = 4096
_TIES = 2**20


class Confusion:
    """How often each best class of the clean model met each best class of the suspect.

    Example:

    >>> confusion = Confusion()
    >>> confusion.add(np.array([0, 0, 1]), np.array([1, 1, 0]))
    >>> confusion.matched()
    {0: 1, 1: 0}
    """

    def __init__(self) -> None:
        self._counts: collections.Counter[tuple[int, int]] = collections.Counter()

    def add(self, clean: Array, suspect: Array) -> None:
        """Counts answers.

        Args:
            clean: best classes of the clean model, ints of shape `(n,)`.
            suspect: best classes of the suspect, ints of shape `(n,)`; -1 for none of the owner's.
        """
        width = int(suspect.max(initial=UNKNOWN_CLASS)) + 2
        codes = clean.astype(np.int64) * width + (suspect + 1)
        if int(codes.max(initial=0)) < _FEW_PAIRS:
            every = np.bincount(codes)
            found = np.flatnonzero(every)
            counts = every[found]
        else:
            found, counts = np.unique(codes, return_counts=True)
        for code, count in zip(found.tolist(), counts.tolist(), strict=True):
            self._counts[code // width, code % width - 1] += count

    @property
    def num_answers(self) -> int:
        """How many answers were counted."""
        return sum(self._counts.values())

    @property
    def num_agreeing(self) -> int:
        """In how many of them both have the same best class."""
        return sum(count for (clean, suspect), count in self._counts.items() if clean == suspect)

    @property
    def num_unknown(self) -> int:
        """How many of the suspect's labels name no class of the owner."""
        return sum(count for (_, suspect), count in self._counts.items() if suspect == UNKNOWN_CLASS)

    @property
    def chance(self) -> float:
        """In what share of the answers both would have the same best class if the suspect's came in any other order."""
        of_clean, of_suspect = collections.Counter[int](), collections.Counter[int]()
        for (clean, suspect), count in self._counts.items():
            of_clean[clean] += count
            of_suspect[suspect] += count
        return sum(count * of_suspect[one] for one, count in of_clean.items()) / max(self.num_answers, 1) ** 2

    def count(self, clean: int, suspect: int) -> int:
        """How often a class of the clean model met a class of the suspect."""
        return self._counts[clean, suspect]

    def matched(self) -> dict[int, int]:
        """The suspect's class for each class of the owner, so that they agree most often.

        Among equal choices, classes stay where they are; what is left is decided by a fixed hash, so that the choice is
        the same everywhere. Classes that never met, and all if too many occur, are left out.
        """
        met = [pair for pair in self._counts if pair[1] != UNKNOWN_CLASS]
        owners, suspects = sorted({clean for clean, _ in met}), sorted({suspect for _, suspect in met})
        if not met or max(len(owners), len(suspects)) > MOST_CLASSES:
            return {}
        from scipy.optimize import linear_sum_assignment

        rows = {number: row for row, number in enumerate(owners)}
        columns = {number: column for column, number in enumerate(suspects)}
        gain = np.zeros((len(owners), len(suspects)))
        unit = _TIES * min(len(owners), len(suspects))  # whole numbers below 2^53 for all counts that a test can have
        for clean, suspect in met:
            tie = _TIES - 1 if clean == suspect else _scattered(clean, suspect) % (_TIES - 1)
            gain[rows[clean], columns[suspect]] = self._counts[clean, suspect] * unit + tie
        chosen = zip(*linear_sum_assignment(gain, maximize=True), strict=True)
        pairs = ((owners[row], suspects[column]) for row, column in chosen)
        return {clean: suspect for clean, suspect in pairs if self._counts[clean, suspect]}

    def agreement_of(self, order: dict[int, int]) -> tuple[int, int]:
        """How often an order that was found from these answers agrees, and in how many, beyond what it was found by.

        One answer is enough to find a pair, and agrees whatever the suspect is; so one of each pair is left out.
        """
        agreeing = sum(self._counts[pair] for pair in order.items())
        return agreeing - len(order), self.num_answers - len(order)


def class_order(confusion: Confusion, num_classes: int, num_columns: int | None) -> tuple[int, ...]:
    """The suspect's class for each class of the owner; -1 where it has none.

    Args:
        confusion: of all answers, with the suspect's own numbers of classes.
        num_classes: how many classes the owner model has, C.
        num_columns: how many classes the suspect has; `None` if it answers labels.

    Returns:
        C whole numbers. Classes that never met keep their number where no other class has it.
    """
    matched = confusion.matched()
    taken = set(matched.values())
    last = num_classes if num_columns is None else num_columns

    def found() -> Iterator[int]:
        for number in range(num_classes):
            yield matched.get(number, number if number < last and number not in taken else NOT_THERE)

    return tuple(found())


def in_order(suspect: Array, order: tuple[int, ...], *, labels: bool) -> Array:
    """The suspect's answers with the owner's numbers of classes.

    Args:
        suspect: probabilities of shape `(n, ..., K)`, or class numbers of shape `(n, ...)`.
        order: what `class_order` found.
        labels: whether they are class numbers.

    Returns:
        Probabilities of shape `(n, ..., C)`: surplus classes are dropped and what is left sums to 1, missing ones get
        0; where nothing is left, all are equal. Or class numbers, -1 for a class that the owner model does not know.
    """
    theirs = np.array(order, np.int64)
    ours = np.flatnonzero(theirs != NOT_THERE)
    theirs = theirs[ours]
    if labels:
        by_theirs = np.argsort(theirs)
        place = np.searchsorted(theirs[by_theirs], suspect).clip(max=max(len(ours) - 1, 0))
        known = theirs[by_theirs][place] == suspect
        return np.where(known, ours[by_theirs][place], UNKNOWN_CLASS).astype(np.int64)
    ordered = np.zeros((*suspect.shape[:-1], len(order)), suspect.dtype)
    ordered[..., ours] = suspect[..., theirs]
    if len(theirs) == suspect.shape[-1]:
        return ordered
    sums = ordered.sum(axis=-1, keepdims=True)
    even = np.full_like(ordered, 1 / len(order))
    return np.asarray(np.divide(ordered, sums, out=even, where=sums > 0))


def _scattered(clean: int, suspect: int) -> int:
    """A number that is as good as random, and the same everywhere."""
    mixed = (clean + 1) * 0x9E3779B1 ^ (suspect + 1) * 0x85EBCA77
    return (mixed * 0xC2B2AE3D27D4EB4F & (2**64 - 1)) >> 40
