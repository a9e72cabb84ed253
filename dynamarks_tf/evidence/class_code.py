"""Residuals of the class code: which classes does the suspect raise beside each predicted class?

With t the class that the clean model predicts, the floored log-probabilities of suspect and clean model are averaged
per cell (row of t, column of another class c) into tables A (suspect) and B (clean); confident inputs weigh more, since
the mark stands out from small probabilities. Then

    R = W (A - a - b B - g - h)

takes out what the suspect shares with the clean model for honest reasons, by least squares over all cells: a constant a
and a slope b for the whole table, and, held small by a ridge, how much the suspect prefers each column whatever the row
(g) and spreads each row (h). The weights W grow with -B: where the clean model already gives a class much probability,
the mark can add little to its logarithm. Every step uses the answers alone, no sign; the constants were fixed on other
models and keys than those that the documentation reports on (docs/statistics.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.buckets import Bucketing
from dynamarks_tf.evidence.residuals import Residuals, floored_log

Array = npt.NDArray[Any]

TRANSFORM = "class/2: weighted cell means of floored logs less constant, slope and ridged columns and rows"
CONFIDENCE = 0.01  # an input whose best class misses certainty by this much weighs half
REACH = 10.0  # classes count fully less the nearer they come to REACH times budget / C
SMALLEST_WEIGHT = 0.3
COLUMN_RIDGE = 2.0  # in units of the mean energy of a column
ROW_RIDGE = 1.0  # in units of the mean energy of a row
_MATRIX_CLASSES = 64  # up to so many classes, sums per class are one matrix product
_BLOCK = 1 << 16  # elements worked on at once, so that they stay in the processor's cache


class ClassCodeTable:
    """Collects answers into the class code's residuals.

    Args:
        bucketing: rows and columns of the classes.
        shape: rows and columns of the table.
        budget: largest total variation of the mark; it sets where its effect fades.

    Example:

    >>> table = ClassCodeTable(codebook.bucketing, (10, 10), budget=0.05)
    >>> table.add(clean_probabilities, suspect_probabilities)
    >>> table.residuals().values.shape
    (10, 10)
    """

    def __init__(self, bucketing: Bucketing, shape: tuple[int, int], budget: float) -> None:
        self._num_classes = bucketing.num_classes
        self._row_of_class = bucketing.row_of_class
        self._columns = _Columns(bucketing.column_of_class, shape[1])
        self._suspect, self._clean, self._weight = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._reach = np.log(REACH * budget / self._num_classes)
        self._num_queries = 0

    def add(self, clean: Array, suspect: Array) -> None:
        """Adds one batch: probabilities of clean model and suspect, shape `(n, C)` each."""
        block = max(1, _BLOCK // self._num_classes)
        for start in range(0, len(clean), block):
            self._add_block(clean[start : start + block], suspect[start : start + block])

    def _add_block(self, clean: Array, suspect: Array) -> None:
        top = clean.argmax(axis=1)
        best = clean[np.arange(len(top)), top].astype(np.float64)
        weights = 1 / (1 + (1 - best) / CONFIDENCE)
        total = np.bincount(top, weights, self._num_classes)
        classes = np.flatnonzero(total)
        sums = _class_sums(top, weights, classes, (floored_log(suspect), floored_log(clean)))
        rows = self._row_of_class[classes]
        own = np.arange(len(classes)), classes
        for table, values in zip((self._suspect, self._clean), sums, strict=True):
            values[own] = 0
            np.add.at(table, rows, self._columns.sum(values))
        others = np.repeat(total[classes, None], self._num_classes, axis=1)
        others[own] = 0
        np.add.at(self._weight, rows, self._columns.sum(others))
        self._num_queries += len(clean)

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        filled = self._weight > 0
        count = np.where(filled, self._weight, 1)
        suspect, clean = self._suspect / count, self._clean / count
        weights = np.where(filled, np.maximum(self._reach - clean, SMALLEST_WEIGHT), 0)
        slope, left = _without_shared(suspect, clean, weights)
        return Residuals(left, self._num_queries, int(filled.sum()), slope)


def _without_shared(suspect: Array, clean: Array, weights: Array) -> tuple[float, Array]:
    """Takes constant, slope, column and row effects out of the suspect's table by weighted least squares.

    For given constant and slope, the effects are a ridge regression of V = A - a - b B on columns and rows. Its normal
    matrix has diagonal blocks; the rows are eliminated first. What the effects leave of V is a quadratic form in V, in
    which constant and slope are ordinary least squares.
    """
    squares = weights**2
    by_column, by_row = squares.sum(axis=0), squares.sum(axis=1)
    if not by_row.any():
        return 0.0, np.zeros_like(suspect)
    column_ridge = COLUMN_RIDGE * by_column[by_column > 0].mean()
    row_scale = 1 / (by_row + ROW_RIDGE * by_row[by_row > 0].mean())
    scaled = squares * row_scale[:, None]
    reduced = np.diag(by_column + column_ridge) - squares.T @ scaled

    tables = np.stack([suspect, clean, np.ones_like(suspect)])
    moments = squares * tables
    on_columns, on_rows = moments.sum(axis=1), moments.sum(axis=2)
    columns = np.linalg.solve(reduced, (on_columns - on_rows @ scaled).T).T
    rows = (on_rows - columns @ squares.T) * row_scale
    explained = on_columns @ columns.T + on_rows @ rows.T
    form = moments.reshape(3, -1) @ tables.reshape(3, -1).T - explained
    slope, constant = np.linalg.lstsq(form[1:, 1:], form[1:, 0], rcond=1e-9)[0]

    mix = np.array([1.0, -slope, -constant])
    left = np.tensordot(mix, tables, axes=1) - (mix @ columns)[None, :] - (mix @ rows)[:, None]
    return float(slope), np.asarray(weights * left)


def _class_sums(top: Array, weights: Array, classes: Array, tables: tuple[Array, ...]) -> list[Array]:
    """Weighted sums over the queries of each predicted class.

    Args:
        top: predicted class of each query, shape `(n,)`.
        weights: weight of each query, shape `(n,)`.
        classes: the predicted classes that occur, increasing.
        tables: what to sum, each of shape `(n, C)`.

    Returns:
        One float64 array of shape `(len(classes), C)` for each table.
    """
    num_classes = tables[0].shape[1]
    if num_classes <= _MATRIX_CLASSES:
        indicator = np.zeros((num_classes, len(top)))
        indicator[top, np.arange(len(top))] = weights
        chosen = indicator[classes]
        return [chosen @ table.astype(np.float64) for table in tables]
    order = np.argsort(top, kind="stable")
    starts = np.searchsorted(top[order], classes)
    scale = weights[order, None].astype(tables[0].dtype)
    return [np.add.reduceat(table[order] * scale, starts, axis=0, dtype=np.float64) for table in tables]


class _Columns:
    """Adds up the classes that share a table column."""

    def __init__(self, column_of_class: Array, num_columns: int) -> None:
        self._is_identity = len(column_of_class) == num_columns and np.array_equal(
            column_of_class, np.arange(num_columns)
        )
        self._order = np.argsort(column_of_class, kind="stable")
        self._used, self._starts = np.unique(column_of_class[self._order], return_index=True)
        self._num_columns = num_columns

    def sum(self, values: Array) -> Array:
        """Sums values of shape `(m, C)` into shape `(m, columns)`."""
        if self._is_identity:
            return values
        total = np.zeros((len(values), self._num_columns))
        total[:, self._used] = np.add.reduceat(values[:, self._order], self._starts, axis=1)
        return total
