"""The one place where key, owner model, suspect and queries meet: `verify`."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import numbers
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import files, progress
from dynamarks_tf._support.digests import ArrayDigest, json_digest
from dynamarks_tf._version import __version__
from dynamarks_tf.case import members, transcript
from dynamarks_tf.case.assessment import Assessment, no_evidence_from_labels
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.result import DEFAULT_ALPHA, Evidence, check_alpha
from dynamarks_tf.errors import ArgumentError, ModelError, SuspectError
from dynamarks_tf.evidence import answers
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator, planned_channels
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import QueryLog
from dynamarks_tf.suspects import Suspect, as_suspect
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.suspects.queries import (
    QuerySource,
    SelectedQueries,
    as_queries,
    confident_balanced_choice,
)
from dynamarks_tf.verification.rate_limiter import RateLimiter
from dynamarks_tf.watermark import codebook, marking
from dynamarks_tf.watermark.params import MarkParams, check_num_classes
from dynamarks_tf.watermark.probabilities import probability_problem, softmax

Array = npt.NDArray[Any]

PARTIAL_SUFFIX = ".partial"


def verify(
    suspect: Suspect | keras.Model | Callable[[Array], Any] | str | os.PathLike[str],
    *,
    owner: keras.Model | str | os.PathLike[str],
    key: MarkKey,
    queries: Any,
    logged: bool | None = None,
    max_queries: int | None = None,
    seed: int = 0,
    alpha: float = DEFAULT_ALPHA,
    from_logits: bool | None = None,
    suspect_from_logits: bool = False,
    suspect_labels: bool = False,
    class_names: Sequence[str] | None = None,
    params: MarkParams | None = None,
    statement: Statement | None = None,
    bundle: str | os.PathLike[str] | None = None,
    include_queries: bool = False,
    reveal_key: bool = False,
    batch_size: int = 256,
    signature: str | None = None,
    output: str | None = None,
    timeout_s: float = 30.0,
    rate: float | None = None,
    api_key_header: str | None = None,
    verbose: bool = False,
) -> Evidence:
    """Tests whether a suspect was trained on answers marked with `key`.

    The suspect is only asked for answers to `queries`. Any unlabeled inputs of the domain serve for the class channel;
    amplitude, query and tie channel need inputs that were really sent to the marked API, so say `logged=True` for those.
    Everything about the test is fixed and digested before the suspect is asked. The p-value is exact: it bounds the
    chance of an innocent suspect looking this guilty, for every sample size.

    Memory does not grow with the number of queries, but for their predicted classes where `max_queries` chooses among
    them.

    Args:
        suspect: whatever `as_suspect` takes: a Keras model, a callable from a batch to answers, a path (`.keras` file,
            SavedModel folder, recorded answers), a URL (`grpc://host:port/name`, `http://host:port/v1/models/name`).
            docs/suspects.md lists them all. Its answers are probabilities of the shape of the owner's, `(n, C)` or, for
            dense prediction and sequences, `(n, ..., C)`, in the owner's order of classes; or labels: class indices or
            names, one for each probability vector.
        owner: the owner's model, clean or marked, or the path of its `.keras` file. A marked one must be marked with
            `key`; the mark is stripped.
        key: the owner's key.
        queries: inputs of shape `(n, ...)` as the owner model takes them: an array, a batched `tf.data.Dataset`, a path
            to a `.npy` or `.npz` file, or a request log.
        logged: whether the queries are inputs that clients sent to the marked API, all of them: a log from which the
            answers decided what is missing convicts innocents. By default, those of a request log are logged, and
            others are not.
        max_queries: ask only so many. Of fresh queries, those of which the owner model is surest, chosen to represent
            the classes that it predicts equally; of logged ones, the first.
        seed: seed of the choice of fresh queries.
        alpha: the chance of accusing an innocent that is accepted; `evidence.detected()` goes by it.
        from_logits: whether the owner model answers logits. Known from its `DynaMarkLayer` if it is marked.
        suspect_from_logits: whether the suspect answers logits.
        suspect_labels: whether the suspect answers labels only. Said beforehand, a test that cannot succeed is refused
            at once; else it is seen from the answers.
        class_names: names of the owner's classes in their order, for a suspect that answers names.
        params: settings of the mark, if they were not the default and `owner` is clean.
        statement: the published commitment; it must be opened by `key`, and be about the file `owner` if about any.
        bundle: write an evidence bundle to this file; `dynamarks check` recomputes the verdict from it. It must not
            exist. While the test runs, the answers are kept in a folder beside it; after an interruption, the same
            call goes on from there.
        include_queries: whether the bundle holds the inputs, not just their digest.
        reveal_key: whether the bundle holds the key. Whoever has the key can forge and strip the mark.
        batch_size: how many inputs are asked at once.
        signature: name of the signature to call, of a suspect that has several.
        output: name of the output to read, of a suspect that has several.
        timeout_s: how many seconds a remote suspect may take for one batch.
        rate: ask no more than so many queries a second; batches are made small enough. `None`: no limit.
        api_key_header: name of the header that carries the key in the variable DYNAMARKS_API_KEY to a remote suspect;
            by default it is sent as `Authorization: Bearer KEY`.
        verbose: whether to show progress on standard error.

    Returns:
        The evidence: `evidence.log10_p`, `evidence.detected()`, `evidence.to_dict()`.

    Raises:
        ArgumentError: no queries, queries of another shape than the owner model takes, or no channel can be tested.
        CommitmentError: `statement` is about another key or another model file.
        ModelError: the owner model cannot be used, or was marked with another key.
        TranscriptError: the folder beside `bundle` holds another interrupted test.
        SuspectError: the suspect cannot be reached, or its answers are no evidence; the message says why.

    Example:

    >>> evidence = dm.verify("suspect.keras", owner=model, key=key, queries=x_fresh, max_queries=1000)
    >>> evidence.detected()
    True
    """
    batch_size, seed = whole_number("batch_size", batch_size, 1), whole_number("seed", seed, 0)
    max_queries = None if max_queries is None else whole_number("max_queries", max_queries, 1)
    alpha = check_alpha(alpha)
    _check_above_zero("timeout_s", timeout_s, "seconds")
    if rate is not None:
        _check_above_zero("rate", rate, "queries a second")
        batch_size = min(batch_size, max(1, int(rate)))
    target = _bundle_path(bundle, include_queries or reveal_key)
    # 1. The clean owner model, and which channels its mark can be tested in.
    file_sha256 = files.file_sha256(owner) if isinstance(owner, (str, os.PathLike)) and os.path.isfile(owner) else None
    if statement is not None:
        statement.check_opened_by(key)
        statement.check_model(file_sha256)
    clean_model, params, from_logits = _clean_owner(owner, key, params, from_logits)
    num_classes = check_num_classes(clean_model.outputs[0].shape[-1])
    names = None if class_names is None else answers.check_class_names(class_names, num_classes)
    logged = isinstance(queries, QueryLog) if logged is None else bool(logged)
    suspect_labels = bool(suspect_labels)
    obstacles = planned_channels(params, num_classes, logged=logged, labels=suspect_labels)
    channels = tuple(channel for channel, obstacle in obstacles.items() if obstacle is None)
    if not channels:
        raise ArgumentError(_nothing_to_test(obstacles))
    clean = _CleanAnswers(clean_model, from_logits)

    # 2. The suspect is opened, so that a wrong address shows at once, but asked nothing yet.
    given_queries = as_queries(queries)
    options = {"signature": signature, "output": output, "api_key_header": api_key_header, "timeout_s": timeout_s}
    with _opened(suspect, queries=given_queries, **options) as opened:
        # 3. The queries, fixed and digested.
        source: QuerySource = _CheckedQueries(given_queries, clean_model.inputs[0].shape[1:], opened)
        selection = "all"
        if max_queries is not None:
            selection = "first/1" if logged else "confident-balanced/1"
            if logged:
                source = _first(source, max_queries, batch_size)
            else:
                source = _chosen(source, clean, max_queries, seed, batch_size, verbose)
        count, digest = _digest_queries(source, batch_size)

        # 4. The plan. Nothing below chooses anything.
        book = codebook.expand(key, num_classes, params)
        rows, columns = params.table_shape(num_classes)
        plan = TestPlan(
            commitment=key.commitment,
            owner_model_sha256=marking.model_sha256(clean_model),
            owner_file_sha256=file_sha256,
            from_logits=from_logits,
            suspect_from_logits=bool(suspect_from_logits),
            num_classes=num_classes,
            budget=params.budget,
            tie_margin=params.tie_margin,
            amplitudes=params.amplitudes,
            table_rows=rows,
            table_columns=columns,
            logged=logged,
            labels=suspect_labels,
            channels=channels,
            num_queries=count,
            queries_sha256=digest,
            selection=selection,
            max_queries=max_queries,
            seed=seed,
            class_names_sha256=None if names is None else json_digest({"names": names}),
            alpha=alpha,
        )
        progress.note(f"plan fixed: sha256 {plan.digest}", enabled=verbose)
        suspect_sha256 = _suspect_sha256(suspect)
        record = None
        if target is not None:
            record = transcript.Transcript(
                Path(f"{target}{PARTIAL_SUFFIX}"),
                plan,
                opened.description,
                batch_size,
                suspect_sha256=suspect_sha256,
                keep_queries=include_queries,
            )
            batch_size = record.batch_size

        # 5. The suspect's answers, gathered without the signs. The assessment only looks at the tables.
        assessment = Assessment(book)
        collected = ResidualAccumulator(channels, book.keyed_hash, params, book.contrasts(), logged=logged)
        asked = _Asked(opened, clean, plan, suspect_from_logits, names, record, RateLimiter(rate))
        batches = progress.track(
            source.batches(batch_size), "asking the suspect", -(-count // batch_size), enabled=verbose
        )
        try:
            for expected, given in map(asked, batches):
                assessment.follow(collected, expected, given)
            asked.check_all()
        except SuspectError as error:
            if record is None:
                raise
            raise SuspectError(
                f"{error} The answers so far are kept in {record.folder}; the same call goes on from there."
            ) from error
        finally:
            if record is not None:
                record.close()

    # 6. Signs meet residuals.
    evidence = assessment.evidence(
        collected,
        plan,
        owner=key.owner,
        suspect=opened.description,
        suspect_sha256=suspect_sha256,
        tested_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions=package_versions(),
    )
    if target is not None and record is not None:
        try:
            members.write(
                target,
                evidence,
                collected.residuals(),
                book.keyed_hash,
                collected.pairs,
                record,
                key,
                statement,
                reveal_key=reveal_key,
                selected=source.indices if isinstance(source, SelectedQueries) else None,
            )
        except FileExistsError as error:
            raise ArgumentError(
                f"{target} appeared while the suspect was asked; evidence is not overwritten. The answers are kept in "
                f"{record.folder}."
            ) from error
        shutil.rmtree(record.folder, ignore_errors=True)
    return evidence


def whole_number(name: str, value: Any, smallest: int) -> int:
    """Returns an argument that must be a whole number.

    Raises:
        ArgumentError: it is none, or too small.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < smallest:
        raise ArgumentError(f"`{name}` must be a whole number, at least {smallest}. Received: {name}={value!r}")
    return int(value)


