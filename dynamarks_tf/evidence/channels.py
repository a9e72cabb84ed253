"""Where signs meet residuals: the statistic and the p-value of each channel."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.bounds import chernoff_log10_p


@dataclasses.dataclass(frozen=True)
class ChannelEvidence:
    """What one channel of the mark says about a suspect. Aggregates only; it gives no sign away.

    Attributes:
        channel: name of the channel, such as `"class"`.
        log10_p: log10 of the exact p-value, at most 0.
        statistic: T = sum of sign times residual.
        largest_possible: sum of |residual|: the value of T if every sign agreed.
        num_cells: how many cells of the table hold at least one query.
    """

    channel: str
    log10_p: float
    statistic: float
    largest_possible: float
    num_cells: int

    @property
    def agreement(self) -> float:
        """T over its largest possible value, from -1 to 1; about 0 for an innocent suspect."""
        return self.statistic / self.largest_possible if self.largest_possible > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "agreement": self.agreement}


def channel_evidence(
    channel: str, signs: npt.NDArray[np.int8], residuals: npt.NDArray[np.float64], num_cells: int
) -> ChannelEvidence:
    """Holds a channel's signs against its residuals.

    Args:
        channel: name of the channel.
        signs: fair coins -1/+1 that only the key knows.
        residuals: residuals of the same shape, computed without the signs.
        num_cells: how many cells hold at least one query.
    """
    statistic = float((signs * residuals).sum())
    return ChannelEvidence(
        channel, chernoff_log10_p(residuals, statistic), statistic, float(np.abs(residuals).sum()), num_cells
    )
