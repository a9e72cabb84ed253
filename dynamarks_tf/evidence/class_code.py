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

import itertools
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
_BLOCK = 512  # queries that are summed at once


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
        top = clean.argmax(axis=1)
        best = clean[np.arange(len(top)), top].astype(np.float64)
        weights = 1 / (1 + (1 - best) / CONFIDENCE)
        total = np.bincount(top, weights, self._num_classes)
        classes = np.flatnonzero(total)
        others = np.repeat(total[classes, None], self._num_classes, axis=1)
        sums = [_class_sums(answers, top, weights, classes) for answers in (suspect, clean)]
        own = np.arange(len(classes)), classes
        for table, values in zip((self._suspect, self._clean, self._weight), (*sums, others), strict=True):
            values[own] = 0
            self._add_rows(table, classes, self._columns.sum(values))
        self._num_queries += len(clean)

    def _add_rows(self, table: Array, classes: Array, values: Array) -> None:
        rows = self._row_of_class[classes]
        if len(table) == self._num_classes:
            table[rows] += values  # every class has a row of its own
        else:
            np.add.at(table, rows, values)

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


def _class_sums(answers: Array, top: Array, weights: Array, classes: Array) -> Array:
    """Weighted sums of floored logs over the queries of each predicted class.

    Args:
        answers: probabilities, shape `(n, C)`.
        top: predicted class of each query, shape `(n,)`.
        weights: weight of each query, shape `(n,)`.
        classes: the predicted classes that occur, increasing.

    Returns:
        float64 of shape `(len(classes), C)`.
    """
    num_classes = answers.shape[1]
    if num_classes <= _MATRIX_CLASSES:
        indicator = np.zeros((num_classes, len(top)), answers.dtype)
        indicator[top, np.arange(len(top))] = weights
        chosen, logs = indicator[classes], floored_log(answers)
        sums = np.zeros((len(classes), num_classes))
        for start in range(0, len(top), _BLOCK):  # short sums, so that single precision is enough within them
            sums += chosen[:, start : start + _BLOCK] @ logs[start : start + _BLOCK]
        return sums
    order = np.argsort(top, kind="stable")
    logs = floored_log(answers[order])
    scale = weights[order].astype(logs.dtype)
    bounds = np.append(np.searchsorted(top[order], classes), len(top))
    sums = np.empty((len(classes), num_classes), logs.dtype)
    for row, (start, stop) in enumerate(itertools.pairwise(bounds)):
        np.dot(scale[start:stop], logs[start:stop], out=sums[row])
    return sums.astype(np.float64)


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
