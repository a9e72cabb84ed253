"""Residuals of the query code: which of two classes does the suspect raise, on inputs for which a coin chose one?

With up to 32 classes, the marked API raises a single class for each input: the coin of the input's predicted class and
hash chooses between the two of its pair. A surrogate remembers it of the inputs that it was trained on. For the first
logged query of each coin, with the pair (u, v),

    R = y_u - y_v,    y_c = log s_c less what the clean answer explains of it (`regression`), clipped to [-3, 3],

s the suspect's answer. Which inputs have a pair follows from class and amplitude code (`Codebook.contrasts`); no coin
of the query code itself is used (docs/statistics.md).
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

TRANSFORM = "query/1: clipped difference, between the classes of each coin's pair, of log s_c less its regression"
CLIP = 3.0


class QueryTable:
    """Collects answers to logged queries into the query code's residuals.

    Args:
        bucketing: columns of the coins.
        pairs: the two classes of each coin, ints of shape `(C, 4096, 2)`; -1 for coins that are not tested.
    """

    def __init__(self, bucketing: Bucketing, pairs: npt.NDArray[np.int32]) -> None:
        self._bucketing = bucketing
        self._pairs = pairs.reshape(-1, 2)
        self._meetings = FirstMeetings(len(self._pairs))
        self._logs = np.zeros((len(self._pairs), bucketing.num_classes))
        self._explained = np.zeros((len(self._pairs), regression.num_regressors(bucketing)))

    def add(self, batch: Batch) -> None:
        """Adds one batch of probabilities."""
        cells = batch.class_cells(self._bucketing)
        first = self._meetings.among(cells)
        self._logs[cells[first]] = floored_log(batch.suspect[first].astype(np.float64))
        self._explained[cells[first]] = regression.regressors(batch, first, self._bucketing)

    @property
    def met_pairs(self) -> npt.NDArray[np.int32]:
        """The pairs whose coins were met, -1 for others; the shape of `pairs`."""
        met = self._explained[:, 0] > 0  # the constant
        return np.where(met[:, None], self._pairs, np.int32(-1)).reshape(-1, buckets.COLUMNS, 2)

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        met = np.flatnonzero(self._explained[:, 0])  # the constant
        starts = np.searchsorted(met, np.arange(self._bucketing.num_classes + 1) * buckets.COLUMNS)
        left, shared = regression.unexplained(self._explained[met], self._logs[met], starts)
        np.clip(left, -CLIP, CLIP, out=left)
        has_pair = self._pairs[met, 0] >= 0
        met, left = met[has_pair], left[has_pair]
        first, second = np.take_along_axis(left, self._pairs[met], axis=1).T
        values = np.zeros(len(self._pairs))
        values[met] = first - second
        table = values.reshape(self._bucketing.num_classes, buckets.COLUMNS)
        return Residuals(table, len(met), len(met), _own_slope(shared))


def _own_slope(shared: Array) -> float:
    """How closely the suspect's logarithms follow the clean ones of the same class, on average."""
    coefficients = np.diag(regression.of_logs(shared))
    return float(coefficients.mean() * regression.LOG_SCALE)
