"""Asking: clean and suspect answers to the planned queries, batch by batch, each checked and written down."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf._support.digests import ArrayDigest, query_digest
from dynamarks_tf.case.assessment import no_evidence_from_labels
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.transcript import Transcript, TranscriptBatch, now
from dynamarks_tf.case.transcript_chain import Block, Continued
from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.evidence import answers
from dynamarks_tf.evidence.residual_accumulator import channel_obstacles
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.seal import Seal
from dynamarks_tf.suspects import Suspect, as_suspect
from dynamarks_tf.suspects.answer_forms import as_array, as_table
from dynamarks_tf.suspects.answer_sizes import expected_values
from dynamarks_tf.suspects.queries import QuerySource
from dynamarks_tf.verification.blocks import in_blocks
from dynamarks_tf.verification.choosing import Chosen
from dynamarks_tf.verification.options import BundleOptions, SuspectOptions
from dynamarks_tf.verification.owner import Owner
from dynamarks_tf.verification.rate_limiter import RateLimiter
from dynamarks_tf.verification.references import References

Array = npt.NDArray[Any]

PARTIAL_SUFFIX = ".partial"


@contextlib.contextmanager
def opened(suspect: Any, options: SuspectOptions, queries: QuerySource, owner: Owner) -> Iterator[Suspect]:
    """The suspect's adapter, so that a wrong address shows at once; closed afterwards, unless the caller made it."""
    adapter = as_suspect(
        suspect,
        queries=queries,
        signature=options.signature,
        output=options.output,
        input=options.input,
        datatype=options.datatype,
        timeout_s=options.timeout_s,
        api_key_header=options.api_key_header,
        most_values=expected_values(options.batch_size, owner.num_values),
        run_untrusted_code=options.run_untrusted_code,
    )
    try:
        yield adapter
    finally:
        if adapter is not suspect:
            adapter.close()


@contextlib.contextmanager
def transcript_of(
    bundle: BundleOptions | None,
    key: MarkKey,
    plan: TestPlan,
    suspect: str,
    suspect_sha256: str | None,
    batch_size: int,
    blocks: Sequence[Block] | None = None,
    continued: Continued | None = None,
) -> Iterator[Transcript | None]:
    """The transcript that becomes the bundle, in a folder beside it; `None` if no bundle is wanted.

    Raises:
        TranscriptError: the folder holds another interrupted test.
    """
    if bundle is None:
        yield None
        return
    transcript = Transcript(
        Path(f"{bundle.path}{PARTIAL_SUFFIX}"),
        plan,
        suspect,
        batch_size,
        suspect_sha256=suspect_sha256,
        seal=Seal(key),
        keep_queries=bundle.include_queries,
        blocks=blocks,
        continued=continued,
    )
    try:
        yield transcript
    except SuspectError as error:
        raise SuspectError(
            f"{error} The answers so far are kept in {transcript.folder}; the same call goes on from there."
        ) from error
    finally:
        transcript.close()


