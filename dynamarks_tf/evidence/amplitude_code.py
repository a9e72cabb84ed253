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

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf import buckets
from dynamarks_tf.buckets import Bucketing
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.residuals import FirstMeetings, Residuals, floored_log

Array = npt.NDArray[Any]

TRANSFORM = "amplitude/2: log(1 - s_t) of the first query of each coin less its regression on the clean logs by group"
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
        self._meetings = FirstMeetings(self._groups * buckets.COLUMNS)
        self._doubt = np.zeros(self._groups * buckets.COLUMNS)
        self._explained = np.zeros((self._groups * buckets.COLUMNS, size))

    def add(self, batch: Batch) -> None:
        """Adds one batch of probabilities."""
        cells = class_cells(batch, self._bucketing)
        first = self._meetings.among(cells)
        clean, suspect = batch.clean[first[:, None], self._regressed], batch.suspect[first, batch.top[first]]
        self._doubt[cells[first]] = floored_log(1 - suspect.astype(np.float64))
        self._explained[cells[first]] = self._explanations(clean, floored_log(1 - batch.best[first].astype(np.float64)))

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        size = self._explained.shape[1]
        met = np.flatnonzero(self._explained[:, 0])  # the constant
        rows, doubt = self._explained[met], self._doubt[met]
        starts = np.searchsorted(met, np.arange(self._groups + 1) * buckets.COLUMNS)
        groups = [slice(*bounds) for bounds in itertools.pairwise(starts)]
        gram = np.stack([rows[group].T @ rows[group] for group in groups])
        moment = np.stack([doubt[group] @ rows[group] for group in groups])
        shared = np.linalg.solve(gram.sum(axis=0) + RIDGE * np.eye(size), moment.sum(axis=0))
        own = np.linalg.solve(gram + GROUP_RIDGE * np.eye(size), (moment - gram @ shared)[..., None])[..., 0]
        left = [doubt[group] - rows[group] @ (shared + more) for group, more in zip(groups, own, strict=True)]
        values = np.zeros_like(self._doubt)
        values[met] = np.concatenate(left)
        table = values.reshape(self._groups, buckets.COLUMNS)
        return Residuals(table, len(met), len(met), float(shared[1] * _DOUBT_SCALE))

    def _explanations(self, clean: Array, doubt: Array) -> Array:
        """Regressors of about unit size from the clean answers for K classes, shape `(n, 3 + 2 K)`."""
        logs = floored_log(clean.astype(np.float64)) / 10
        x = doubt[:, None] * _DOUBT_SCALE
        return np.concatenate([np.ones_like(x), x, x**2, logs, logs**2], axis=1)


def class_cells(batch: Batch, bucketing: Bucketing) -> Array:
    """The coin of each query in the amplitude code's flattened table, ints of shape `(n,)`."""
    clean = batch.by_class.answers[0].T if batch.is_narrow else batch.clean
    return np.asarray(bucketing.group_of_class[batch.top] * buckets.COLUMNS + bucketing.columns(clean))
