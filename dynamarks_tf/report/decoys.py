"""Decoy keys: how well a suspect agrees with keys that cannot have influenced it.

The p-value needs no decoys: it is proven. They show the reader what chance looks like. A decoy is a whole key,
made from a stated seed; its sign tables are compared with the same residuals as the owner's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.result import VerificationResult
from dynamarks_tf.evidence import anytime, e_process
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
    weights = weights_of(residuals, evidence.plan.rule)
    statistics = decoy_statistics(evidence.plan, weights, num_keys, seed)
    channels, log10_p = [], np.zeros(num_keys)
    for channel in evidence.channels:
        weight, decoys = weights[channel.channel], statistics[channel.channel]
        log10_p += weight.log10_p(decoys)
        deviation = math.sqrt(float((weight.plain**2).sum())) or 1.0
        channels.append(
            _histogram(channel.channel, channel.statistic / (weight.step * deviation), decoys[0] / deviation)
        )
    log10_p = np.minimum(log10_p, 0.0)
    num_as_extreme = int((log10_p <= evidence.log10_p).sum())
    return Decoys(num_keys, seed, num_as_extreme, round(float(log10_p.min()), 2), tuple(channels))


class Weights(NamedTuple):
    """What the signs of a channel are multiplied by.

    Attributes:
        cells: the signs that count, ints of shape `(n,)`.
        plain: the residuals, shape `(n,)`; by the rule of the tail, in whole steps.
        scaled: those that the e-value is made of, shape `(n,)`; `None` by the rule of the tail.
        step: the unit of `plain`.
    """

    cells: Array
    plain: Array
    scaled: Array | None
    step: float

    @classmethod
    def of(cls, table: Residuals, rule: str) -> Weights:
        """Those of a channel by a rule."""
        if rule == anytime.RULE:
            cells = np.flatnonzero(table.values) if table.cells is None else table.cells
            plain = table.values.ravel()[cells]
            scaled = e_process.of_unit_size(plain) if table.cells is None else e_process.standardized(plain)
            return cls(cells, plain, scaled, 1.0)
        steps, step = on_lattice(table.values)
        cells = np.flatnonzero(steps)
        return cls(cells, steps.ravel()[cells].astype(float), None, step)  # floats multiply faster

    def log10_p(self, statistics: Array) -> npt.NDArray[np.float64]:
        """log10 of the p-value after all answers, before channels are multiplied: those of e-values may exceed 0."""
        if self.scaled is None:
            return log10_tails(self.plain.astype(np.int64), statistics[0])
        return np.asarray(-e_process.log_e_of_sums(statistics[1], self.scaled) / math.log(10))


def weights_of(residuals: Mapping[str, Residuals], rule: str) -> dict[str, Weights]:
    """What the signs of each channel are multiplied by, by the rule of a plan."""
    return {channel: Weights.of(table, rule) for channel, table in residuals.items()}


def decoy_statistics(
    plan: TestPlan, weights: Mapping[str, Weights], num_keys: int, seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """The sums of sign times weight of each decoy key for each channel, shape `(2, num_keys)`: plain and scaled.

    Decoy i is the key whose 32 bytes are the SHA-256 of `dynamarks decoy SEED/i`.
    """
    params = plan.params
    factors = {
        channel: np.stack([w.plain, w.plain if w.scaled is None else w.scaled], 1) for channel, w in weights.items()
    }
    statistics: dict[str, list[Array]] = {channel: [] for channel in weights}
    for start in range(0, num_keys, _AT_ONCE):
        names = [f"dynamarks decoy {seed}/{index}" for index in range(start, min(start + _AT_ONCE, num_keys))]
        keys = [MarkKey(hashlib.sha256(name.encode()).digest(), "decoy", created="1970-01-01") for name in names]
        for channel, weight in weights.items():
            tables = (codebook.channel_signs(key, channel, plan.num_classes, params, plan.num_labels) for key in keys)
            signs = np.stack([table.ravel()[weight.cells] for table in tables])
            statistics[channel].append(signs @ factors[channel])
    return {channel: np.concatenate(parts).T for channel, parts in statistics.items()}


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