def ask(
    suspect: Suspect,
    owner: Owner,
    chosen: Chosen,
    plan: TestPlan,
    options: SuspectOptions,
    transcript: Transcript | None,
    *,
    references: References,
    verbose: bool = False,
) -> Iterator[tuple[Array, ...]]:
    """Yields clean and suspect answers to all queries of the plan.

    Args:
        suspect: the suspect, opened.
        owner: the owner's side.
        chosen: the queries.
        plan: what was fixed.
        options: how the suspect is asked.
        transcript: where the answers are written down; those that are there already are not asked again.
        references: the reference models.
        verbose: whether to show progress.

    Yields:
        The clean model's probabilities, shape `(n, ..., C)`, and the suspect's, the same shape, or its class indices,
        shape `(n, ...)`; with R reference models, also their probabilities, shape `(n, ..., R, C)`.

    Raises:
        ArgumentError: the queries are not those of the plan, when they are read again.
        SuspectError: the suspect cannot be asked, or its answers are no evidence.
    """
    batch_size = options.batch_size if transcript is None else transcript.batch_size
    limiter, form, digest, done = RateLimiter(options.rate), _AnswerForm(plan), ArrayDigest(), 0
    batches, total = chosen.source.batches(batch_size), -(-chosen.count // batch_size)
    if chosen.blocks is not None:
        ends = itertools.accumulate(block.rows for block in chosen.blocks)
        batches, total = in_blocks(batches, tuple(ends)), len(chosen.blocks)
    for index, batch in enumerate(progress.track(batches, "asking the suspect", total, enabled=verbose)):
        digest.update(batch)
        if chosen.blocks is not None and query_digest(batch) != chosen.blocks[index].queries_sha256:
            raise _other_queries(transcript)
        kept = None if transcript is None else transcript.recorded(batch)
        asked_at = ""
        if kept is None:
            known = chosen.clean
            clean = owner.answers(batch) if known is None else known.rows(done, done + len(batch))
            beside = references.answers(batch)
            limiter.wait(len(batch))
            asked_at = now()
            answered = TranscriptBatch(clean, _answers(suspect, batch, clean, plan, options), None, beside)
        else:
            answered = kept
        form.check(answered.suspect, answered.clean)
        if kept is None and transcript is not None:
            transcript.add(batch, *answered.answers, asked_at=asked_at)
        done += len(batch)
        yield answered.answers
    if chosen.blocks is None and digest.hexdigest() != plan.queries_sha256:
        raise _other_queries(transcript)
    form.check_understood(options)


def _other_queries(transcript: Transcript | None) -> ArgumentError:
    if transcript is not None:  # worthless: its plan is about other queries
        shutil.rmtree(transcript.folder, ignore_errors=True)
    return ArgumentError(
        "`queries` gave other inputs when they were read again, so what was asked is not what was fixed before. "
        "Remove the shuffling: dataset.shuffle(..., reshuffle_each_iteration=False)"
    )


def _answers(suspect: Suspect, batch: Array, clean: Array, plan: TestPlan, options: SuspectOptions) -> Array:
    given = as_array(suspect.predict(batch.copy()), len(batch))  # a callable may work on its input in place
    given, classes = as_table(
        given,
        plan.num_classes,
        scale=options.scale,
        class_names=options.class_names,
        align_classes=options.align_classes,
    )
    return answers.check_suspect_answers(
        given,
        len(batch),
        plan.num_classes,
        positions=clean.shape[1:-1],
        activation=plan.activation,
        scale=options.scale,
        class_names=options.class_names,
        align_classes=options.align_classes,
        classes=getattr(suspect, "classes", None) if classes is None else classes,
    )


class _AnswerForm:
    """Sees to it that all answers have one form, probabilities or labels, and that this form can be tested."""

    def __init__(self, plan: TestPlan) -> None:
        self._plan = plan
        self._labels: bool | None = None
        self._knows_a_class = False

    def check(self, given: Array, clean: Array) -> None:
        labels = given.ndim < clean.ndim
        if self._labels not in (None, labels):
            raise SuspectError("The suspect answers some batches with labels and others with probabilities.")
        if self._labels is None and labels:
            self._check_that_labels_help()
        self._labels = labels
        self._knows_a_class = self._knows_a_class or not labels or bool((given != answers.UNKNOWN_CLASS).any())

    def check_understood(self, options: SuspectOptions) -> None:
        if not self._knows_a_class:
            names = options.class_names
            given = f", such as {names[0]!r}" if names else ""
            raise SuspectError(
                f"None of the suspect's labels is among the {self._plan.num_classes} classes of the owner{given}. "
                "Give its class names in the owner's order: SuspectOptions(class_names=[...]) (--class-names FILE)."
            )

    def _check_that_labels_help(self) -> None:
        plan = self._plan
        form = {"fresh": plan.num_fresh > 0, "logged": plan.logged, "labels": True}
        obstacles = channel_obstacles(plan.params, plan.num_classes, **form)
        if not any(obstacles[channel] is None for channel in plan.channels):
            raise no_evidence_from_labels(obstacles)
