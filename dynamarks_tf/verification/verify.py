"""The one place where key, owner model, suspect and queries meet: `verify`."""

from __future__ import annotations

import dataclasses
import datetime
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
from dynamarks_tf.case import members
from dynamarks_tf.case.assessment import Assessment, accumulator_of, assess, result_of
from dynamarks_tf.case.key_trace import client_keys_sha256, evidence_of_keys
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.result import DEFAULT_ALPHA, VerificationResult, check_alpha
from dynamarks_tf.case.trace import ClientEvidence, evidence_of, parties_sha256
from dynamarks_tf.case.transcript import Transcript
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.evidence.kept_answers import KeepingAccumulator
from dynamarks_tf.evidence.residual_accumulator import channel_obstacles, testable_channels
from dynamarks_tf.evidence.tracing import TracingAccumulator
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import QueryLog
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.suspects.queries import as_queries
from dynamarks_tf.verification.asking import ask, opened, transcript_of
from dynamarks_tf.verification.choosing import Chosen, choose_queries
from dynamarks_tf.verification.log_choice import choose_logged
from dynamarks_tf.verification.options import BundleOptions, SuspectOptions, whole_number
from dynamarks_tf.verification.owner import Owner, resolve_owner
from dynamarks_tf.verification.provenance import package_versions, suspect_sha256
from dynamarks_tf.watermark.codebook import Codebook


def verify(
    suspect: Suspect | keras.Model | Callable[[npt.NDArray[Any]], Any] | str | os.PathLike[str],
    *,
    owner: keras.Model | str | os.PathLike[str] | Owner,
    key: MarkKey,
    queries: Any,
    logged: bool | None = None,
    max_queries: int | None = None,
    seed: int = 0,
    alpha: float = DEFAULT_ALPHA,
    from_logits: bool | None = None,
    suspect_options: SuspectOptions | None = None,
    bundle: BundleOptions | str | os.PathLike[str] | None = None,
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
            or a request log.
        logged: whether the queries are inputs that clients sent to the marked API, all of them: a log from which the
            answers decided what is missing gives false detections. By default, only those of a request log are.
        max_queries: the largest number of queries: a confident and balanced choice; of logged ones, half of them ties.
        seed: seed of that choice.
        alpha: the accepted chance of a false detection; `result.detected()` goes by it.
        from_logits: whether a clean owner model answers logits. A marked one tells itself.
        suspect_options: how the suspect is asked, and how its answers are read.
        bundle: where to write an evidence bundle, which `dynamarks check` recomputes.
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
        max_queries=max_queries,
        seed=seed,
        alpha=alpha,
        from_logits=from_logits,
        suspect_options=suspect_options,
        bundle=bundle,
        verbose=verbose,
    )[0]


def run(
    suspect: Any,
    *,
    owner: keras.Model | str | os.PathLike[str] | Owner,
    key: MarkKey,
    queries: Any,
    logged: bool | None,
    max_queries: int | None,
    seed: int,
    alpha: float,
    from_logits: bool | None,
    suspect_options: SuspectOptions | None,
    bundle: BundleOptions | str | os.PathLike[str] | None,
    verbose: bool,
    groups: Sequence[Sequence[str]] | None = None,
    client_keys: Mapping[str, MarkKey] | None = None,
) -> tuple[VerificationResult, dict[str, ClientEvidence]]:
    """What `verify` and `trace` do.

    `groups` are clients of a log to be tested together, `None` tests no clients of a log at all; `client_keys` are keys
    to be tested with the same answers.
    """
    target = _writable(bundle)
    max_queries = None if max_queries is None else whole_number("max_queries", max_queries, 1)
    seed, alpha = whole_number("seed", seed, 0), check_alpha(alpha)
    logged = isinstance(queries, (QueryLog, ReducedLog)) if logged is None else bool(logged)
    claimed = resolve_owner(
        owner,
        key,
        from_logits=from_logits,
        statement=None if target is None else target.statement,
        client_keys=(client_keys or {}).values(),
    )
    options = (suspect_options or SuspectOptions()).for_classes(claimed.num_classes, claimed.activation)
    channels = _channels(claimed, logged, options)
    given, codebook = as_queries(queries), claimed.codebook(key)
    with opened(suspect, options, given) as adapter:
        limits: dict[str, Any] = {"max_queries": max_queries, "seed": seed, "batch_size": options.batch_size}
        if logged:
            limits |= {"labels": options.labels, "groups": groups}
            chosen = choose_logged(given, claimed, adapter, codebook.keyed_hash, verbose=verbose, **limits)
        else:
            chosen = choose_queries(given, claimed, adapter, verbose=verbose, **limits)
        plan = _plan(key, claimed, chosen, options, channels, logged, max_queries, seed, alpha, client_keys)
        progress.note(f"plan fixed: sha256 {plan.digest}", enabled=verbose)
        sha256 = suspect_sha256(suspect)
        accumulator = accumulator_of(plan, codebook.keyed_hash, codebook.contrasts(), chosen.met_before, chosen.parties)
        with transcript_of(target, plan, adapter.description, sha256, options.batch_size) as transcript:
            asked = ask(adapter, claimed, chosen, plan, options, transcript, verbose=verbose)
            assessment = assess(asked, accumulator, codebook, align_classes=plan.align_classes)
    named: dict[str, Any] = {"owner": key.owner, "suspect": adapter.description, "suspect_sha256": sha256}
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
        Path(target.path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"`bundle` {target.path} cannot be written: {error}") from error
    return target


def _channels(owner: Owner, logged: bool, options: SuspectOptions) -> tuple[str, ...]:
    """The channels that will be tested.

    Raises:
        ArgumentError: there are none.
    """
    form: dict[str, bool] = {"logged": logged, "labels": options.labels}
    channels = testable_channels(owner.params, owner.num_classes, **form)
    if not channels:
        obstacles = channel_obstacles(owner.params, owner.num_classes, **form)
        reasons = "; ".join(f"{channel} channel: {obstacle}" for channel, obstacle in obstacles.items())
        raise ArgumentError(f"There is no evidence to be had from this suspect with these queries. {reasons}.")
    return channels


def _plan(
    key: MarkKey,
    owner: Owner,
    chosen: Chosen,
    options: SuspectOptions,
    channels: tuple[str, ...],
    logged: bool,
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
        labels=options.labels,
        channels=channels,
        num_queries=chosen.count,
        queries_sha256=chosen.sha256,
        selection=chosen.selection,
        max_queries=max_queries,
        seed=seed,
        class_names_sha256=None if names is None else json_digest({"names": names}),
        align_classes=options.align_classes,
        owner_marked=owner.marked,
        code_outside=owner.code_outside,
        alpha=alpha,
        log=chosen.log,
        met_before_sha256=None if chosen.met_before is None else members.met_before_sha256(chosen.met_before),
        parties_sha256=None if chosen.parties is None else parties_sha256(chosen.parties),
        client_keys_sha256=client_keys_sha256(commitments) if commitments else None,
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
        )
    except FileExistsError as error:
        raise ArgumentError(
            f"{target.path} appeared while the suspect was asked; evidence is not overwritten. The answers are kept in "
            f"{transcript.folder}."
        ) from error
    shutil.rmtree(transcript.folder, ignore_errors=True)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
