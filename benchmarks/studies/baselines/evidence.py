"""What the tests of the baselines have in common: p-values from decoy keys, and asking a suspect."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dynamarks_tf.suspects import as_suspect

Array = npt.NDArray[Any]

TAIL_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class BaselineEvidence:
    """The result of a baseline's test of one suspect.

    Attributes:
        log10_p: log10 of a valid p-value. One from decoy keys cannot fall below -log10(N + 1).
        asked: how many queries the suspect answered.
        statistic: the scheme's own figure.
        log10_p_extrapolated: log10 p read off a curve fitted to the decoys' statistics; no bound of anything. `None`
            if `log10_p` needs no decoys.
        log10_p_published: log10 p under the null that the authors state, where it differs. `None` otherwise.
    """

    log10_p: float
    asked: int
    statistic: float
    log10_p_extrapolated: float | None = None
    log10_p_published: float | None = None

    def to_dict(self) -> dict[str, float | int]:
        """Rounded values for JSON, without those that are `None`."""
        return {name: round(value, 3) for name, value in dataclasses.asdict(self).items() if value is not None}


class Baseline(Protocol):
    """A watermark that this project's is compared with."""

    def questions(self, inputs: Array, clean: Array) -> Array:
        """Indices of the queries that a suspect would be asked."""
        ...

    def evidence(self, inputs: Array, clean: Array, answers: Array) -> BaselineEvidence:
        """The test of the answers to queries that were asked."""
        ...


def rank_log10_p(statistic: float, decoys: Array) -> float:
    """log10 of (1 + number of decoys at least as large) / (1 + number of decoys).

    Valid for every suspect that depends on none of the keys, if the true key was drawn as the decoys were. Each rank of
    the true statistic is then equally likely.

    Args:
        statistic: of the true key.
        decoys: of the decoy keys, shape `(n,)`.

    Reference:
        B. Phipson and G. Smyth, Permutation P-values Should Never Be Zero, 2010.
    """
    return math.log10((1 + int(np.count_nonzero(decoys >= statistic))) / (1 + len(decoys)))


def extrapolated_log10_p(statistic: float, decoys: Array) -> float:
    """log10 p if the decoys' largest tenth goes on falling exponentially; an extrapolation, not a bound.

    Spectral power of noise is exponentially distributed, so an exponential is the natural curve for it. A normal tail
    would fall faster and favor the scheme. Below that tenth, the result is the rank p-value.

    Args:
        statistic: of the true key.
        decoys: of the decoy keys, shape `(n,)`.
    """
    threshold = float(np.quantile(decoys, 1 - TAIL_SHARE))
    excess = decoys[decoys > threshold] - threshold
    if statistic <= threshold or not len(excess) or excess.mean() <= 0:
        return rank_log10_p(statistic, decoys)
    share = len(excess) / len(decoys)
    return float(math.log10(share) - (statistic - threshold) / excess.mean() / math.log(10))


def ask(suspect: Any, inputs: Array, batch_size: int = 256) -> Array:
    """Answers of anything that `dynamarks_tf.verify` takes as a suspect, shape `(n, C)` or `(n,)`."""
    adapter = as_suspect(suspect)
    starts = range(0, len(inputs), batch_size)
    return np.concatenate([adapter.predict(inputs[start : start + batch_size]) for start in starts])


def log10_p(baseline: Baseline, suspect: Any, queries: Array, owner: Any, max_queries: int | None) -> float:
    """Asks a suspect those of `queries` that the scheme would ask, and tests its answers."""
    clean = ask(owner, queries)
    chosen = baseline.questions(queries, clean)[:max_queries]
    if not len(chosen):
        return 0.0
    return baseline.evidence(queries[chosen], clean[chosen], ask(suspect, queries[chosen])).log10_p
