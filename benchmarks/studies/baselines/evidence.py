"""What the tests of the baselines have in common: questions, p-values from decoy keys, and asking a suspect."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import hmac
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dynamarks_tf.suspects import as_suspect

Array = npt.NDArray[Any]

TAIL_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Questions:
    """Inputs, and what the owner knows about them.

    Attributes:
        inputs: shape `(n, ...)`.
        clean: answers of the clean owner model, shape `(n, C)`.
        labels: true classes, shape `(n,)`; `None` for logged requests, whose classes nobody states.
    """

    inputs: Array
    clean: Array
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, which: Array | slice) -> Questions:
        """Some of them."""
        return Questions(self.inputs[which], self.clean[which], None if self.labels is None else self.labels[which])


@dataclasses.dataclass(frozen=True)
class BaselineEvidence:
    """The result of a baseline's test of one suspect.

    Attributes:
        log10_p: log10 of a p-value; `None` for a scheme that has none. One from decoy keys cannot fall below
            -log10(N + 1).
        asked: how many queries the suspect answered.
        statistic: the scheme's own figure.
        detected: the verdict of a scheme that compares its figure with a threshold. `None` otherwise.
        log10_p_extrapolated: log10 p read off a curve fitted to the decoys' statistics; no bound of anything. `None`
            if `log10_p` needs no decoys.
        log10_p_published: log10 p under the null that the authors state, where it differs. `None` otherwise.
    """

    log10_p: float | None
    asked: int
    statistic: float
    detected: bool | None = None
    log10_p_extrapolated: float | None = None
    log10_p_published: float | None = None

    def to_dict(self) -> dict[str, float | int]:
        """Rounded values for JSON, without those that are `None`."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


class Baseline(Protocol):
    """A watermark or a fingerprint that this project's mark is compared with.

    Attributes:
        asks: what its questions come from, `"fresh"` inputs or `"logged"` ones, or both.
        takes_labels: whether a suspect may answer labels.
    """

    asks: tuple[str, ...]
    takes_labels: bool

    def questions(self, pool: Questions) -> Questions:
        """What a suspect would be asked, given the inputs at hand."""
        ...

    def evidence(self, questions: Questions, answers: Array) -> BaselineEvidence:
        """The test of the answers to such questions."""
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


def labels_of(answers: Array) -> Array:
    """Class indices, shape `(n,)`, of probabilities or of class indices."""
    return answers if answers.ndim == 1 else answers.argmax(axis=1)


def ask(suspect: Any, inputs: Array, batch_size: int = 256) -> Array:
    """Answers of anything that `dynamarks_tf.verify` takes as a suspect, shape `(n, C)` or `(n,)`."""
    adapter = as_suspect(suspect)
    starts = range(0, len(inputs), batch_size)
    return np.concatenate([adapter.predict(inputs[start : start + batch_size]) for start in starts])


def digests(secret: bytes, inputs: Array) -> list[bytes]:
    """A keyed hash of each input: HMAC-SHA256 of its bytes as float32."""
    return [hmac.digest(secret, row.tobytes(), hashlib.sha256) for row in np.ascontiguousarray(inputs, np.float32)]


class MarkedApi(abc.ABC):
    """A prediction API whose answers a baseline computes outside the graph."""

    def __call__(self, inputs: Array) -> Array:
        """Answers one batch."""
        return self.predict(inputs, batch_size=max(1, len(inputs)))

    @abc.abstractmethod
    def predict(self, inputs: Array, batch_size: int = 256, verbose: int = 0) -> Array:
        """Marked probabilities, shape `(n, C)`."""