def _check_above_zero(name: str, value: Any, unit: str) -> None:
    if not isinstance(value, numbers.Real) or not 0 < float(value) < float("inf"):
        raise ArgumentError(f"`{name}` must be a number of {unit} above 0. Received: {name}={value!r}")


def _bundle_path(bundle: str | os.PathLike[str] | None, has_contents: bool) -> Path | None:
    """Checks that a bundle can be written, before anything is asked for it."""
    if bundle is None:
        if has_contents:
            raise ArgumentError(
                "`include_queries` and `reveal_key` say what goes into the bundle; name one: bundle=..."
            )
        return None
    path = Path(bundle)
    if path.exists() or os.fspath(bundle).endswith(("/", os.sep)):
        what = "is a folder" if path.is_dir() or not path.exists() else "exists; evidence is not overwritten"
        raise ArgumentError(f"`bundle` {os.fspath(bundle)} {what}. Name another file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"`bundle` {path} cannot be written: {error}") from error
    return path


def _suspect_sha256(suspect: Any) -> str | None:
    """Digest of what is tested, where it can be pinned down: a file, a folder, a Keras model in memory."""
    if isinstance(suspect, keras.Model):
        return marking.model_sha256(suspect)
    if not isinstance(suspect, (str, os.PathLike)) or not os.path.exists(suspect):
        return None
    path = Path(suspect)
    if path.is_file():
        return files.file_sha256(path)
    found = {str(file.relative_to(path)): files.file_sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return json_digest(found)


def _nothing_to_test(obstacles: dict[str, str | None]) -> str:
    reasons = "; ".join(f"{channel} channel: {obstacle}" for channel, obstacle in obstacles.items())
    return f"There is no evidence to be had from this suspect with these queries. {reasons}."


def package_versions() -> dict[str, str]:
    """Versions of what took part in a verification."""
    modules = (importlib.import_module(name) for name in ("tensorflow", "keras", "numpy", "cryptography"))
    return {
        "dynamarks_tf": __version__,
        "python": platform.python_version(),
        # Not what pip calls them: TensorFlow also comes as tensorflow-cpu, tf-nightly and others.
        **{module.__name__: module.__version__ for module in modules},
    }


@contextlib.contextmanager
def _opened(suspect: Any, **options: Any) -> Iterator[Suspect]:
    """The suspect's adapter; closed afterwards, unless the caller made it."""
    opened = as_suspect(suspect, **options)
    try:
        yield opened
    finally:
        if opened is not suspect:
            opened.close()


class _CleanAnswers:
    """The clean owner model as probabilities."""

    def __init__(self, model: keras.Model, from_logits: bool) -> None:
        self._model = KerasSuspect(model)
        self._name = model.name
        self._from_logits = from_logits

    def __call__(self, batch: Array) -> Array:
        outputs = self._model.predict(batch)
        if outputs.dtype not in (np.float32, np.float64):
            outputs = outputs.astype(np.float32)
        probabilities = softmax(outputs) if self._from_logits else outputs
        problem = probability_problem(probabilities)
        if problem:
            hint = "" if self._from_logits else " If they are logits, say from_logits=True."
            raise ModelError(
                f"The outputs of the owner model {self._name!r} are no probability vectors: {problem}.{hint}"
            )
        return probabilities


def _clean_owner(
    owner: Any, key: MarkKey, params: MarkParams | None, from_logits: bool | None
) -> tuple[keras.Model, MarkParams, bool]:
    if not isinstance(key, MarkKey):
        raise ArgumentError(f"`key` must be a MarkKey; load one by MarkKey.load(path). Received: {type(key).__name__}")
    model = marking.load_model(owner) if isinstance(owner, (str, os.PathLike)) else owner
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            "`owner` must be the owner's Keras model or the path of its .keras file; its clean answers are needed. "
            f"Received: {type(model).__name__}"
        )
    if len(getattr(model, "outputs", None) or ()) != 1 or len(model.inputs) != 1 or len(model.outputs[0].shape) < 2:
        raise ModelError(
            f"The owner model {model.name!r} must have a graph with one input and one output of shape (batch, classes) "
            "or (batch, ..., classes)."
        )
    layer = marking.find_mark(model)
    if layer is None:
        return model, params or MarkParams(), bool(from_logits)
    if layer.is_blank:
        raise ModelError(
            f"The owner model {model.name!r} has a DynaMarkLayer with blank tables: it was rebuilt from its "
            "configuration and its weights were not loaded. Load the whole .keras file, or the weights."
        )
    if not layer.was_made_with(key):
        raise ModelError(
            f"The owner model {model.name!r} was marked with another key (key id {layer.key_id}) than the one given "
            f"(key id {key.key_id}, owner {key.owner!r}). Use the key that the served model was marked with."
        )
    return marking.stripped(model), layer.params, layer.from_logits


class _CheckedQueries:
    """Queries that are known to have the shape that owner model and suspect take."""

    def __init__(self, source: QuerySource, input_shape: tuple[int | None, ...], suspect: Suspect) -> None:
        self._source = source
        self._input_shape = tuple(input_shape)
        self._suspect = suspect

    def batches(self, batch_size: int) -> Iterator[Array]:
        for batch in self._source.batches(batch_size):
            shape = batch.shape[1:]
            if not _fits(shape, self._input_shape):
                raise ArgumentError(f"`queries` have shape {shape} each; the owner model takes {self._input_shape}.")
            if self._suspect.input_shape is not None and not _fits(shape, self._suspect.input_shape):
                raise SuspectError(
                    f"The suspect takes inputs of shape {tuple(self._suspect.input_shape)}, the owner model "
                    f"{self._input_shape}. Wrap the suspect in a callable that converts the inputs."
                )
            yield batch


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e is None or e == s for s, e in zip(shape, expected, strict=True))


