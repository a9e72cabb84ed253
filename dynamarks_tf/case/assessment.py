"""From answers to an assessment: residuals are gathered, secret signs held against them by the rule of the plan.

`verify`, `dynamarks audit` and `dynamarks check` all call `assess`; NumPy only.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynamarks_tf.case.alignment import aligned
from dynamarks_tf.case.plan import TestPlan, next_point
from dynamarks_tf.case.plausibility import warnings_of
from dynamarks_tf.case.result import GrowthPoint, VerificationResult
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.channels import ChannelEvidence, channel_evidence
from dynamarks_tf.evidence.class_order import Confusion
from dynamarks_tf.evidence.kept_answers import KeepingAccumulator
from dynamarks_tf.evidence.meetings import MetBefore
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator, channel_obstacles
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.evidence.tracing import Exclusive, TracingAccumulator
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark.codebook import Codebook, expand
from dynamarks_tf.watermark.keyed_hash import KeyedHash

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Assessment:
    """What a suspect's answers say, before anybody is named.

    Attributes:
        residuals: the table of each channel that the answers can be tested in.
        channels: the secret signs held against them; empty without a codebook.
        log10_p: log10 of the p-value, all channels together; 0 if no channel can be tested.
        log10_e: log10 of the largest e-value so far, of a test by the rule of `evidence.anytime`; otherwise `None`.
        growth: the evidence after 10, 20, 50, 100 ... queries and after all; empty without a codebook.
        num_queries: how many inputs were answered.
        fidelity: share of answers in which suspect and clean owner model give the same best class.
        labels_only: whether every answer was a label, or a single 1 among zeros.
        pairs: the pairs of the class-choice channel whose secret signs were met; `None` if it was not gathered.
        confusion: how often the best classes of clean model and suspect met.
        clean_spread: by how much the clean model's probability of any class varies over the queries, at most; not
            followed any further once it is large.
        class_order: for each class of the owner, the suspect's, as the answers were aligned by it, -1 if it has none;
            `None` if they were not.
    """

    residuals: dict[str, Residuals]
    channels: tuple[ChannelEvidence, ...]
    log10_p: float
    log10_e: float | None
    growth: tuple[GrowthPoint, ...]
    num_queries: int
    fidelity: float
    labels_only: bool
    pairs: npt.NDArray[np.int32] | None
    confusion: Confusion
    clean_spread: float
    class_order: tuple[int, ...] | None


def accumulator_of(
    plan: TestPlan,
    keyed_hash: KeyedHash,
    pairs: npt.NDArray[np.int32] | None,
    met_before: MetBefore | None,
    parties: Sequence[Exclusive] | None,
) -> ResidualAccumulator:
    """What gathers the answers of a test; a `TracingAccumulator` or a `KeepingAccumulator` if clients are told apart.

    Args:
        plan: what was fixed.
        keyed_hash: which secret signs each output gets.
        pairs: the pairs of the class-choice channel.
        met_before: secret signs that count as met before the first query.
        parties: the secret signs of each client and group; `None` if clients are not told apart.
    """
    if plan.client_keys_sha256 is not None:
        return KeepingAccumulator(plan.channels, keyed_hash, plan.params)
    if parties is None:
        return ResidualAccumulator(
            plan.channels,
            keyed_hash,
            plan.params,
            pairs,
            num_fresh=plan.num_fresh,
            met_before=met_before,
            with_references=bool(plan.references),
        )
    return TracingAccumulator(plan.channels, keyed_hash, plan.params, pairs, met_before=met_before, parties=parties)


def codebook_of(plan: TestPlan, key: MarkKey) -> Codebook:
    """The codebook that a key gives for the owner model and the settings of a plan."""
    bound = key.bind(plan.owner_model_sha256) if plan.bound else key
    return expand(bound, plan.num_classes, plan.params, plan.num_labels)


def assess(
    answers: Iterable[tuple[Array, ...]],
    accumulator: ResidualAccumulator,
    codebook: Codebook | None,
    *,
    rule: str,
    looks: Sequence[int] = (),
    stop_at: float | None = None,
    align_classes: bool = False,
    watch: Callable[[int, float], None] | None = None,
) -> Assessment:
    """Gathers answers, and holds the secret signs against them.

    The signs are looked at for two things only: how the evidence grew, and the assessment at the end. Nothing that is
    gathered depends on them.

    Args:
        answers: clean and suspect answers, batch by batch: probabilities of shape `(n, ..., C)`, and the same, or class
            indices of shape `(n, ...)`; with R reference models, also their probabilities, `(n, ..., R, C)`.
        accumulator: gathers the residuals; new.
        codebook: the codebook that the model was marked with; `None` gathers residuals alone.
        rule: how signs are held against residuals, as the plan names it.
        looks: after how many queries the class channel is looked at, increasing; if empty, once, after all.
        stop_at: log10 of the p-value at which no more answers are taken; `None` takes all.
        align_classes: whether the suspect's order of classes is found from all answers first. Its answers may then have
            any number of classes.
        watch: is told after each batch how many queries were answered and what log10 p is.

    Example:

    >>> accumulator = ResidualAccumulator(("class",), book.keyed_hash, params, num_fresh=len(clean))
    >>> assess([(clean, suspect)], accumulator, book, rule=TAIL_RULE).log10_p
    -21.4
    """
    weigh = _Scales(codebook, rule, looks)
    growth: list[GrowthPoint] = []
    order = None
    if align_classes:
        order, answers = aligned(answers, accumulator.num_classes)
    for batch in answers:
        start, size = 0, len(batch[0])
        while start < size:
            done = accumulator.num_queries
            stop = min(size, start + min(next_point(done), weigh.next_look(done)) - done)
            accumulator.add(*(part[start:stop] for part in batch))
            start = stop
            if accumulator.num_queries in looks:
                weigh.look(accumulator.residuals())
            if codebook is not None and _is_point(accumulator.num_queries):
                found = weigh.now(accumulator.residuals())
                growth += [GrowthPoint(accumulator.num_queries, found.log10_p)] if found.channels else []
        if watch is not None or stop_at is not None:
            log10_p = weigh.now(accumulator.residuals()).log10_p
            if watch is not None:
                watch(accumulator.num_queries, log10_p)
            if stop_at is not None and log10_p <= stop_at:
                break
    residuals = accumulator.residuals()
    found = weigh.now(residuals)
    if found.channels and not (growth and growth[-1].num_queries == accumulator.num_queries):
        growth.append(GrowthPoint(accumulator.num_queries, found.log10_p))
    return Assessment(
        residuals,
        *found,
        tuple(growth),
        accumulator.num_queries,
        accumulator.fidelity,
        accumulator.labels_only,
        accumulator.pairs,
        accumulator.confusion,
        accumulator.clean_spread,
        order,
    )


def result_of(
    assessment: Assessment,
    plan: TestPlan,
    *,
    owner: str,
    suspect: str,
    suspect_sha256: str | None,
    tested_at: str,
    versions: dict[str, str],
) -> VerificationResult:
    """The result of a test: an assessment, what was fixed beforehand, and who and what it is about.

    Args:
        assessment: of the answers to all queries.
        plan: what was fixed beforehand.
        owner: who claims the model.
        suspect: what was tested.
        suspect_sha256: digest of its file or weights, if it has one.
        tested_at: when, ISO 8601 in UTC.
        versions: versions of the packages that took part.

    Raises:
        SuspectError: the answers can be tested in no channel of the plan; the message says why.
    """
    untested = untested_channels(plan, tuple(channel.channel for channel in assessment.channels))
    if not assessment.channels:
        raise no_evidence_from_labels(untested)
    return VerificationResult(
        log10_p=assessment.log10_p,
        log10_e=assessment.log10_e,
        channels=assessment.channels,
        untested=untested,
        growth=assessment.growth,
        plan=plan,
        owner=owner,
        key_id=plan.commitment[:16],
        suspect=suspect,
        suspect_sha256=suspect_sha256,
        answers="labels" if assessment.labels_only else "probabilities",
        fidelity=assessment.fidelity,
        class_order=assessment.class_order,
        warnings=warnings_of(plan, assessment.confusion, assessment.clean_spread),
        tested_at=tested_at,
        versions=versions,
    )


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
    form = {"fresh": plan.num_fresh > 0, "logged": plan.logged}
    planned = channel_obstacles(plan.params, plan.num_classes, **form, labels=plan.labels)
    with_labels = channel_obstacles(plan.params, plan.num_classes, **form, labels=True)
    answers_labels = any(planned[channel] is None for channel in planned if channel not in tested)
    reasons = {channel: (with_labels if answers_labels else planned)[channel] or "" for channel in planned}
    return {channel: reason for channel, reason in reasons.items() if channel not in tested}


class _Weighed(NamedTuple):
    """What the signs say: the evidence of each channel, log10 p and log10 e."""

    channels: tuple[ChannelEvidence, ...]
    log10_p: float
    log10_e: float | None


class _Scales:
    """Holds the secret signs of each channel against its residuals, by the rule of the plan."""

    def __init__(self, codebook: Codebook | None, rule: str, looks: Sequence[int]) -> None:
        self._codebook = codebook
        self._rule = rule
        self._planned = looks
        self._seen: list[Residuals] = []

    def next_look(self, count: int) -> int:
        """The first look after some number of queries."""
        return next((look for look in self._planned if look > count), sys.maxsize)

    def look(self, residuals: dict[str, Residuals]) -> None:
        """Keeps the class channel as it is now: a look counts from now on."""
        if "class" in residuals:
            self._seen.append(residuals["class"])

    def now(self, residuals: dict[str, Residuals]) -> _Weighed:
        """What is found; it leaves no trace."""
        if self._codebook is None or not residuals:
            return _Weighed((), 0.0, None)
        signs = self._codebook.signs
        if self._rule == anytime.RULE:
            channels, log10_e = anytime.evidence(residuals, signs, self._seen if self._planned else None)
            return _Weighed(channels, min(-log10_e, 0.0), log10_e)
        (only,) = (channel_evidence(name, signs(name), found) for name, found in residuals.items())
        return _Weighed((only,), only.log10_p, None)


def _is_point(count: int) -> bool:
    return count > 0 and next_point(count - 1) == count
