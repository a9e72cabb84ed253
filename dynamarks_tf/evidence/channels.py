"""Where signs meet residuals: the statistic and the p-value of each channel."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.bounds import chernoff_log10_p
from dynamarks_tf.evidence.residuals import Residuals


@dataclasses.dataclass(frozen=True)
class ChannelEvidence:
    """What one channel of the mark says about a suspect. Aggregates only; it gives no sign away.

    Attributes:
        channel: name of the channel: `"class"`, `"amplitude"`, `"class-choice"` or `"tie"`.
        log10_p: log10 of the exact p-value, at most 0.
        statistic: T = sum of sign times residual.
        largest_possible: sum of |residual|: the value of T if every sign agreed.
        num_queries: how many queries had something to say about the channel.
        num_cells: how many secret signs they met.
        slope: how closely the suspect follows the clean owner model in what the channel looks at (1: as its copy).
    """

    channel: str
    log10_p: float
    statistic: float
    largest_possible: float
    num_queries: int
    num_cells: int
    slope: float

    @property
    def agreement(self) -> float:
        """T over its largest possible value, from -1 to 1; about 0 for an independent model."""
        return self.statistic / self.largest_possible if self.largest_possible > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "agreement": self.agreement}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ChannelEvidence:
        """Reads what `to_dict` wrote."""
        return cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})


def channel_evidence(channel: str, signs: npt.NDArray[np.int8], residuals: Residuals) -> ChannelEvidence:
    """Holds a channel's signs against its residuals.

    Args:
        channel: name of the channel.
        signs: the secret signs, fair and independent, -1 or +1.
        residuals: of the same shape, computed without the signs.
    """
    statistic = float((signs * residuals.values).sum())
    return statistic_of(channel, signs, residuals, chernoff_log10_p(residuals.values, statistic))


def statistic_of(channel: str, signs: npt.NDArray[np.int8], residuals: Residuals, log10_p: float) -> ChannelEvidence:
    """The statistic of a channel beside the p-value that it has by some rule.

    Args:
        channel, signs, residuals: as for `channel_evidence`.
        log10_p: log10 of the p-value.
    """
    statistic = float((signs * residuals.values).sum())
    return ChannelEvidence(
        channel=channel,
        log10_p=log10_p,
        statistic=statistic,
        largest_possible=float(np.abs(residuals.values).sum()),
        num_queries=residuals.num_queries,
        num_cells=residuals.num_cells,
        slope=residuals.slope,
    )
