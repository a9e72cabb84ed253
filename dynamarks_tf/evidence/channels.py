"""Where signs meet residuals, on a lattice: the statistic and the p-value of each channel."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.exact_tail import log10_tail, on_lattice
from dynamarks_tf.evidence.residuals import Residuals

_FLOAT_ERROR = 1e-9  # of a T that was written down in steps times the size of a step


@dataclasses.dataclass(frozen=True)
class ChannelEvidence:
    """What one channel of the mark says about a suspect. Aggregates only; it gives no sign away.

    Attributes:
        channel: name of the channel: `"class"`, `"amplitude"`, `"class-choice"` or `"tie"`.
        log10_p: log10 of the exact p-value, at most 0.
        statistic: T = sum of sign times residual; as everywhere here, of residuals rounded to the lattice.
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
    steps, step = on_lattice(residuals.values)
    return _evidence(channel, steps, step, int((signs * steps).sum()), residuals)


def evidence_by(channel: str, signs: npt.NDArray[np.int8], residuals: Residuals, log10_p: float) -> ChannelEvidence:
    """The statistic of a channel beside a p-value of another rule, which takes the residuals as they are.

    Args:
        channel, signs, residuals: as for `channel_evidence`.
        log10_p: log10 of the p-value.
    """
    statistic, largest = float((signs * residuals.values).sum()), float(np.abs(residuals.values).sum())
    counts = residuals.num_queries, residuals.num_cells, residuals.slope
    return ChannelEvidence(channel, log10_p, statistic, largest, *counts)


def evidence_of_stated(
    channel: str, statistic: float, residuals: Residuals, *, tolerance: float = 0.0
) -> ChannelEvidence:
    """What follows from a statistic that has to be believed, since the signs are not known.

    Args:
        channel: name of the channel.
        statistic: T as it was stated.
        residuals: of the channel.
        tolerance: by how many steps of the lattice T may lie beside a value that it can take.

    Returns:
        The evidence for the nearest value that T can take.

    Raises:
        ValueError: no signs give such a T; the message says why.
    """
    steps, step = on_lattice(residuals.values)
    largest, stated = int(np.abs(steps).sum()), statistic / step
    tolerance += _FLOAT_ERROR * (1 + largest)
    if not abs(stated) <= largest + tolerance:
        raise ValueError(f"it lies beyond its largest possible value, {largest * step:.6g}")
    nearest = min(max(2 * round((stated + largest) / 2) - largest, -largest), largest)
    if abs(stated - nearest) > tolerance:
        raise ValueError(f"it is no sum of residuals that are whole multiples of {step:.6g}")
    return _evidence(channel, steps, step, nearest, residuals)


def _evidence(
    channel: str, steps: npt.NDArray[np.int64], step: float, statistic: int, residuals: Residuals
) -> ChannelEvidence:
    return ChannelEvidence(
        channel=channel,
        log10_p=log10_tail(steps, statistic),
        statistic=statistic * step,
        largest_possible=int(np.abs(steps).sum()) * step,
        num_queries=residuals.num_queries,
        num_cells=residuals.num_cells,
        slope=residuals.slope,
    )
