"""Decoy keys: how well a suspect agrees with keys that cannot have influenced it.

The p-value needs no decoys: it is a proven bound. They show the reader what chance looks like. A decoy is a whole key,
made from a stated seed; its sign tables are compared with the same residuals as the owner's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.result import VerificationResult
from dynamarks_tf.evidence import anytime, e_process
from dynamarks_tf.evidence.bounds import log_cosh
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook

Array = npt.NDArray[Any]

NUM_DECOYS = 10_000
SEED = 0
BIN_WIDTH = 0.25
_CURVE_POINTS = 200
_AT_ONCE = 50


@dataclasses.dataclass(frozen=True)
class ChannelDecoys:
    """A channel's statistic T for the owner's key and for the decoys, in standard deviations of T for a random key.

    Attributes:
        channel: name of the channel.
        observed: T of the owner's key.
        furthest: the largest T of a decoy.
        first_bin: lower edge of the first bin of the histogram; each is `BIN_WIDTH` wide.
        counts: number of decoys in each bin.
    """

    channel: str
    observed: float
    furthest: float
    first_bin: float
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Decoys:
    """The owner's key among decoys.

    Attributes:
        num_keys: number of decoys.
        seed: the seed that they were made from.
        num_as_extreme: number of decoys whose p-value after all answers, of all channels together, is at most that of
            the owner's key.
        smallest_log10_p: log10 of the smallest p-value of a decoy.
        channels: the comparison for each channel.
    """

    num_keys: int
    seed: int
    num_as_extreme: int
    smallest_log10_p: float
    channels: tuple[ChannelDecoys, ...]


def compare(
    evidence: VerificationResult, residuals: Mapping[str, Residuals], *, num_keys: int = NUM_DECOYS, seed: int = SEED
) -> Decoys:
    """Compares the signs of decoy keys with the residuals of a suspect.

    Args:
        evidence: the result for the owner's key.
        residuals: the table of each channel that was tested.
        num_keys: number of decoys.
        seed: the seed to make them from.
    """
    statistics = decoy_statistics(evidence.plan, residuals, num_keys, seed)
    channels, log10_p = [], np.zeros(num_keys)
    by_e_process = evidence.plan.rule == anytime.RULE
    for channel in evidence.channels:
        table, decoys = residuals[channel.channel], statistics[channel.channel]
        if by_e_process:
            log10_p -= log10_e_of(table, decoys)
        else:
            log10_p = log10_p_of(table.values, decoys[0])
        deviation = math.sqrt(float((table.values**2).sum())) or 1.0
        channels.append(_histogram(channel.channel, channel.statistic / deviation, decoys[0] / deviation))
    log10_p = np.minimum(log10_p, 0.0)
    num_as_extreme = int((log10_p <= evidence.log10_p).sum())
    return Decoys(num_keys, seed, num_as_extreme, round(float(log10_p.min()), 2), tuple(channels))


def decoy_statistics(
    plan: TestPlan, residuals: Mapping[str, Residuals], num_keys: int, seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """T of each decoy key for each channel, and the same sum over standardized residuals, shape `(2, num_keys)`.

    Decoy i is the key whose 32 bytes are the SHA-256 of `dynamarks decoy SEED/i`.
    """
    params = plan.params
    met = {channel: _met(table) for channel, table in residuals.items()}
    values = {channel: _values(table).T for channel, table in residuals.items()}
    statistics: dict[str, list[Array]] = {channel: [] for channel in residuals}
    for start in range(0, num_keys, _AT_ONCE):
        names = [f"dynamarks decoy {seed}/{index}" for index in range(start, min(start + _AT_ONCE, num_keys))]
        keys = [MarkKey(hashlib.sha256(name.encode()).digest(), "decoy", created="-") for name in names]
        for channel, cells in met.items():
            tables = (codebook.channel_signs(key, channel, plan.num_classes, params) for key in keys)
            signs = np.stack([table.ravel()[cells] for table in tables])
            statistics[channel].append(signs @ values[channel])
    return {channel: np.concatenate(parts).T for channel, parts in statistics.items()}


def log10_e_of(table: Residuals, statistics: Array) -> npt.NDArray[np.float64]:
    """log10 of the e-value of each decoy after all answers.

    Args:
        table: the residuals.
        statistics: as `decoy_statistics` gives them, shape `(2, n)`.
    """
    return e_process.log_e_of_sums(statistics[1], _values(table)[1]) / math.log(10)


def _met(table: Residuals) -> Array:
    """The signs that were met, in the order in which they were, if that counts."""
    return np.flatnonzero(table.values) if table.cells is None else table.cells


def _values(table: Residuals) -> Array:
    """Their residuals, and the standardized ones, shape `(2, n)`."""
    values = table.values.ravel()[_met(table)]
    scaled = e_process.of_unit_size(values) if table.cells is None else e_process.standardized(values)
    return np.stack([values, scaled])


def log10_p_of(residuals: Array, statistics: Array) -> npt.NDArray[np.float64]:
    """The p-values of many statistics over the same residuals, equal to those of `chernoff_log10_p`, but faster.

    They are read off a curve, on which all bounds lie: over theta, t = sum r tanh(theta r) and
    ln p = sum log cosh(theta r) - theta t.

    Args:
        residuals: R, any shape.
        statistics: values of T, shape `(n,)`.

    Returns:
        log10 of p, shape `(n,)`.
    """
    r = np.abs(residuals[residuals != 0])
    furthest = float(statistics.max(initial=0))
    if r.size == 0 or furthest <= 0:
        return np.zeros(len(statistics))
    scale = r.max()
    r = r / scale
    most = min(furthest / scale, r.sum() * (1 - 1e-9))
    first = theta = 0.01 / math.sqrt(float((r**2).sum()))
    while (r * np.tanh(theta * r)).sum() < most:
        theta *= 1.5
    curve = [(0.0, 0.0)]
    for point in np.geomspace(first, theta, _CURVE_POINTS):
        t = float((r * np.tanh(point * r)).sum())
        curve.append((t, float(log_cosh(point * r).sum()) - point * t))
    places, exponents = np.array(curve).T
    return np.asarray(np.interp(statistics / scale, places, exponents) / math.log(10))


def _histogram(channel: str, observed: float, decoys: Array) -> ChannelDecoys:
    bins = np.floor(decoys / BIN_WIDTH).astype(int)
    counts = np.bincount(bins - bins.min())
    return ChannelDecoys(
        channel,
        round(observed, 2),
        round(float(decoys.max()), 2),
        float(bins.min() * BIN_WIDTH),
        tuple(int(count) for count in counts),
    )
