"""Residuals of the class channel: which classes does the suspect raise beside each predicted class?

With t the class that the clean model predicts, the floored log-probabilities of suspect and clean model are averaged
per cell (row of t, column of another class c) into tables A (suspect) and B (clean); confident inputs weigh more, since
the mark stands out from small probabilities. Then

    R = W (A - a - b B - g - h)

takes out what the suspect shares with the clean model for honest reasons, by least squares over all cells: a constant a
and a slope b for the whole table, and, held small by a ridge, how much the suspect prefers each column whatever the row
(g) and spreads each row (h). With reference models, D is what the mean table of their answers has beyond B, and d D is
taken out too, its slope d held small by a ridge. The weights W grow with -B: where the clean model already gives a
class much probability, the mark can add little to its logarithm. Sums are in double precision, so they do not depend on
how queries were put into batches. Every step uses the answers alone, no sign; the constants were fixed on other models
and keys than those that the documentation reports on (docs/residuals.md).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.batch import NARROW, Batch, Memory
from dynamarks_tf.evidence.reference_answers import mean_logs
from dynamarks_tf.evidence.residuals import LOG_FLOOR, Residuals, floored_log
from dynamarks_tf.watermark.keyed_hash import KeyedHash

Array = npt.NDArray[Any]

TRANSFORM = (
    "class/4: weighted cell means of floored logs less constant, slope, ridged columns and rows, ridged mean reference"
)
CONFIDENCE = 0.01  # an input whose best class misses certainty by this much weighs half
REACH = 10.0  # classes count fully less the nearer they come to REACH times budget / C
SMALLEST_WEIGHT = 0.3
COLUMN_RIDGE = 2.0  # in units of the mean energy of a column
ROW_RIDGE = 1.0  # in units of the mean energy of a row
REFERENCE_RIDGE = 0.7  # in units of the energy of D
_SOLVER_PRECISION = 1e-13
_ROUNDING = 1e-9  # of the largest logarithm: what is smaller is left by the arithmetic, not by the suspect
_SHORT = 1024  # queries, few enough for their logarithms in double precision to stay in a processor's cache
_CACHED = 2**18  # numbers that are handled at once, few enough for a processor's cache
_SHORTER = 512  # queries, few enough for the sum of a row, in which the processor adds up one after the other


class ClassChannelTable:
    """Collects answers into the class channel's residuals.

    Args:
        keyed_hash: rows and columns of the classes.
        shape: rows and columns of the table.
        budget: largest total variation of the mark; it sets where its effect fades.
        with_references: whether reference models answer beside the clean one.

    Example:

    >>> table = ClassChannelTable(codebook.keyed_hash, (10, 10), budget=0.05)
    >>> table.add(Batch(clean_probabilities, suspect_probabilities))
    >>> table.residuals().values.shape
    (10, 10)
    """

    def __init__(
        self, keyed_hash: KeyedHash, shape: tuple[int, int], budget: float, *, with_references: bool = False
    ) -> None:
        cells, num_tables = _Cells(keyed_hash, shape), 2 + with_references
        is_narrow = keyed_hash.num_classes <= NARROW
        self._sums = _NarrowSums(cells, num_tables) if is_narrow else _WideSums(cells, num_tables)
        self._reach = np.log(REACH * budget / keyed_hash.num_classes)
        self._num_queries = 0

    def add(self, batch: Batch) -> None:
        """Adds one batch of probabilities."""
        self._sums.add(batch)
        self._num_queries += len(batch) if batch.counts is None else int(np.count_nonzero(batch.counts))

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        sums, count = self._sums.tables()
        filled = count > 0
        count[~filled] = 1
        clean, suspect, *reference = (table / count for table in sums)
        weights = self._reach - clean
        np.clip(weights, SMALLEST_WEIGHT, np.inf, out=weights)
        weights *= filled
        slope, left = _without_shared(suspect, clean, [table - clean for table in reference], weights)
        left[np.abs(left) <= _ROUNDING * np.abs(clean).max()] = 0  # all of them if the suspect is the clean model
        return Residuals(left, self._num_queries, int(filled.sum()), slope)


def _without_shared(suspect: Array, clean: Array, beside: list[Array], weights: Array) -> tuple[float, Array]:
    """Takes constant, slopes, column and row effects out of the suspect's table by weighted least squares.

    For given constant and slope, the effects are a ridge regression of V = A - a - b B on columns and rows. Its normal
    matrix has diagonal blocks; the rows are eliminated first. What the effects leave of V is a quadratic form in V, in
    which constant and slope are ordinary least squares. `beside` holds D, if there are reference models; its slope is
    that of a ridge regression.
    """
    squares = weights**2
    by_column, by_row = squares.sum(axis=0), squares.sum(axis=1)
    if not by_row.any():
        return 0.0, np.zeros_like(suspect)
    column_scale = by_column + COLUMN_RIDGE * by_column[by_column > 0].mean()
    row_scale = by_row + ROW_RIDGE * by_row[by_row > 0].mean()

    tables = [suspect, clean, *beside]
    weighted = [squares * table for table in tables]
    on_columns = np.stack([*(table.sum(axis=0) for table in weighted), by_column])
    on_rows = np.stack([*(table.sum(axis=1) for table in weighted), by_row])
    columns = _solved(squares, row_scale, column_scale, on_columns - (on_rows / row_scale) @ squares)
    rows = (on_rows - columns @ squares.T) / row_scale

    form = np.zeros((len(tables) + 1, len(tables) + 1))
    for one, other in itertools.combinations_with_replacement(range(len(tables)), 2):
        form[one, other] = form[other, one] = np.vdot(weighted[one], tables[other])
    form[-1] = form[:, -1] = on_rows.sum(axis=1)
    form -= on_columns @ columns.T + on_rows @ rows.T
    for place in range(2, len(tables)):
        form[place, place] *= 1 + REFERENCE_RIDGE
    slope, *slopes, constant = np.linalg.lstsq(form[1:, 1:], form[1:, 0], rcond=1e-9)[0]

    mix = np.array([1.0, -slope, *(-each for each in slopes), -constant])
    left = -slope * clean
    left += suspect
    for each, table in zip(slopes, beside, strict=True):
        left -= each * table
    left -= mix @ columns
    left -= (mix @ rows + constant)[:, None]
    left *= weights
    return float(slope), left


def _solved(squares: Array, row_scale: Array, column_scale: Array, moments: Array) -> Array:
    """Solves X (diag(d) - Q^T diag(1/e) Q) = M for X: what is left of the ridge regression without the rows.

    By conjugate gradients, scaled by d. The ridges keep the matrix so near to d that a few steps reach the last digits,
    where elimination takes C^3 operations.

    Args:
        squares: Q, shape `(rows, columns)`.
        row_scale: e, shape `(rows,)`.
        column_scale: d, shape `(columns,)`.
        moments: M, shape `(k, columns)`.

    Returns:
        X, shape `(k, columns)`.

    Reference: Shewchuk, An Introduction to the Conjugate Gradient Method Without the Agonizing Pain (1994).
    """
    solved, left = np.zeros_like(moments), moments.copy()
    direction = left / column_scale
    error = np.einsum("ij,ij->i", left, direction)
    goal = _SOLVER_PRECISION**2 * error
    for _ in range(moments.shape[1]):
        if np.all(error <= goal):
            break
        image = direction * column_scale - ((direction @ squares.T) / row_scale) @ squares
        step = error / np.maximum(np.einsum("ij,ij->i", direction, image), np.finfo(float).tiny)
        solved += step[:, None] * direction
        left -= step[:, None] * image
        scaled = left / column_scale
        last, error = error, np.einsum("ij,ij->i", left, scaled)
        direction = scaled + (error / np.maximum(last, np.finfo(float).tiny))[:, None] * direction
    return solved


def _confidence(batch: Batch) -> Array:
    """How much each query weighs by the clean model's largest probability, in (0, 1]; 0 if it does not count."""
    confidence = np.asarray(CONFIDENCE / (CONFIDENCE + (1 - batch.best)))
    return confidence if batch.counts is None else confidence * batch.counts