def _chosen(
    source: QuerySource,
    clean: _CleanAnswers,
    max_queries: int,
    seed: int,
    batch_size: int,
    verbose: bool,
) -> QuerySource:
    batches = progress.track(source.batches(batch_size), "choosing queries by predicted class", enabled=verbose)
    found = [(answers.main_class(p), answers.confidence(p)) for p in map(clean, batches)]
    if not found:
        raise _no_queries()
    classes, confidence = (np.concatenate(column) for column in zip(*found, strict=True))
    return SelectedQueries(source, confident_balanced_choice(classes, confidence, max_queries, seed))


def _first(source: QuerySource, max_queries: int, batch_size: int) -> QuerySource:
    """The first of a log. Any other choice would weigh coins by how often a client repeated what met them."""
    count = 0
    for batch in source.batches(batch_size):
        count += len(batch)
        if count >= max_queries:
            break
    return SelectedQueries(source, np.arange(min(count, max_queries)))


def _digest_queries(source: QuerySource, batch_size: int) -> tuple[int, str]:
    digest = ArrayDigest()
    count = 0
    for batch in source.batches(batch_size):
        digest.update(batch)
        count += len(batch)
    if not count:
        raise _no_queries()
    return count, digest.hexdigest()


def _no_queries() -> ArgumentError:
    return ArgumentError("`queries` holds no inputs. Pass at least one; about ten for each class give a clear answer.")


