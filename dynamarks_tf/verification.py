"""The one place where key, owner model, suspect and queries meet: `verify`."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf import answers, codebook, marking, progress
from dynamarks_tf._digests import ArrayDigest
from dynamarks_tf._version import __version__
from dynamarks_tf.errors import ArgumentError, ModelError, SuspectError
from dynamarks_tf.evidence.channels import channel_evidence
from dynamarks_tf.evidence.residuals import ClassCodeTable
from dynamarks_tf.key import MarkKey
from dynamarks_tf.params import MarkParams, check_num_classes, class_code_floor_log10
from dynamarks_tf.plan import TestPlan
from dynamarks_tf.queries import QuerySource, SelectedQueries, as_queries, balanced_choice
from dynamarks_tf.suspects import Suspect, as_suspect
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.verdict import Evidence

Array = npt.NDArray[Any]


def verify(
    suspect: Suspect | keras.Model | Callable[[Array], Any] | str | os.PathLike[str],
    *,
    owner: keras.Model | str | os.PathLike[str],
    key: MarkKey,
    queries: Any,
    max_queries: int | None = None,
    seed: int = 0,
    from_logits: bool | None = None,
    suspect_from_logits: bool = False,
    params: MarkParams | None = None,
    batch_size: int = 256,
    timeout_s: float = 30.0,
    verbose: bool = False,
) -> Evidence:
    """Tests whether a suspect was trained on answers marked with `key`.

    The suspect is only asked for answers to `queries`. Any unlabelled inputs of the domain serve; they need not be
    those that the thief sent. Everything about the test is fixed and digested before the suspect is asked. The
    p-value is exact: it bounds the chance of an innocent suspect looking this guilty, for every sample size.

    Memory does not grow with the number of queries, but for their predicted classes where `max_queries` chooses among
    them.

    Args:
        suspect: a Keras model, a callable from a batch to probabilities, a path (`.keras` file or SavedModel folder),
            or a URL (`grpc://host:port/name`, `http://host:port/v1/models/name`). Its answers are probabilities of
            shape `(n, C)` in the owner's order of classes.
        owner: the owner's model, clean or marked, or the path of its `.keras` file. A marked one must be marked with
            `key`; the mark is stripped.
        key: the owner's key.
        queries: inputs of shape `(n, ...)` as the owner model takes them: an array, a batched `tf.data.Dataset`, or a
            path to a `.npy` or `.npz` file.
        max_queries: ask only so many, chosen to represent the classes that the owner model predicts equally.
        seed: seed of that choice.
        from_logits: whether the owner model answers logits. Known from its `DynaMarkLayer` if it is marked.
        suspect_from_logits: whether the suspect answers logits.
        params: table sizes of the mark, if they were not the default and `owner` is clean.
        batch_size: how many inputs are asked at once.
        timeout_s: how many seconds a remote suspect may take for one batch.
        verbose: whether to show progress on standard error.

    Returns:
        The evidence: `evidence.log10_p`, `evidence.detected(alpha=1e-6)`, `evidence.to_dict()`.

    Raises:
        ArgumentError: no queries, or queries of another shape than the owner model takes.
        ModelError: the owner model cannot be used, or was marked with another key.
        SuspectError: the suspect cannot be reached, or its answers are no evidence; the message says why.

    Example:

    >>> evidence = dm.verify("suspect.keras", owner=model, key=key, queries=x_fresh, max_queries=1000)
    >>> evidence.detected(alpha=1e-6)
    True
    """
    if not timeout_s > 0:
        raise ArgumentError(f"`timeout_s` must be a number of seconds above 0. Received: timeout_s={timeout_s!r}")
    if batch_size < 1 or (max_queries is not None and max_queries < 1):
        raise ArgumentError(
            f"`batch_size` and `max_queries` must be at least 1. Received: batch_size={batch_size}, "
            f"max_queries={max_queries}"
        )
    # 1. The clean owner model.
    clean_model, params, from_logits = _clean_owner(owner, key, params, from_logits)
    num_classes = check_num_classes(clean_model.outputs[0].shape[-1])
    if class_code_floor_log10(num_classes, params) == 0:
        raise ArgumentError(
            f"With {num_classes} classes there is no evidence to be had: the class code compares the classes beside "
            "the best one with each other, and needs at least 3."
        )
    clean = _CleanAnswers(clean_model, from_logits)

    # 2. The suspect is opened, so that a wrong address shows at once, but asked nothing yet.
    with _opened(suspect, timeout_s) as opened:
        # 3. The queries, fixed and digested.
        source: QuerySource = _CheckedQueries(as_queries(queries), clean_model.inputs[0].shape[1:], opened)
        if max_queries is not None:
            source = _balanced(source, clean, max_queries, seed, batch_size, verbose)
        count, digest = _digest_queries(source, batch_size)

        # 4. The plan. Nothing below chooses anything.
        book = codebook.expand(key, num_classes, params)
        rows, columns = book.class_signs.shape
        plan = TestPlan(
            commitment=key.commitment,
            owner_model_sha256=marking.model_sha256(clean_model),
            from_logits=from_logits,
            suspect_from_logits=suspect_from_logits,
            num_classes=num_classes,
            table_rows=rows,
            table_columns=columns,
            num_queries=count,
            queries_sha256=digest,
            max_queries=max_queries,
            seed=seed,
        )

        # 5. The suspect's answers, gathered without the signs.
        table = ClassCodeTable(book.row_of_class, book.column_of_class, (rows, columns))
        agreeing = _ask(opened, clean, source, table, plan, suspect_from_logits, batch_size, verbose)

    # 6. Signs meet residuals.
    found = table.residuals()
    channel = channel_evidence("class", book.class_signs, found.residuals, found.num_cells)
    return Evidence(
        log10_p=channel.log10_p,
        channels=(channel,),
        plan=plan,
        owner=key.owner,
        key_id=key.key_id,
        suspect=opened.description,
        fidelity=agreeing / count,
        slope=found.slope,
        tested_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions=package_versions(),
    )


def package_versions() -> dict[str, str]:
    """Versions of what took part in a verification."""
    names = ("tensorflow", "keras", "numpy", "cryptography")
    return {
        "dynamarks_tf": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


@contextlib.contextmanager
def _opened(suspect: Any, timeout_s: float) -> Iterator[Suspect]:
    """The suspect's adapter; closed afterwards, unless the caller made it."""
    opened = as_suspect(suspect, timeout_s=timeout_s)
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
        probabilities = answers.softmax(outputs) if self._from_logits else outputs
        problem = answers.probability_problem(probabilities)
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
    if len(getattr(model, "outputs", None) or ()) != 1 or len(model.inputs) != 1 or len(model.outputs[0].shape) != 2:
        raise ModelError(
            f"The owner model {model.name!r} must have a graph with one input and one output of shape (batch, classes)."
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


def _balanced(
    source: QuerySource, clean: _CleanAnswers, max_queries: int, seed: int, batch_size: int, verbose: bool
) -> QuerySource:
    batches = progress.track(source.batches(batch_size), "choosing queries by predicted class", enabled=verbose)
    classes = [clean(batch).argmax(axis=1) for batch in batches]
    if not classes:
        raise _no_queries()
    return SelectedQueries(source, balanced_choice(np.concatenate(classes), max_queries, seed))


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


def _ask(
    suspect: Suspect,
    clean: _CleanAnswers,
    source: QuerySource,
    table: ClassCodeTable,
    plan: TestPlan,
    suspect_from_logits: bool,
    batch_size: int,
    verbose: bool,
) -> int:
    """Fills the table; returns on how many queries suspect and clean model agree about the best class."""
    agreeing = 0
    one_hot = True
    asked = ArrayDigest()
    total = -(-plan.num_queries // batch_size)
    batches: Iterator[Array] = progress.track(source.batches(batch_size), "asking the suspect", total, enabled=verbose)
    for batch in batches:
        asked.update(batch)
        expected = clean(batch)
        given = np.asarray(suspect.predict(batch.copy()))  # a callable may work on its input in place
        checked = answers.check_suspect_answers(given, len(batch), plan.num_classes, from_logits=suspect_from_logits)
        one_hot = one_hot and answers.is_one_hot(checked)
        table.add(expected, checked)
        agreeing += int((expected.argmax(axis=1) == checked.argmax(axis=1)).sum())
    if asked.hexdigest() != plan.queries_sha256:
        raise ArgumentError(
            "`queries` gave other inputs when they were read again, so what was asked is not what was fixed before. "
            "Remove the shuffling: dataset.shuffle(..., reshuffle_each_iteration=False)"
        )
    if one_hot:
        raise answers.labels_only_error()
    return agreeing