class _NarrowSums:
    """Weighted sums of floored logs for few classes: a product of matrices, of which one holds who is best.

    Args:
        cells: rows and columns of the table.
        num_tables: 2 for clean model and suspect, 3 with reference models.
    """

    def __init__(self, cells: _Cells, num_tables: int) -> None:
        self._cells = cells
        self._num_tables = num_tables
        self._num_logs = num_tables * cells.num_classes
        # A row for each class of clean model, suspect and references, and one for the weights alone: they are the sums
        # of ones.
        # Products of matrices are fastest where rows come in eights.
        self._sums = np.zeros((8 * math.ceil((self._num_logs + 1) / 8), cells.num_classes))
        self._factors = np.ones((len(self._sums), _SHORT))
        self._memory = Memory()

    def add(self, batch: Batch) -> None:
        """Adds one batch."""
        answers, is_best, _ = batch.by_class
        n = len(batch)
        weights = self._memory.array("weights", (len(is_best[0]), n), answers.dtype)
        np.copyto(weights, is_best[0])
        weights *= _confidence(batch)
        logs = self._memory.array("logs", (self._num_logs, n), answers.dtype)
        both = logs[: answers.shape[0] * answers.shape[1]]
        np.maximum(answers.reshape(both.shape), np.full(n, LOG_FLOOR, answers.dtype), out=both)
        np.log(both, out=both)
        if batch.references is not None:
            logs[len(both) :] = mean_logs(batch.references).T
        for start in range(0, n, _SHORT):
            part = slice(start, start + _SHORT)
            factors = self._factors[:, : min(_SHORT, n - start)]
            factors[: self._num_logs] = logs[:, part]
            self._sums += factors @ weights[:, part].T.astype(np.float64)

    def tables(self) -> tuple[list[Array], Array]:
        """Sums of clean model, suspect and references, and the weight in them, of the table's shape."""
        every = np.split(self._sums[: self._num_logs].copy(), self._num_tables)
        return [self._cells.of_classes(sums.T) for sums in every], self._cells.weights(self._sums[self._num_logs])