class _Asked:
    """Turns batches of queries into clean and suspect answers, and sees to it that what was planned is asked."""

    def __init__(
        self,
        suspect: Suspect,
        clean: _CleanAnswers,
        plan: TestPlan,
        from_logits: bool,
        class_names: Sequence[str] | None,
        record: transcript.Transcript | None,
        pace: RateLimiter,
    ) -> None:
        self._pace = pace
        self._suspect = suspect
        self._clean = clean
        self._plan = plan
        self._from_logits = from_logits
        self._class_names = class_names
        self._record = record
        self._digest = ArrayDigest()
        self._labels: bool | None = None
        self._knows_a_class = False

    def __call__(self, batch: Array) -> tuple[Array, Array]:
        self._digest.update(batch)
        kept = self._record.recorded(batch) if self._record is not None else None
        if kept is not None:
            self._check_form(kept.suspect, kept.clean)
            return kept.clean, kept.suspect
        expected = self._clean(batch)
        self._pace.wait(len(batch))
        asked_at = transcript.now()
        given = np.asarray(self._suspect.predict(batch.copy()))  # a callable may work on its input in place
        checked = answers.check_suspect_answers(
            given,
            len(batch),
            self._plan.num_classes,
            positions=expected.shape[1:-1],
            from_logits=self._from_logits,
            class_names=self._class_names,
            classes=getattr(self._suspect, "classes", None),
        )
        self._check_form(checked, expected)
        if self._record is not None:
            self._record.add(batch, expected, checked, asked_at=asked_at)
        return expected, checked

    def _check_form(self, answer: Array, clean: Array) -> None:
        labels = answer.ndim < clean.ndim
        if self._labels not in (None, labels):
            raise SuspectError("The suspect answers some batches with labels and others with probabilities.")
        if self._labels is None and labels:
            self._check_that_labels_help()
        self._labels = labels
        self._knows_a_class = self._knows_a_class or not labels or bool((answer != answers.UNKNOWN_CLASS).any())

    def _check_that_labels_help(self) -> None:
        plan = self._plan
        obstacles = planned_channels(plan.params, plan.num_classes, logged=plan.logged, labels=True)
        if not any(obstacles[channel] is None for channel in plan.channels):
            raise no_evidence_from_labels(obstacles)

    def check_all(self) -> None:
        """Checks that the queries that were asked are those of the plan, and that the answers were understood."""
        if self._digest.hexdigest() != self._plan.queries_sha256:
            if self._record is not None:  # worthless: its plan is about other queries
                shutil.rmtree(self._record.folder, ignore_errors=True)
            raise ArgumentError(
                "`queries` gave other inputs when they were read again, so what was asked is not what was fixed "
                "before. Remove the shuffling: dataset.shuffle(..., reshuffle_each_iteration=False)"
            )
        if not self._knows_a_class:
            given = f", such as {self._class_names[0]!r}" if self._class_names else ""
            raise SuspectError(
                f"None of the suspect's labels is among the {self._plan.num_classes} classes of the owner{given}. "
                "Give its class names in the owner's order: class_names=[...] (--class-names FILE)."
            )
