"""One batch of answers, and what several channels need to know of it, worked out once.

NumPy is fast along long axes only. Answers with few classes are therefore also kept class by class, where the longest
axis is that of the queries; answers with many classes are left as they came.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynamarks_tf.watermark.keyed_hash import HASH_SIZE, KeyedHash

Array = npt.NDArray[Any]

NARROW = 64  # classes, at most
_GAP = 64  # bytes between rows


class Memory:
    """Hands out arrays by name, each in the memory of the last one of that name and shape.

    Arrays of a batch's size are so large that fresh memory for them, which the system has to find and to clear, costs
    as much time as what is computed in it. So does memory whose rows lie a power of two apart: they share a few places
    of the processor's cache.

    Example:

    >>> memory = Memory()
    >>> first = memory.array("logs", (10, 4096), np.float32)
    >>> np.shares_memory(first, memory.array("logs", (10, 4096), np.float32))
    True
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array that holds anything. Those of the same name that were handed out before must be done with."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            gap = _GAP // np.dtype(dtype).itemsize
            array = self._arrays[name] = np.empty((*shape[:-1], shape[-1] + gap), dtype)[..., : shape[-1]]
        return array


class ByClass(NamedTuple):
    """Answers of clean model and suspect class by class.

    Attributes:
        answers: probabilities in one array of shape `(2, C, n)`.
        is_best: which class is best, for clean model and suspect: one for each query, bools of shape `(2, C, n)`.
        best: the probability of the clean model's best class, shape `(n,)`.
    """

    answers: Array
    is_best: Array
    best: Array


