"""Residuals of the tie channel: with which of two nearly equal classes does the suspect side?

For each logged query that is a tie for the clean model (`perturbation.tie_channel` has the same definition), with a < b
its two best classes,

    y = log(s_a / s_b), clipped to [-4, 4]        if the suspect answers probabilities s,
    y = +1 if it answers a, -1 if b, 0 if else    if it answers labels,

less what the clean model explains: its regression on log(p_a / p_b), by groups of pairs, learned from earlier ties
(`regression`). With reference models, their mean log(q_a / q_b), clipped as well, explains a part too. Each
secret sign is met by one query, the first; its value is not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.meetings import TieMeetings, num_tie_cells
from dynamarks_tf.evidence.reference_answers import mean_logs
from dynamarks_tf.evidence.regression import unexplained
from dynamarks_tf.evidence.residuals import Residuals, floored_log
from dynamarks_tf.watermark.keyed_hash import HASH_SIZE, KeyedHash

Array = npt.NDArray[Any]

TRANSFORM = (
    "tie/4: clipped log-ratio or label of each sign's first query less its regression by group, by the past, on clean "
    "and mean reference log-ratio"
)
CLIP = 4.0
REFERENCE_SCALE = 0.25  # of the references' log-ratio: groups of pairs, which hold few ties, nearly share its slope


class TieTable:
    """Collects answers to logged queries into the tie channel's residuals.

    Args:
        keyed_hash: which secret signs an output gets.
        margin: the mark's `tie_margin`.
        budget: the mark's budget.
        met_before: cells that other queries met first, bools of shape `(num_tie_cells(C),)`; none by default.
        with_references: whether reference models answer beside the clean one.
    """

    def __init__(
        self,
        keyed_hash: KeyedHash,
        margin: float,
        budget: float,
        met_before: npt.NDArray[np.bool_] | None = None,
        *,
        with_references: bool = False,
    ) -> None:
        self._meetings = TieMeetings(keyed_hash, margin, budget, met_before)
        self._num_cells = num_tie_cells(keyed_hash.num_classes, keyed_hash.num_labels)
        self._met: list[tuple[Array, Array]] = []  # cells and times, batch by batch
        self._answers: list[tuple[Array, Array]] = []  # y and regressors
        self._num_regressors = 2 + with_references
        self._num_answers = 0
        self._slope_of_copy = 1.0

    def add(self, batch: Batch) -> None:
        """Adds one batch of probabilities or labels."""
        clean, suspect = batch.clean, batch.suspect
        low, high, found, cells = self._meetings.among(batch)
        before, self._num_answers = self._num_answers, self._num_answers + len(batch)
        if not len(found):
            return
        self._met.append((cells, before + found + 1))
        clean, suspect, each = clean[found], suspect[found], np.arange(len(found))
        columns = [np.ones(len(found)), np.log(clean[each, low].astype(np.float64) / clean[each, high])]
        if batch.references is not None:
            logs = mean_logs(batch.references[found])
            columns.append(np.clip(logs[each, low] - logs[each, high], -CLIP, CLIP) * REFERENCE_SCALE)
        if suspect.ndim == 1:
            y = (suspect == low) * 1.0 - (suspect == high)
            self._slope_of_copy = 0.0  # a copy would always side with the larger one
        else:
            y = np.clip(floored_log(suspect[each, low]) - floored_log(suspect[each, high]), -CLIP, CLIP)
        self._answers.append((y, np.stack(columns, axis=1)))

    def residuals(self) -> Residuals:
        """R over everything added so far."""
        none = np.zeros(0, np.int64)
        cells, times = (np.concatenate([none, *parts]) for parts in zip((none, none), *self._met, strict=True))
        empty = np.zeros(0), np.zeros((0, self._num_regressors))
        y, rows = (np.concatenate(parts) for parts in zip(empty, *self._answers, strict=True))
        of_copy = np.zeros((self._num_regressors, 1))
        of_copy[1] = self._slope_of_copy
        left, shared = unexplained(rows, y[:, None], cells // HASH_SIZE, of_copy)
        values = np.zeros(self._num_cells)
        values[cells] = left[:, 0]
        table = values.reshape(-1, HASH_SIZE)
        return Residuals(table, len(cells), len(cells), float(shared[1, 0]), cells, times)
