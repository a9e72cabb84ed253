"""Which query meets which secret sign first.

Every hashed channel uses a secret sign for the first query alone that meets it. The hash says which sign a query meets:
`ClassMeetings` for amplitude and class-choice channel, whose cells are those of the best class, `TieMeetings` for the
tie channel. No sign is used.

A query that is a tie meets a second cell of the class-choice channel: that of its second best class. The tie channel
may make that class the best one, and the released answer then shows the sign of its cell. Whether it does depends on a
secret sign, so the cell counts as met in every tie.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.watermark.keyed_hash import HASH_SIZE, KeyedHash, num_class_groups, num_pair_groups
from dynamarks_tf.watermark.params import MarkParams
from dynamarks_tf.watermark.probabilities import SUM_TOLERANCE

Array = npt.NDArray[Any]


def num_class_cells(num_classes: int, num_labels: int = 1) -> int:
    """How many cells amplitude and class-choice channel have together."""
    return num_class_groups(num_classes, num_labels) * HASH_SIZE


def num_tie_cells(num_classes: int, num_labels: int = 1) -> int:
    """How many cells the tie channel has."""
    return num_pair_groups(num_classes, num_labels) * HASH_SIZE


class FirstMeetings:
    """Lets each secret sign be met by one query only: the first.

    A client's later queries may depend on the answers to earlier ones, and so on the signs that those showed: repeating
    the inputs with the most convenient answers would give their signs more weight. The first query that meets a sign
    was chosen before that sign had shown anything.

    Args:
        num_cells: how many secret signs there are.
        met_before: those that are met already, by queries that are not among those to come, bools of shape
            `(num_cells,)`; none by default.
    """

    def __init__(self, num_cells: int, met_before: Array | None = None) -> None:
        self._met = np.zeros(num_cells, bool) if met_before is None else met_before.copy()
        self._first = np.zeros(num_cells, np.intp)

    def unmet(self, cells: Array) -> Array:
        """Which of some queries have a sign that was not met before them: increasing indices."""
        return np.flatnonzero(~self._met[cells])

    def among(self, cells: Array) -> Array:
        """Which of a batch's queries meet their sign for the first time.

        Args:
            cells: the sign of each query, ints of shape `(n,)`.

        Returns:
            Increasing indices into the batch.
        """
        new = self.unmet(cells)
        cells = cells[new]
        self._first[cells[::-1]] = new[::-1]  # where a sign stands twice, the last assignment holds: the first query
        self._met[cells] = True
        return np.asarray(new[self._first[cells] == new])


class ClassMeetings:
    """First meetings of the cells of amplitude and class-choice channel.

    Args:
        keyed_hash: which cell an output meets.
        params: settings of the mark.
        met_before: as for `FirstMeetings`.
    """

    def __init__(self, keyed_hash: KeyedHash, params: MarkParams, met_before: Array | None = None) -> None:
        self._keyed_hash = keyed_hash
        self._params = params
        self._meetings = FirstMeetings(num_class_cells(keyed_hash.num_classes, keyed_hash.num_labels), met_before)

    def among(self, batch: Batch) -> tuple[Array, Array]:
        """The queries of a batch that are the first of their cell.

        Returns:
            The queries, increasing ints of shape `(k,)`, and their cells, ints of the same shape.
        """
        first, cells, is_own = self.touched(batch)
        return first[is_own], cells[is_own]

    def touched(self, batch: Batch) -> tuple[Array, Array, Array]:
        """All cells that a batch meets first, also those of second best classes in ties.

        Returns:
            The queries, not decreasing, their cells, ints of shape `(k,)` each; and whether the cell is that of the
            query's own best class, bools of the same shape.
        """
        own = batch.class_cells(self._keyed_hash)
        if not self._params.tie_margin:
            first = self._meetings.among(own)
            return first, own[first], np.ones(len(first), bool)
        low, high, found = ties(batch, self._params.tie_margin, self._params.budget)
        other = _cells_of_second(batch, self._keyed_hash, low, high, found)
        new, new_other = self._meetings.unmet(own), self._meetings.unmet(other)  # soon few, and the rest is quick
        queries = np.concatenate([new, found[new_other]])
        order = np.argsort(queries, kind="stable")  # a query's own cell comes before that of its second best class
        queries, cells = queries[order], np.concatenate([own[new], other[new_other]])[order]
        is_own = (np.arange(len(queries)) < len(new))[order]
        first = self._meetings.among(cells)
        return queries[first], cells[first], is_own[first]


class TieMeetings:
    """First meetings of the cells of the tie channel.

    Args:
        keyed_hash: which cell an output meets.
        margin: the mark's `tie_margin`.
        budget: the mark's budget.
        met_before: as for `FirstMeetings`.
    """

    def __init__(self, keyed_hash: KeyedHash, margin: float, budget: float, met_before: Array | None = None) -> None:
        self._keyed_hash = keyed_hash
        self._margin = margin
        self._budget = budget
        self._meetings = FirstMeetings(num_tie_cells(keyed_hash.num_classes, keyed_hash.num_labels), met_before)

    def among(self, batch: Batch) -> tuple[Array, Array, Array, Array]:
        """The queries of a batch that are ties and the first of their cell.

        Returns:
            The smaller index of the two best classes, the larger one, the queries, increasing, and their cells: ints of
            shape `(k,)` each.
        """
        low, high, found = ties(batch, self._margin, self._budget)
        cells = _tie_cells(batch, self._keyed_hash, low, high, found)
        first = self._meetings.among(cells)
        return low[first], high[first], found[first], cells[first]


class MetBefore(NamedTuple):
    """Secret signs that count as met before the first query that is asked; none by default.

    Attributes:
        classes: cells of amplitude and class-choice channel, bools of shape `(num_class_cells(C),)`.
        ties: cells of the tie channel, bools of shape `(num_tie_cells(C),)`.
    """

    classes: npt.NDArray[np.bool_] | None = None
    ties: npt.NDArray[np.bool_] | None = None


class Meetings(NamedTuple):
    """Every meeting of a query with a secret sign, in the order of the queries; a query's own cell comes first.

    Attributes:
        queries: which query, ints of shape `(m,)`, not decreasing.
        entries: which secret sign, int64 of the same shape: the cells of amplitude and class-choice channel, then those
            of the tie channel.
        is_own: whether the query can be asked about the sign: not if it met the cell of its second best class in a
            tie, where only the released answer may have shown it.
    """

    queries: Array
    entries: Array
    is_own: Array


def meetings(batch: Batch, keyed_hash: KeyedHash, params: MarkParams) -> Meetings:
    """Finds every secret sign that the queries of a batch meet, whether or not it was met before.

    Args:
        batch: the answers.
        keyed_hash: which cell an output meets.
        params: settings of the mark.
    """
    own = batch.class_cells(keyed_hash)
    if not params.tie_margin:
        return Meetings(np.arange(len(own)), own.astype(np.int64), np.ones(len(own), bool))
    low, high, found = ties(batch, params.tie_margin, params.budget)
    of_second = _cells_of_second(batch, keyed_hash, low, high, found)
    of_tie = num_class_cells(keyed_hash.num_classes, keyed_hash.num_labels) + _tie_cells(
        batch, keyed_hash, low, high, found
    )
    queries = np.concatenate([np.arange(len(own)), found, found])
    entries = np.concatenate([own, of_second, of_tie]).astype(np.int64)
    is_own = np.ones(len(queries), bool)
    is_own[len(own) : len(own) + len(found)] = False
    order = np.argsort(queries, kind="stable")
    return Meetings(queries[order], entries[order], is_own[order])


def _cells_of_second(batch: Batch, keyed_hash: KeyedHash, low: Array, high: Array, found: Array) -> Array:
    """The cell of the second best class of each tie."""
    second = np.where(batch.top[found] == low, high, low)
    groups = keyed_hash.group_of_class
    return np.asarray(batch.class_cells(keyed_hash)[found] + (groups[second] - groups[batch.top[found]]) * HASH_SIZE)


def _tie_cells(batch: Batch, keyed_hash: KeyedHash, low: Array, high: Array, found: Array) -> Array:
    """The cell of the tie channel of each tie."""
    group = keyed_hash.tie_groups(low, high, None if batch.labels is None else batch.labels[found])
    return np.asarray(group * HASH_SIZE + keyed_hash.tie_hashes(batch.clean[found]))


def ties(batch: Batch, margin: float, budget: float) -> tuple[Array, Array, Array]:
    """Finds the queries whose two best classes are nearly equal for the clean owner model.

    Args:
        batch: the answers.
        margin: the mark's `tie_margin`.
        budget: the mark's budget.

    Returns:
        Of the m ties: the smaller index of the two classes, the larger one, and which queries they are, ints of shape
        `(m,)` each.
    """
    if (margin, budget) in batch.ties:
        return batch.ties[margin, budget]
    # The second best has at most what the best leaves of a sum of 1, so where the best is large there is no tie.
    possible = np.flatnonzero(batch.best < 0.5 * (1 + SUM_TOLERANCE) + budget)
    top, best = batch.top[possible], batch.best[possible].astype(np.float64)
    others = batch.clean[possible]
    each = np.arange(len(others))
    others[each, top] = -1
    second = others.argmax(axis=1)
    next_best = others[each, second].astype(np.float64)
    limit = np.minimum((best + next_best) * math.tanh(margin / 2), 2 * budget)
    found = np.flatnonzero(best - next_best < limit)
    ties = np.minimum(top, second)[found], np.maximum(top, second)[found], possible[found]
    batch.ties[margin, budget] = ties
    return ties