class Batch:
    """The answers of clean owner model and suspect to the same n queries. They must not be changed afterwards.

    Args:
        clean: the clean owner model's probabilities, shape `(n, C)`.
        suspect: the suspect's probabilities, shape `(n, C)`; or class indices, shape `(n,)`, where -1 stands for a
            class that the owner model does not know.
        labels: which label each answer is about, of a model with sigmoids: ints of shape `(n,)`.
        references: the probabilities of R reference models, shape `(n, R, C)`; `None` without.
        memory: where what is worked out is put, fresh memory by default. The batch is then of use until the next one
            is made with the same memory.

    Attributes:
        counts: which queries count in sums, bools of shape `(n,)`; `None`: all of them.
        ties: what `meetings.ties` found for a margin and a budget.

    Example:

    >>> batch = Batch(np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    >>> batch.top, batch.num_agreeing
    (array([0, 1]), 1)
    """

    def __init__(
        self,
        clean: Array,
        suspect: Array,
        memory: Memory | None = None,
        labels: Array | None = None,
        references: Array | None = None,
    ) -> None:
        self.clean = clean
        self.suspect = suspect
        self.references = references
        self.labels = labels
        self._memory = memory or Memory()
        self.counts: Array | None = None
        self._class_cells: Array | None = None
        self.ties: dict[tuple[float, float], tuple[Array, Array, Array]] = {}

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def has_labels(self) -> bool:
        """Whether the suspect answers class indices."""
        return self.suspect.ndim == 1

    @property
    def is_narrow(self) -> bool:
        """Whether there are probabilities of so few classes that they are better taken class by class."""
        return not self.has_labels and self.clean.shape[1] <= NARROW

    @functools.cached_property
    def by_class(self) -> ByClass:
        """The probabilities class by class, if there are so few classes that it pays."""
        n, num_classes = self.clean.shape
        shape = 2, num_classes, n
        answers = self._memory.array("answers", shape, np.result_type(self.clean, self.suspect))
        answers[0], answers[1] = self.clean.T, self.suspect.T
        largest = np.maximum.reduce(answers, axis=1)
        is_best = np.equal(answers, largest[:, None], out=self._memory.array("is_best", shape, bool))
        if np.count_nonzero(is_best) > 2 * n:  # of equal classes the first is best, as for `argmax`
            is_best = np.arange(num_classes)[:, None] == answers.argmax(axis=1)[:, None]
        return ByClass(answers, is_best, largest[0])

    @functools.cached_property
    def top(self) -> Array:
        """The clean model's best class for each query, ints of shape `(n,)`."""
        if self.is_narrow:
            numbers = np.arange(self.clean.shape[1], dtype=np.uint8)[:, None]
            return np.asarray((self.by_class.is_best[0].view(np.uint8) * numbers).max(axis=0), np.intp)
        return np.asarray(self.clean.argmax(axis=1))

    @functools.cached_property
    def suspect_top(self) -> Array:
        """The suspect's best class for each query, ints of shape `(n,)`; -1 for none of the owner's."""
        if self.is_narrow:
            numbers = np.arange(self.clean.shape[1], dtype=np.uint8)[:, None]
            return np.asarray((self.by_class.is_best[1].view(np.uint8) * numbers).max(axis=0), np.intp)
        return self.suspect if self.has_labels else np.asarray(self.suspect.argmax(axis=1))

    @functools.cached_property
    def best(self) -> Array:
        """The probability of that class, shape `(n,)`."""
        return self.by_class.best if self.is_narrow else np.asarray(self.clean[np.arange(len(self)), self.top])

    def class_cells(self, keyed_hash: KeyedHash) -> Array:
        """Each query's cell in the flattened tables of amplitude and class-choice channel, ints of shape `(n,)`."""
        if self._class_cells is None:
            clean = self.by_class.answers[0].T if self.is_narrow else self.clean
            self._class_cells = keyed_hash.class_groups(self.top, self.labels) * HASH_SIZE + keyed_hash.hashes(clean)
        return self._class_cells

    @property
    def num_agreeing(self) -> int:
        """For how many queries clean model and suspect have the same best class."""
        if self.is_narrow:
            is_best = self.by_class.is_best
            return int(np.count_nonzero(is_best[0] & is_best[1]))
        return int(np.count_nonzero(self.top == (self.suspect if self.has_labels else self.suspect.argmax(axis=1))))

    @classmethod
    def of_answers(
        cls,
        clean: Array,
        suspect: Array,
        keyed_hash: KeyedHash,
        memory: Memory | None = None,
        references: Array | None = None,
    ) -> Batch:
        """A batch in which each answer to an input counts on its own: each position, and each label.

        Args:
            clean: the clean owner model's probabilities, shape `(n, ..., C)`; with L labels, `(n, ..., L, 2)`.
            suspect: the suspect's, the same shape, or class indices of shape `(n, ...)`.
            keyed_hash: which says how many labels there are.
            memory: as for the constructor.
            references: those of R reference models, shape `(n, ..., R, C)`; with L labels, `(n, ..., L, R, 2)`.
        """
        each = clean.reshape(-1, clean.shape[-1])
        given = suspect.reshape(-1) if suspect.ndim < clean.ndim else suspect.reshape(each.shape)
        labels = None
        if keyed_hash.num_labels > 1:
            labels = np.tile(np.arange(keyed_hash.num_labels), len(each) // keyed_hash.num_labels)
        beside = None if references is None else references.reshape(len(each), -1, each.shape[-1])
        return cls(each, given, memory, labels, beside)

    def counting(self, queries: Array) -> Batch:
        """A batch in which some of the queries count; the others may be left out.

        To leave queries out takes a copy of those that stay, which pays if they are few. What does no summing, such as
        `num_agreeing`, does not look at `counts`.

        Args:
            queries: those that count, increasing ints of shape `(k,)`.
        """
        if len(queries) < len(self) / 2:
            labels = None if self.labels is None else self.labels[queries]
            references = None if self.references is None else self.references[queries]
            clean, suspect = self.clean.take(queries, axis=0), self.suspect.take(queries, axis=0)
            return Batch(clean, suspect, labels=labels, references=references)
        part = copy.copy(self)
        part.counts = np.zeros(len(self), bool)
        part.counts[queries] = True
        return part
