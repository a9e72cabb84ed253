"""Decoy keys: how well a suspect agrees with keys that cannot have influenced it.

The p-value needs no decoys: it is proven. They show the reader what chance looks like. A decoy is a whole key,
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
from dynamarks_tf.evidence.bounds import combined_log10_p
from dynamarks_tf.evidence.exact_tail import log10_tails, on_lattice
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook

Array = npt.NDArray[Any]

NUM_DECOYS = 10_000
SEED = 0
BIN_WIDTH = 0.25
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
        num_as_extreme: number of decoys whose p-value, all channels combined, is at most that of the owner's key.
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
    channels, log10_p = [], []
    for channel in evidence.channels:
        steps, step = on_lattice(residuals[channel.channel].values)
        decoys = statistics[channel.channel]
        log10_p.append(log10_tails(steps, decoys))
        deviation = math.sqrt(float((steps.astype(float) ** 2).sum())) or 1.0
        channels.append(_histogram(channel.channel, channel.statistic / (step * deviation), decoys / deviation))
    combined = np.array([combined_log10_p(each) for each in zip(*log10_p, strict=True)])
    num_as_extreme = int((combined <= evidence.log10_p).sum())
    return Decoys(num_keys, seed, num_as_extreme, round(float(combined.min()), 2), tuple(channels))


def decoy_statistics(
    plan: TestPlan, residuals: Mapping[str, Residuals], num_keys: int, seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """T of each decoy key for each channel in steps of its lattice, whole numbers of shape `(num_keys,)`.

    Decoy i is the key whose 32 bytes are the SHA-256 of `dynamarks decoy SEED/i`.
    """
    params = plan.params
    tables = {channel: on_lattice(table.values)[0].ravel() for channel, table in residuals.items()}
    met = {channel: np.flatnonzero(table) for channel, table in tables.items()}
    steps = {channel: tables[channel][cells].astype(float) for channel, cells in met.items()}  # floats multiply faster
    statistics: dict[str, list[Array]] = {channel: [] for channel in residuals}
    for start in range(0, num_keys, _AT_ONCE):
        names = [f"dynamarks decoy {seed}/{index}" for index in range(start, min(start + _AT_ONCE, num_keys))]
        keys = [MarkKey(hashlib.sha256(name.encode()).digest(), "decoy", created="-") for name in names]
        for channel, cells in met.items():
            drawn = (codebook.channel_signs(key, channel, plan.num_classes, params) for key in keys)
            signs = np.stack([table.ravel()[cells] for table in drawn])
            statistics[channel].append(signs @ steps[channel])
    return {channel: np.concatenate(parts) for channel, parts in statistics.items()}


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