class _WideSums:
    """Weighted sums of floored logs for many classes, whose table has few rows: one small product of matrices a row.

    Args:
        cells: rows and columns of the table.
        num_tables: 2 for clean model and suspect, 3 with reference models.
    """

    def __init__(self, cells: _Cells, num_tables: int) -> None:
        self._cells = cells
        self._sums = np.zeros((num_tables, cells.num_rows, cells.num_classes))
        self._weights = np.zeros(cells.num_classes)

    def add(self, batch: Batch) -> None:
        """Adds one batch."""
        weights = _confidence(batch).astype(np.float64)
        in_row = weights * (self._cells.rows[batch.top] == np.arange(self._cells.num_rows)[:, None])
        size = max(1, min(_CACHED // self._cells.num_classes, _SHORTER))
        for start in range(0, len(batch), size):
            part = slice(start, start + size)
            every = [floored_log(batch.clean[part]), floored_log(batch.suspect[part])]
            if batch.references is not None:
                every.append(mean_logs(batch.references[part]))
            for sums, logs in zip(self._sums, every, strict=True):
                logs[np.arange(len(logs)), batch.top[part]] = 0  # nobody stands beside himself
                sums += in_row[:, part] @ logs.astype(np.float64)
        self._weights += np.bincount(batch.top, weights, len(self._weights))

    def tables(self) -> tuple[list[Array], Array]:
        """Sums of clean model, suspect and references, and the weight in them, of the table's shape."""
        return [self._cells.sum_columns(sums) for sums in self._sums.copy()], self._cells.weights(self._weights)


class _Cells:
    """The cells of the table: adds up the classes that share a row or a column.

    Args:
        keyed_hash: rows and columns of the classes.
        shape: rows and columns of the table.
    """

    def __init__(self, keyed_hash: KeyedHash, shape: tuple[int, int]) -> None:
        self.num_classes = keyed_hash.num_classes
        self.num_rows = shape[0]
        self.rows = keyed_hash.row_of_class
        self._columns = keyed_hash.column_of_class
        self._shape = shape
        self._is_identity = shape[1] == self.num_classes and np.array_equal(self._columns, np.arange(shape[1]))
        self._order = np.argsort(self._columns, kind="stable")
        self._used, self._starts = np.unique(self._columns[self._order], return_index=True)

    def of_classes(self, sums: Array) -> Array:
        """Makes a table of what each predicted class says of all classes, but not of itself; shape `(C, C)`."""
        np.fill_diagonal(sums, 0)
        table = np.zeros(self._shape)
        np.add.at(table, self.rows, self.sum_columns(sums))
        return table

    def weights(self, of_class: Array) -> Array:
        """The weight in each cell, which is that of the classes of its row for each class of its column but itself.

        Args:
            of_class: the weight of each predicted class, shape `(C,)`.
        """
        in_row = np.bincount(self.rows, of_class, self._shape[0])
        total = np.outer(in_row, np.bincount(self._columns, minlength=self._shape[1]))
        np.subtract.at(total, (self.rows, self._columns), of_class)
        return total

    def sum_columns(self, values: Array) -> Array:
        """Sums values of shape `(m, C)` over the classes that share a column."""
        if self._is_identity:
            return values
        total = np.zeros((len(values), self._shape[1]))
        total[:, self._used] = np.add.reduceat(values[:, self._order], self._starts, axis=1)
        return total
