"""Residuals of the amplitude code: on which inputs is the suspect less sure than the clean model explains?

Where the coin of an input is +1, the marked API gave away the whole budget, and was less sure of its best class than
where the coin is -1. A surrogate remembers that of the inputs that it was trained on. For the first logged query of
each coin, with t the class that the clean model predicts,

    y = log(1 - s_t),    s the suspect's answer,

less what the clean answer explains of it (`regression`). No sign is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf import buckets
from dynamarks_tf.buckets import Bucketing
from dynamarks_tf.evidence import regression
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.residuals import FirstMeetings, Residuals, floored_log

Array = npt.NDArray[Any]

TRANSFORM = "amplitude/2: log(1 - s_t) of the first query of each coin less its regression on the clean logs by group"


class AmplitudeTable:
    """Collects answers to logged queries into the amplitude code's residuals.

    Args:
        bucketing: groups and columns of the coins.
    """

    def __init__(self, bucketing: Bucketing) -> None:
        self._bucketing = bucketing
        self._groups = buckets.num_class_groups(bucketing.num_classes)
        self._meetings = FirstMeetings(self._groups * buckets.COLUMNS)
        self._doubt = np.zeros(self._groups * buckets.COLUMNS)
        self._explained = np.zeros((self._groups * buckets.COLUMNS, regression.num_regressors(bucketing)))

    def add(self, batch: Batch) -> None:
        """Adds one batch of probabilities."""
        cells = batch.class_cells(self._bucketing)
        first = self._meetings.among(cells)
        suspect = batch.suspect[first, batch.top[first]]
        self._doubt[cells[first]] = floored_log(1 - suspect.astype(np.float64))
        self._explained[cells[first]] = regression.regressors(batch, first, self._bucketing)

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        met = np.flatnonzero(self._explained[:, 0])  # the constant
        starts = np.searchsorted(met, np.arange(self._groups + 1) * buckets.COLUMNS)
        left, shared = regression.unexplained(self._explained[met], self._doubt[met, None], starts)
        values = np.zeros_like(self._doubt)
        values[met] = left[:, 0]
        table = values.reshape(self._groups, buckets.COLUMNS)
        slope = float(regression.of_doubt(shared)[0] * regression.DOUBT_SCALE)
        return Residuals(table, len(met), len(met), slope)
