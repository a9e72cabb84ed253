"""Residuals of the amplitude code: on which inputs is the suspect less sure than the clean model explains?

Where the coin of an input is +1, the marked API gave away the whole budget, and was less sure of its best class than
where the coin is -1. A surrogate remembers that of the inputs that it was trained on. For each logged query, with t the
class that the clean model predicts,

    y = log(1 - s_t),    s the suspect's answer,

is explained as well as possible by the clean answer: by least squares, for each group of predicted classes, on the
constant, log(1 - p_t), its square, and the logarithms of up to 16 classes' probabilities and their squares. The
residuals are summed for each coin. A group with few queries leans on what all groups say together. No sign is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf import buckets
from dynamarks_tf.buckets import Bucketing
from dynamarks_tf.evidence.residuals import Residuals, floored_log, sum_by_cell

Array = npt.NDArray[Any]

TRANSFORM = "amplitude/1: log(1 - s_t) less its regression on the clean logs by group"
REGRESSED_CLASSES = 16
RIDGE = 1.0
GROUP_RIDGE = 10.0
_DOUBT_SCALE = 0.2  # brings log(1 - p_t) to about unit size


class AmplitudeTable:
    """Collects answers to logged queries into the amplitude code's residuals.

    Args:
        bucketing: groups and columns of the coins.
    """

    def __init__(self, bucketing: Bucketing) -> None:
        self._bucketing = bucketing
        self._groups = buckets.num_class_groups(bucketing.num_classes)
        self._regressed = bucketing.hashed_classes[:REGRESSED_CLASSES]
        size = 3 + 2 * len(self._regressed)
        self._cells = np.zeros((self._groups * buckets.COLUMNS, 1 + size))  # sums of y and of its explanations
        self._gram = np.zeros((self._groups, size, size))
        self._moment = np.zeros((self._groups, size))
        self._met = np.zeros(self._groups * buckets.COLUMNS, np.int64)

    def add(self, clean: Array, suspect: Array) -> None:
        """Adds one batch: probabilities of clean model and suspect, shape `(n, C)` each."""
        each = np.arange(len(clean))
        top = clean.argmax(axis=1)
        group = self._bucketing.group_of_class[top]
        cell = group * buckets.COLUMNS + self._bucketing.columns(clean)
        doubt = floored_log(1 - suspect[each, top].astype(np.float64))
        explained = self._explanations(clean, floored_log(1 - clean[each, top].astype(np.float64)))
        sum_by_cell(cell, np.concatenate([doubt[:, None], explained], axis=1), self._cells)
        self._met += np.bincount(cell, minlength=len(self._met))
        for used in np.unique(group):
            rows = explained[group == used]
            self._gram[used] += rows.T @ rows
            self._moment[used] += rows.T @ doubt[group == used]

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        size = self._gram.shape[1]
        shared = np.linalg.solve(self._gram.sum(axis=0) + RIDGE * np.eye(size), self._moment.sum(axis=0))
        left = self._moment - self._gram @ shared
        own = np.linalg.solve(self._gram + GROUP_RIDGE * np.eye(size), left[..., None])[..., 0]
        coefficients = np.repeat(shared + own, buckets.COLUMNS, axis=0)
        values = self._cells[:, 0] - (self._cells[:, 1:] * coefficients).sum(axis=1)
        met = self._met > 0
        return Residuals(
            values=np.where(met, values, 0.0).reshape(self._groups, buckets.COLUMNS),
            num_queries=int(self._met.sum()),
            num_cells=int(met.sum()),
            slope=float(shared[1] * _DOUBT_SCALE),
        )

    def _explanations(self, clean: Array, doubt: Array) -> Array:
        """The clean answers as regressors of about unit size, shape `(n, 3 + 2 K)`."""
        logs = floored_log(clean[:, self._regressed].astype(np.float64)) / 10
        x = doubt[:, None] * _DOUBT_SCALE
        return np.concatenate([np.ones_like(x), x, x**2, logs, logs**2], axis=1)
