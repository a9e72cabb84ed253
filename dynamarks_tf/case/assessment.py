"""From tables to a verdict: the channels' signs are held against what was collected, and the p-values are combined.

`verify` and `dynamarks check` run these same lines; NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.result import Evidence, GrowthPoint
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.evidence.bounds import combined_log10_p
from dynamarks_tf.evidence.channels import ChannelEvidence, channel_evidence
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator, planned_channels
from dynamarks_tf.evidence.residuals import Array, Residuals
from dynamarks_tf.watermark.codebook import Codebook

_FIRST_POINT = 10


class Assessment:
    """Judges a suspect by a codebook, and follows how the evidence grows with the queries.

    Args:
        book: the codebook that the model was marked with.
    """

    def __init__(self, book: Codebook) -> None:
        self._book = book
        self._growth: list[GrowthPoint] = []

    def follow(self, collection: ResidualAccumulator, clean: Array, suspect: Array) -> None:
        """Adds a batch to a collection, and notes the evidence after 10, 20, 50, 100, 200 ... queries.

        Args:
            collection: what was collected so far.
            clean: the clean owner model's probabilities, shape `(n, ..., C)`.
            suspect: the suspect's probabilities, the same shape, or class indices, shape `(n, ...)`.
        """
        start = 0
        while start < len(clean):
            stop = min(len(clean), start + _next_point(collection.num_queries) - collection.num_queries)
            collection.add(clean[start:stop], suspect[start:stop])
            start = stop
            if _is_point(collection.num_queries):
                self._note(collection)

    @property
    def growth(self) -> tuple[GrowthPoint, ...]:
        """The evidence after 10, 20, 50, 100 ... queries, as far as `follow` has come."""
        return tuple(self._growth)

    def channels(self, residuals: dict[str, Residuals]) -> tuple[ChannelEvidence, ...]:
        """Holds the signs of each channel against its residuals."""
        return tuple(channel_evidence(name, self._book.signs(name), found) for name, found in residuals.items())

    def evidence(
        self,
        collection: ResidualAccumulator,
        plan: TestPlan,
        *,
        owner: str,
        suspect: str,
        suspect_sha256: str | None,
        tested_at: str,
        versions: dict[str, str],
    ) -> Evidence:
        """Judges what was collected.

        Args:
            collection: the answers to all queries.
            plan: what was fixed beforehand.
            owner: who claims the model.
            suspect: what was tested.
            suspect_sha256: digest of its file or weights, if it has one.
            tested_at: when, ISO 8601 in UTC.
            versions: versions of the packages that took part.

        Raises:
            SuspectError: the answers can be tested in no channel of the plan; the message says why.
        """
        channels = self.channels(collection.residuals())
        untested = untested_channels(plan, tuple(channel.channel for channel in channels))
        if not channels:
            raise no_evidence_from_labels(untested)
        if not self._growth or self._growth[-1].num_queries != collection.num_queries:
            self._note(collection)
        return Evidence(
            log10_p=combined_log10_p([channel.log10_p for channel in channels]),
            channels=channels,
            untested=untested,
            growth=tuple(self._growth),
            plan=plan,
            owner=owner,
            key_id=plan.commitment[:16],
            suspect=suspect,
            suspect_sha256=suspect_sha256,
            answers="labels" if collection.labels_only else "probabilities",
            fidelity=collection.fidelity,
            tested_at=tested_at,
            versions=versions,
        )

    def _note(self, collection: ResidualAccumulator) -> None:
        log10_p = [channel.log10_p for channel in self.channels(collection.residuals())]
        if log10_p:
            self._growth.append(GrowthPoint(collection.num_queries, combined_log10_p(log10_p)))


def no_evidence_from_labels(reasons: Mapping[str, str | None]) -> SuspectError:
    """Makes the error for a suspect whose labels can be tested in no channel.

    Args:
        reasons: why not, for each channel.
    """
    listed = "; ".join(f"{channel} channel: {reason}" for channel, reason in reasons.items() if reason)
    return SuspectError(
        f"The suspect answers labels, not probabilities, so there is no evidence to be had. {listed}. Ask it for its "
        "probabilities (another signature, output or endpoint), put them within reach by a callable, or ask what "
        "clients of an API marked with tie_margin above 0 sent (logged=True)."
    )


def untested_channels(plan: TestPlan, tested: tuple[str, ...]) -> dict[str, str]:
    """Why each of the other channels was not tested: the settings, or that the suspect turned out to answer labels."""
    planned = planned_channels(plan.params, plan.num_classes, logged=plan.logged, labels=plan.labels)
    with_labels = planned_channels(plan.params, plan.num_classes, logged=plan.logged, labels=True)
    reasons = {channel: planned[channel] or with_labels[channel] or "" for channel in planned}
    return {channel: reason for channel, reason in reasons.items() if channel not in tested}


def _next_point(count: int) -> int:
    """The smallest of 10, 20, 50, 100, 200, 500 ... above `count`."""
    decade = _FIRST_POINT
    while 5 * decade <= count:
        decade *= 10
    return next(factor * decade for factor in (1, 2, 5) if factor * decade > count)


def _is_point(count: int) -> bool:
    return count > 0 and _next_point(count - 1) == count
