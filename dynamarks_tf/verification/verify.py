"""The one place where key, owner model, suspect and queries meet: `verify`."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf._support.digests import json_digest
from dynamarks_tf._support.files import PRIVATE_FOLDER
from dynamarks_tf._support.own_files import make_folders
from dynamarks_tf._support.storage import LONGEST_PATH
from dynamarks_tf.case import members
from dynamarks_tf.case.assessment import Assessment, accumulator_of, assess, result_of
from dynamarks_tf.case.extension import Earlier, check_continues
from dynamarks_tf.case.key_trace import client_keys_sha256, evidence_of_keys
from dynamarks_tf.case.plan import TestPlan, looks_of, rule_of
from dynamarks_tf.case.query_provenance import NAMED
from dynamarks_tf.case.reference_check import ReferenceCheck
from dynamarks_tf.case.result import DEFAULT_ALPHA, VerificationResult, check_alpha
from dynamarks_tf.case.trace import ClientEvidence, evidence_of, parties_sha256
from dynamarks_tf.case.transcript import Transcript
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.evidence.kept_answers import KeepingAccumulator
from dynamarks_tf.evidence.residual_accumulator import channel_obstacles, testable_channels
from dynamarks_tf.evidence.tracing import TracingAccumulator
from dynamarks_tf.foreign_text import escaped
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import QueryLog
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.suspects.queries import QuerySource, as_queries
from dynamarks_tf.verification.asking import ask, opened, transcript_of
from dynamarks_tf.verification.choosing import Chosen, choose_queries, fresh_share, in_blocks_of, with_fresh
from dynamarks_tf.verification.drawing import Pool, choose_drawn
from dynamarks_tf.verification.log_choice import choose_logged
from dynamarks_tf.verification.options import BundleOptions, SuspectOptions, whole_number
from dynamarks_tf.verification.owner import Owner, resolve_owner
from dynamarks_tf.verification.provenance import package_versions, suspect_sha256
from dynamarks_tf.verification.references import References, check_references, resolve_references
from dynamarks_tf.watermark.codebook import Codebook


def verify(
    suspect: Suspect | keras.Model | Callable[[npt.NDArray[Any]], Any] | str | os.PathLike[str],
    *,
    owner: keras.Model | str | os.PathLike[str] | Owner,
    key: MarkKey,
    queries: Any,
    logged: bool | None = None,
    fresh: Any = None,
    reference: Any = (),
    sequential: bool = False,
    max_queries: int | None = None,
    seed: int = 0,
    alpha: float = DEFAULT_ALPHA,
    from_logits: bool | None = None,
    suspect_options: SuspectOptions | None = None,
    bundle: BundleOptions | str | os.PathLike[str] | None = None,
    queries_from: str = "owner",
    verbose: bool = False,
) -> VerificationResult:
    """Tests whether a suspect was trained on answers marked with `key`.

    Everything about the test is fixed and digested before the suspect is asked. The p-value is exact: it bounds the
    chance that an independent model gives evidence this strong, for every sample size (docs/statistics.md).

    Args:
        suspect: a model, a callable, a path or a URL; docs/suspects.md lists them. Its answers are probabilities of the
            shape of the owner's, in the owner's order of classes, or labels: class indices or names.
        owner: the owner's marked Keras model, or the path of its file; or what `resolve_owner` made of it, to load it
            once for several tests. A clean one counts as marked by `dm.mark` with the default settings.
        key: the owner's key.
        queries: inputs of shape `(n, ...)`: an array, a batched `tf.data.Dataset`, the path of a `.npy` or `.npz` file,
            or a request log. A `dm.Pool` draws them from inputs that were committed to, so that nobody chose them.
        logged: whether the queries are inputs that clients sent to the marked API, all of them: a log from which the
            answers decided what is missing gives false detections. By default, only those of a request log are.
        fresh: inputs that nobody chose by what the marked API answered, beside logged queries: the class channel takes
            these alone. Any form that `queries` may have, but a log.
        reference: up to 8 models of the owner that were never marked, nor trained on marked answers: Keras models or
            paths of their files, of any architecture, for the owner's inputs and classes. Answers that they share with
            the suspect count for nothing, so fine-tuned surrogates stand out more (docs/reference-models.md).
        sequential: whether to stop as soon as p <= alpha. The p-value is exact all the same: the evidence may be looked
            at at any time (`evidence.anytime`).
        max_queries: the largest number of queries: a confident and balanced choice; of logged ones, half of them ties.
            With `fresh` ones beside a log, up to two thirds of them are fresh, at most 4 for each class, and
            the others are ties, as far as there are any.
        seed: seed of that choice.
        alpha: the accepted chance of a false detection; `result.detected()` goes by it.
        from_logits: whether a clean owner model answers logits. A marked one tells itself.
        suspect_options: how the suspect is asked, and how its answers are read.
        bundle: where to write an evidence bundle, which `dynamarks check` recomputes.
        queries_from: who named the inputs: `"owner"` or `"other-side"`. Recorded as the owner's statement.
        verbose: whether to show progress on standard error.

    Returns:
        The result: `result.log10_p`, `result.detected()`, `result.to_dict()`.

    Raises:
        DynaMarksError: something does not fit; the subclass and the message say what, before the suspect is asked where
            that is possible.

    Example:

    >>> result = dm.verify("suspect.keras", owner="marked.keras", key=key, queries=x, max_queries=1000)
    >>> result.detected(), result.log10_p
    (True, -21.4)
    """
    return run(
        suspect,
        owner=owner,
        key=key,
        queries=queries,
        logged=logged,
        fresh=fresh,
        reference=reference,
        sequential=sequential,
        max_queries=max_queries,
        seed=seed,
        alpha=alpha,
        from_logits=from_logits,
        suspect_options=suspect_options,
        bundle=bundle,
        queries_from=queries_from,
        verbose=verbose,
    )[0]


def run(
    suspect: Any,
    *,
    owner: keras.Model | str | os.PathLike[str] | Owner,
    key: MarkKey,
    queries: Any,
    logged: bool | None,
    fresh: Any = None,
    reference: Any = (),
    sequential: bool = False,
    max_queries: int | None,
    seed: int,
    alpha: float,
    from_logits: bool | None,
    suspect_options: SuspectOptions | None,
    bundle: BundleOptions | str | os.PathLike[str] | None,
    verbose: bool,
    queries_from: str = "owner",
    groups: Sequence[Sequence[str]] | None = None,
    client_keys: Mapping[str, MarkKey] | None = None,
) -> tuple[VerificationResult, dict[str, ClientEvidence]]:
    """What `verify` and `trace` do.

    `groups` are clients of a log to be tested together, `None` tests no clients of a log at all; `client_keys` are keys
    to be tested with the same answers.
    """
    pool = queries if isinstance(queries, Pool) else None
    target, statement = _with_statement(_writable(bundle), pool)
    max_queries = None if max_queries is None else whole_number("max_queries", max_queries, 1)
    seed, alpha = whole_number("seed", seed, 0), check_alpha(alpha)
    logged = isinstance(queries, (QueryLog, ReducedLog)) if logged is None else bool(logged)
    _check_provenance(queries, queries_from, logged=logged, seed=seed)
    of_clients = (client_keys or {}).values()
    claimed = resolve_owner(owner, key, from_logits=from_logits, statement=statement, client_keys=of_clients)
    references = resolve_references(reference, claimed)
    options = (suspect_options or SuspectOptions()).for_classes(claimed.num_classes, claimed.activation)
    _check_kind(logged=logged, fresh=fresh, sequential=sequential, options=options)
    earlier = _extended(target, sequential=sequential)
    channels = _channels(claimed, options, fresh=fresh is not None or not logged, logged=logged)
    if fresh is not None and "class" not in channels:
        raise ArgumentError("`fresh` queries are for the class channel, which a mark of these classes does not have.")
    given, codebook = as_queries(queries if pool is None else pool.inputs), claimed.codebook(key)
    with opened(suspect, options, given, claimed) as adapter:
        description = escaped(adapter.description, LONGEST_PATH)
        source = pool or given
        chosen = _chosen(source, fresh, claimed, adapter, codebook, options, logged, max_queries, seed, groups, verbose)
        if queries_from == "other-side":
            chosen = dataclasses.replace(chosen, provenance=dict(NAMED))
        if sequential:
            chosen = in_blocks_of(chosen, options.batch_size, earlier.ends if earlier else ())
        looks = (
            looks_of(chosen.num_fresh, earlier.plan.looks if earlier else ()) if sequential and chosen.num_fresh else ()
        )
        plan = _plan(
            key, claimed, references, chosen, options, channels, logged, looks, max_queries, seed, alpha, client_keys
        )
        sha256 = suspect_sha256(suspect, adapter)
        if earlier is not None:
            check_continues(plan, chosen.blocks or (), earlier.plan, earlier.blocks)
            if (earlier.suspect, earlier.suspect_sha256) != (description, sha256):
                raise ArgumentError(
                    f"The test that is to be extended is about {earlier.suspect!a}, this one about "
                    f"{description!a}, or the model has changed. One suspect's answers say nothing of another."
                )
        progress.note(f"plan fixed: sha256 {plan.digest}", enabled=verbose)
        accumulator = accumulator_of(plan, codebook.keyed_hash, codebook.contrasts(), chosen.met_before, chosen.parties)
        continued = None if earlier is None else earlier.continued
        record = transcript_of(target, key, plan, description, sha256, options.batch_size, chosen.blocks, continued)
        with record as transcript:
            asked = ask(adapter, claimed, chosen, plan, options, transcript, references=references, verbose=verbose)
            check = ReferenceCheck(plan, codebook, chosen.met_before)
            assessment = assess(
                check.watching(asked),
                accumulator,
                codebook,
                rule=plan.rule,
                looks=plan.looks,
                stop_at=math.log10(alpha) if sequential else None,
                align_classes=plan.align_classes,
                watch=_shown(plan) if sequential and verbose else None,
            )
    check_references(check.following())
    named: dict[str, Any] = {"owner": key.owner, "suspect": description, "suspect_sha256": sha256}
    result = result_of(assessment, plan, tested_at=_now(), versions=package_versions(), **named)
    clients = {}
    if isinstance(accumulator, TracingAccumulator):
        clients = evidence_of(accumulator, codebook)
    elif isinstance(accumulator, KeepingAccumulator) and client_keys is not None:
        keys = progress.track(client_keys.items(), "testing the clients' keys", len(client_keys), enabled=verbose)
        clients = evidence_of_keys(keys, accumulator, plan)
    if target is not None and transcript is not None:
        _write_bundle(target, result, assessment, codebook, transcript, key, chosen, clients)
    return result, clients


def _writable(bundle: BundleOptions | str | os.PathLike[str] | None) -> BundleOptions | None:
    """The options of the bundle, which can be written, as is seen before anything is asked for it."""
    if bundle is None:
        return None
    target = dataclasses.replace(bundle) if isinstance(bundle, BundleOptions) else BundleOptions(bundle)  # checks
    try:
        make_folders(Path(target.path).parent, PRIVATE_FOLDER)
    except OSError as error:
        raise ArgumentError(f"`bundle` {target.path} cannot be written: {error}") from error
    return target


def _with_statement(target: BundleOptions | None, pool: Pool | None) -> tuple[BundleOptions | None, Statement | None]:
    """The options of the bundle, and the statement that is published: that of a pool goes into the bundle.

    Raises:
        ArgumentError: there are two statements, and they differ.
    """
    if pool is None:
        return target, None if target is None else target.statement
    if target is not None and target.statement not in (None, pool.statement):
        raise ArgumentError("The statement of the bundle is not that of the pool. Give one of them.")
    return None if target is None else dataclasses.replace(target, statement=pool.statement), pool.statement


def _check_provenance(queries: Any, queries_from: str, *, logged: bool, seed: int) -> None:
    """Checks that what is said about the origin of the queries can be true.

    Raises:
        ArgumentError: it cannot.
    """
    if queries_from not in ("owner", "other-side"):
        raise ArgumentError(f"`queries_from` must be 'owner' or 'other-side'. Received: {queries_from!a}")
    is_pool = isinstance(queries, Pool)
    if queries_from == "other-side" and (is_pool or isinstance(queries, (QueryLog, ReducedLog))):
        raise ArgumentError(
            "`queries_from` (--queries-from) says who named the inputs of an array or a file (--queries). A request "
            "log was named by clients, and a pool by the statement. Leave it out."
        )
    if is_pool and logged:
        raise ArgumentError("Only fresh queries can be drawn from a pool; leave out `logged` (--logged).")
    if is_pool and seed:
        raise ArgumentError(f"The beacon draws from a pool, and `seed` (--seed) has no part in it. Received: {seed}")


def _extended(target: BundleOptions | None, *, sequential: bool) -> Earlier | None:
    """The sequential test that this one extends.

    Raises:
        ArgumentError: this one is not sequential, or would keep queries where that one did not, or the other way round.
    """
    if target is None or target.extends is None:
        return None
    if not sequential:
        raise ArgumentError("`extends` (--extend) goes on with a sequential test; this one is not: sequential=True.")
    earlier = Earlier.read(target.extends)
    if earlier.keeps_queries != target.include_queries:
        kept = "holds its queries" if earlier.keeps_queries else "holds digests of its queries only"
        raise ArgumentError(f"{target.extends} {kept}, and what extends it does the same: `include_queries`.")
    return earlier


def _check_kind(*, logged: bool, fresh: Any, sequential: bool, options: SuspectOptions) -> None:
    """Refuses what does not go together.

    Raises:
        ArgumentError: it does not.
    """
    if fresh is not None and not logged:
        raise ArgumentError("`fresh` are queries beside logged ones; without those, give them as `queries`.")
    if fresh is not None and options.labels:
        raise ArgumentError("`fresh` queries are for the class channel, which a suspect that answers labels has not.")
    if sequential and options.align_classes:
        raise ArgumentError(
            "`align_classes` (--align-classes) takes all answers at once, so a `sequential` test cannot stop before. "
            "Leave one of them out, or wrap the suspect in a callable that puts its classes into the owner's order."
        )


def _chosen(
    given: QuerySource | Pool,
    fresh: Any,
    owner: Owner,
    suspect: Suspect,
    codebook: Codebook,
    options: SuspectOptions,
    logged: bool,
    max_queries: int | None,
    seed: int,
    groups: Sequence[Sequence[str]] | None,
    verbose: bool,
) -> Chosen:
    """Fixes the queries."""
    common: dict[str, Any] = {"batch_size": options.batch_size, "verbose": verbose}
    if isinstance(given, Pool):
        return choose_drawn(given, owner, suspect, max_queries=max_queries, **common)
    common["seed"] = seed
    if not logged:
        return choose_queries(given, owner, suspect, max_queries=max_queries, **common)
    beside = None
    if fresh is not None:
        at_most = fresh_share(max_queries, owner.num_classes)
        beside = choose_queries(as_queries(fresh), owner, suspect, max_queries=at_most, **common)
        max_queries = None if max_queries is None else max(max_queries - beside.count, 1)
    common |= {"max_queries": max_queries, "labels": options.labels, "beside_fresh": beside is not None}
    chosen = choose_logged(given, owner, suspect, codebook.keyed_hash, groups=groups, **common)
    return chosen if beside is None else with_fresh(chosen, beside, options.batch_size)


def _shown(plan: TestPlan) -> Callable[[int, float], None]:
    """Shows how the evidence grows."""

    def show(num_queries: int, log10_p: float) -> None:
        progress.note(
            f"{num_queries} of {plan.num_queries} questions, log10 p = {log10_p:.2f}; enough at "
            f"{math.log10(plan.alpha):.2f}"
        )

    return show


def _channels(owner: Owner, options: SuspectOptions, *, fresh: bool, logged: bool) -> tuple[str, ...]:
    """The channels that will be tested.

    Raises:
        ArgumentError: there are none.
    """
    form: dict[str, bool] = {"fresh": fresh, "logged": logged, "labels": options.labels}
    channels = testable_channels(owner.params, owner.num_classes, **form)
    if not channels:
        obstacles = channel_obstacles(owner.params, owner.num_classes, **form)
        reasons = "; ".join(f"{channel} channel: {obstacle}" for channel, obstacle in obstacles.items())
        raise ArgumentError(f"There is no evidence to be had from this suspect with these queries. {reasons}.")
    return channels


def _plan(
    key: MarkKey,
    owner: Owner,
    references: References,
    chosen: Chosen,
    options: SuspectOptions,
    channels: tuple[str, ...],
    logged: bool,
    looks: tuple[int, ...],
    max_queries: int | None,
    seed: int,
    alpha: float,
    client_keys: Mapping[str, MarkKey] | None,
) -> TestPlan:
    """Fixes the test. Nothing that comes later chooses anything."""
    names = options.class_names
    commitments = {name: each.commitment for name, each in (client_keys or {}).items()}
    rows, columns = owner.params.table_shape(owner.num_classes)
    return TestPlan(
        commitment=key.commitment,
        owner_model_sha256=owner.model_sha256,
        owner_file_sha256=owner.file_sha256,
        from_logits=owner.from_logits,
        suspect_scale=options.scale,
        num_classes=owner.num_classes,
        activation=owner.activation,
        num_labels=owner.num_labels,
        bound=owner.bound,
        budget=owner.params.budget,
        tie_margin=owner.params.tie_margin,
        amplitudes=owner.params.amplitudes,
        table_rows=rows,
        table_columns=columns,
        logged=logged,
        num_fresh=chosen.num_fresh,
        sequential=chosen.blocks is not None,
        looks=looks,
        labels=options.labels,
        channels=channels,
        num_queries=chosen.count,
        queries_sha256=chosen.sha256,
        selection=chosen.selection,
        max_queries=chosen.count if chosen.draw is not None else max_queries,
        seed=seed,
        class_names_sha256=None if names is None else json_digest({"names": names}),
        align_classes=options.align_classes,
        owner_marked=owner.marked,
        code_outside=tuple(sorted({*map(escaped, owner.code_outside), *map(escaped, references.code_outside)})),
        alpha=alpha,
        rule=rule_of(logged=logged, sequential=chosen.blocks is not None),
        log=chosen.log,
        met_before_sha256=None if chosen.met_before is None else members.met_before_sha256(chosen.met_before),
        parties_sha256=None if chosen.parties is None else parties_sha256(chosen.parties),
        provenance=chosen.provenance,
        client_keys_sha256=client_keys_sha256(commitments) if commitments else None,
        references=references.sha256,
    )


def _write_bundle(
    target: BundleOptions,
    result: VerificationResult,
    assessment: Assessment,
    codebook: Codebook,
    transcript: Transcript,
    key: MarkKey,
    chosen: Chosen,
    clients: dict[str, ClientEvidence],
) -> None:
    """Turns the transcript into the bundle, and removes its folder."""
    try:
        members.write(
            target.path,
            result,
            assessment,
            codebook.keyed_hash,
            transcript,
            key,
            target.statement,
            reveal_key=target.reveal_key,
            met_before=chosen.met_before,
            parties=chosen.parties,
            clients=clients,
            selected=None if chosen.indices is None else np.asarray(chosen.indices),
            draw=None if chosen.draw is None else (chosen.draw.classes, chosen.draw.confidences),
        )
    except FileExistsError as error:
        raise ArgumentError(
            f"{target.path} appeared while the suspect was asked; evidence is not overwritten. The answers are kept in "
            f"{transcript.folder}."
        ) from error
    shutil.rmtree(transcript.folder, ignore_errors=True)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
