"""Residuals of the tie channel: with which of two nearly equal classes does the suspect side?

For each logged query that is a tie for the clean model (`perturbation.tie_channel` has the same definition), with a < b
its two best classes,

    y = log(s_a / s_b), clipped to [-4, 4]        if the suspect answers probabilities s,
    y = +1 if it answers a, -1 if b, 0 if else    if it answers labels,

less what the clean model explains: one slope on log(p_a / p_b) for all, and a constant for each group of pairs, shrunk
to the common one where there are few queries. Each secret sign is met by one query, the first; its value is not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.meetings import TieMeetings, num_tie_cells
from dynamarks_tf.evidence.residuals import Residuals, floored_log
from dynamarks_tf.watermark.keyed_hash import HASH_SIZE, KeyedHash

Array = npt.NDArray[Any]

TRANSFORM = "tie/2: clipped log-ratio or label of each sign's first query less slope and shrunk constants by pair"
CLIP = 4.0


class TieTable:
    """Collects answers to logged queries into the tie channel's residuals.

    Args:
        keyed_hash: which secret signs an output gets.
        margin: the mark's `tie_margin`.
        budget: the mark's budget.
        met_before: cells that other queries met first, bools of shape `(num_tie_cells(C),)`; none by default.
    """

    def __init__(
        self,
        keyed_hash: KeyedHash,
        margin: float,
        budget: float,
        met_before: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._groups = keyed_hash.num_pair_groups
        self._meetings = TieMeetings(keyed_hash, margin, budget, met_before)
        num_cells = num_tie_cells(keyed_hash.num_classes, keyed_hash.num_labels)
        self._cells = np.zeros((num_cells, 3))  # 1 once met, y and x = log(p_a / p_b)

    def add(self, batch: Batch) -> None:
        """Adds one batch of probabilities or labels."""
        clean, suspect = batch.clean, batch.suspect
        low, high, found, cells = self._meetings.among(batch)
        if not len(found):
            return
        clean, suspect, each = clean[found], suspect[found], np.arange(len(found))
        x = np.log(clean[each, low].astype(np.float64) / clean[each, high])
        if suspect.ndim == 1:
            y = (suspect == low) * 1.0 - (suspect == high)
        else:
            y = np.clip(floored_log(suspect[each, low]) - floored_log(suspect[each, high]), -CLIP, CLIP)
        self._cells[cells] = np.stack([np.ones_like(x), y, x], axis=1)

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        cells = self._cells.reshape(self._groups, HASH_SIZE, 3)
        count, y, x = cells.sum(axis=1).T
        some = np.maximum(count, 1)
        spread = float((cells[..., 2] ** 2).sum() - (x * x / some).sum())
        slope = float((cells[..., 1] * cells[..., 2]).sum() - (x * y / some).sum()) / spread if spread > 1e-9 else 0.0
        total = max(float(count.sum()), 1.0)
        common = float((y - slope * x).sum()) / total
        constants = common + (y - slope * x - common * count) / (count + 1)
        values = cells[..., 1] - slope * cells[..., 2] - constants[:, None] * cells[..., 0]
        met = cells[..., 0] > 0
        return Residuals(np.where(met, values, 0.0), int(met.sum()), int(met.sum()), slope)
