"""One suspect of an audit, tested in every way that `verify` could: fresh queries, logged ones, labels only.

The assessment is that of `verify`. Clean answers are computed once for all suspects, and there is no plan to publish.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from dynamarks_tf.case.assessment import assess
from dynamarks_tf.case.plan import rule_of
from dynamarks_tf.case.result import DEFAULT_ALPHA, GrowthPoint, queries_needed
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator, testable_channels
from dynamarks_tf.keys.key import BoundKey
from dynamarks_tf.suspects.queries import confident_balanced_choice
from dynamarks_tf.verification.choosing import fresh_share
from dynamarks_tf.watermark import codebook, metrics
from dynamarks_tf.watermark.params import MarkParams

Array = npt.NDArray[Any]
Answering = Callable[[Array], Array]

FRESH_COUNTS = (10, 100, 1000)
_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Finding:
    """The evidence against one suspect from one set of queries.

    Attributes:
        log10_p: log10 of the exact p-value, all channels together.
        channels: the same for each channel.
        queries_needed: how many of the queries would have been enough for p <= 1e-6; `None` if all were not.
    """

    log10_p: float
    channels: dict[str, float]
    queries_needed: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "log10_p": round(self.log10_p, 3),
            "channels": {name: round(value, 3) for name, value in self.channels.items()},
            "queries_needed": self.queries_needed,
        }


class Examiner:
    """Examines suspects for one mark.

    Args:
        key: the key of the mark, bound to the clean model as `mark` binds it.
        params: its settings.
        clean: the clean owner model, from inputs of shape `(n, ...)` to probabilities of shape `(n, C)`.
        fresh: inputs that were never sent, shape `(n, ...)`, with their true class indices, shape `(n,)`.
        seed: seed of the choice of fresh queries.
        counts: how many fresh queries are asked, in turn.
    """

    def __init__(
        self,
        key: BoundKey,
        params: MarkParams,
        clean: Answering,
        fresh: tuple[Array, Array],
        *,
        seed: int = 0,
        counts: Sequence[int] = FRESH_COUNTS,
    ) -> None:
        self._params = params
        self._clean = clean
        self._fresh, self._labels = fresh
        self._fresh_clean = clean(self._fresh)
        self._num_classes = self._fresh_clean.shape[1]
        self._codebook = codebook.expand(key, self._num_classes, params)
        top, confidence = self._fresh_clean.argmax(axis=1), self._fresh_clean.max(axis=1)
        self._chosen = {
            count: confident_balanced_choice(top, confidence, count, seed) for count in counts if count <= len(top)
        }
        beside = fresh_share(None, self._num_classes)
        self._beside_log = confident_balanced_choice(top, confidence, beside, seed)
        self._logged: tuple[Array, Array] | None = None

    def examine(self, suspect: Answering, sent: Array | None) -> dict[str, Any]:
        """Examines one suspect.

        Args:
            suspect: from inputs of shape `(n, ...)` to probabilities of shape `(n, C)`.
            sent: what the attacker sent to the marked API, shape `(m, ...)`; `None` leaves logged queries out.

        Returns:
            `accuracy` and `fidelity` on the fresh inputs, and a finding for each of `"10 fresh"` ..., `"logged"` (what
            was sent, and a few fresh ones beside it), `"logged, labels"`, as plain values.
        """
        answers, nothing = suspect(self._fresh), (self._fresh_clean[:0], self._fresh_clean[:0])

        def fresh(rows: Array) -> tuple[Array, Array]:
            return self._fresh_clean[rows], answers[rows]

        found = {f"{count} fresh": self._assessed(fresh(rows), nothing) for count, rows in self._chosen.items()}
        if sent is not None:
            expected, given = self._clean_answers(sent), suspect(sent)
            found["logged"] = self._assessed(fresh(self._beside_log), (expected, given))
            if self._params.tie_margin:
                found["logged, labels"] = self._assessed(nothing, (expected, given.argmax(axis=1)))
        return {
            "accuracy": metrics.accuracy(answers, self._labels),
            "fidelity": metrics.fidelity(answers, self._fresh_clean),
            "findings": {name: finding.to_dict() for name, finding in found.items()},
        }

    def _assessed(self, fresh: tuple[Array, Array], logged: tuple[Array, Array]) -> Finding:
        """Evidence from clean and suspect answers to queries of both kinds."""
        form = {"fresh": len(fresh[0]) > 0, "logged": len(logged[0]) > 0, "labels": logged[1].ndim == 1}
        channels = testable_channels(self._params, self._num_classes, **form)
        book = self._codebook
        gathered = channels, book.keyed_hash, self._params, book.contrasts()
        accumulator = ResidualAccumulator(*gathered, num_fresh=len(fresh[0]))
        batches = (
            (clean[start : start + _BATCH], suspect[start : start + _BATCH])
            for clean, suspect in (fresh, logged)
            for start in range(0, len(clean), _BATCH)
        )
        found = assess(batches, accumulator, book, rule=rule_of(logged=form["logged"], sequential=False))
        growth = found.growth or (GrowthPoint(found.num_queries, found.log10_p),)
        by_channel = {channel.channel: channel.log10_p for channel in found.channels}
        return Finding(found.log10_p, by_channel, queries_needed(growth, DEFAULT_ALPHA))

    def _clean_answers(self, sent: Array) -> Array:
        """The clean answers to what was sent; those to the last set are kept."""
        if self._logged is None or self._logged[0] is not sent:
            self._logged = sent, self._clean(sent)
        return self._logged[1]
