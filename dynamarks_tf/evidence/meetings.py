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
        second = np.where(batch.top[found] == low, high, low)
        groups = self._keyed_hash.group_of_class
        other = own[found] + (groups[second] - groups[batch.top[found]]) * HASH_SIZE
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
        group = self._keyed_hash.tie_groups(low, high, None if batch.labels is None else batch.labels[found])
        cells = group * HASH_SIZE + self._keyed_hash.tie_hashes(batch.clean[found])
        first = self._meetings.among(cells)
        return low[first], high[first], found[first], cells[first]


class MetBefore(NamedTuple):
    """Secret signs that other queries of a log met first; none by default.

    Attributes:
        classes: cells of amplitude and class-choice channel, bools of shape `(num_class_cells(C),)`.
        ties: cells of the tie channel, bools of shape `(num_tie_cells(C),)`.
    """

    classes: npt.NDArray[np.bool_] | None = None
    ties: npt.NDArray[np.bool_] | None = None


class MetByOthers:
    """Gathers which secret signs the other requests of a log met first, when some requests are selected from it.

    A client's answers may have told somebody which inputs to pass on to another client. The secret signs of those
    inputs had been shown before the other client asked, so they say nothing about the requests of that client alone.

    Args:
        keyed_hash: which cell an output meets.
        params: settings of the mark.

    Example:

    >>> others = MetByOthers(codebook.keyed_hash, params)
    >>> others.add(clean, is_selected)  # the whole log in order, batch by batch
    >>> ResidualAccumulator(channels, codebook.keyed_hash, params, logged=True, met_before=others.met_before)
    """

    def __init__(self, keyed_hash: KeyedHash, params: MarkParams) -> None:
        self._keyed_hash = keyed_hash
        self._of_classes = ClassMeetings(keyed_hash, params)
        self._of_ties = TieMeetings(keyed_hash, params.tie_margin, params.budget)
        self._classes = np.zeros(num_class_cells(keyed_hash.num_classes, keyed_hash.num_labels), bool)
        self._ties = np.zeros(num_tie_cells(keyed_hash.num_classes, keyed_hash.num_labels), bool)

    def add(self, clean: Array, is_selected: Array) -> None:
        """Adds the next requests of the log.

        Args:
            clean: the clean owner model's probabilities, shape `(n, ..., C)`.
            is_selected: whether each request is selected, bools of shape `(n,)`.
        """
        batch = Batch.of_answers(clean, np.zeros(clean.shape[:-1], int), self._keyed_hash)
        others = np.repeat(~is_selected, len(batch) // max(len(clean), 1))
        queries, cells, _ = self._of_classes.touched(batch)
        self._classes[cells[others[queries]]] = True
        *_, queries, cells = self._of_ties.among(batch)
        self._ties[cells[others[queries]]] = True

    @property
    def met_before(self) -> MetBefore:
        """The secret signs that requests met first which are not selected."""
        return MetBefore(self._classes, self._ties)


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
