"""What a suspect says beyond what the clean owner model says, summed per cell of a table.

Nothing here takes a sign: that the residuals do not depend on the signs is what makes the p-value exact, and it can be
checked by reading the signatures of this module.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TRANSFORM = "log-floor-centre-cellmean-regress/1"
LOG_FLOOR = 1e-6


@dataclasses.dataclass(frozen=True)
class ClassCodeResiduals:
    """Residuals of the class code.

    Attributes:
        residuals: R = A - b B, float64 of shape `(rows, columns)`; 0 in cells without a query.
        slope: b, how closely the suspect's tails follow the clean ones, by least squares over all cells.
        num_cells: number of cells with at least one query.
    """

    residuals: npt.NDArray[np.float64]
    slope: float
    num_cells: int


class ClassCodeTable:
    """Collects answers, batch by batch, into the class code's residuals. Memory does not grow with the queries.

    The transform, fixed before any suspect is asked: with t the class that the clean model predicts, log-probabilities
    of suspect and clean model are floored at 1e-6, centred over the classes c != t, and averaged per cell (row of t,
    column of c) into tables A (suspect) and B (clean). R = A - b B removes what the suspect shares with the clean
    model for honest reasons.

    Args:
        row_of_class: table row of each predicted class, int of shape `(C,)`.
        column_of_class: table column of each other class, int of shape `(C,)`.
        shape: rows and columns of the table.

    Example:

    >>> table = ClassCodeTable(np.arange(10), np.arange(10), (10, 10))
    >>> table.add(clean_probabilities, suspect_probabilities)
    >>> table.residuals().residuals.shape
    (10, 10)

    Reference: docs/scheme.md.
    """

    def __init__(self, row_of_class: Array, column_of_class: Array, shape: tuple[int, int]) -> None:
        self._row_of_class = np.asarray(row_of_class)
        self._columns = _Columns(np.asarray(column_of_class), shape[1])
        self._suspect = np.zeros(shape)
        self._clean = np.zeros(shape)
        self._count = np.zeros(shape)
        self.num_queries = 0

    def add(self, clean: Array, suspect: Array) -> None:
        """Adds the answers to one batch of queries.

        Args:
            clean: the clean owner model's probabilities, shape `(n, C)`.
            suspect: the suspect's probabilities for the same inputs, shape `(n, C)`.
        """
        if len(clean) == 0:
            return
        top = clean.argmax(axis=1)
        order = np.argsort(top, kind="stable")
        classes, starts, sizes = np.unique(top[order], return_index=True, return_counts=True)
        rows = self._row_of_class[classes]
        for table, answers in ((self._suspect, suspect), (self._clean, clean)):
            np.add.at(table, rows, self._columns.sum(_class_sums(answers[order], classes, starts)))
        others = np.ones((len(classes), len(self._row_of_class)))
        others[np.arange(len(classes)), classes] = 0
        np.add.at(self._count, rows, self._columns.sum(others * sizes[:, None]))
        self.num_queries += len(clean)

    def residuals(self) -> ClassCodeResiduals:
        """R = A - b B over everything added so far."""
        filled = self._count > 0
        count = np.where(filled, self._count, 1)
        suspect, clean = self._suspect / count, self._clean / count
        energy = float((clean * clean).sum())
        slope = float((suspect * clean).sum()) / energy if energy > 0 else 0.0
        return ClassCodeResiduals(np.where(filled, suspect - slope * clean, 0.0), slope, int(filled.sum()))


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


def _class_sums(answers: Array, classes: Array, starts: Array) -> Array:
    """Centred floored logs, summed over the queries of each predicted class; shape `(len(classes), C)`.

    Args:
        answers: probabilities of shape `(n, C)`, sorted by predicted class.
        classes: the predicted classes that occur, increasing.
        starts: where the queries of each class begin.
    """
    logs = np.log(np.maximum(answers, np.asarray(LOG_FLOOR, answers.dtype)))
    sums = np.add.reduceat(logs, starts, axis=0, dtype=np.float64)  # (classes, C)
    own = np.arange(len(classes)), classes
    # Centring each query over its classes c != t and then summing is summing and then centring.
    means = (sums.sum(axis=1) - sums[own]) / (sums.shape[1] - 1)
    centred = sums - means[:, None]
    centred[own] = 0
    return np.asarray(centred)
