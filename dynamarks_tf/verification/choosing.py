"""Which of the given inputs are asked: all of them, the first of a log, or a confident and balanced choice."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf._support.digests import ArrayDigest
from dynamarks_tf.errors import ArgumentError, DynaMarksError, SuspectError
from dynamarks_tf.evidence.answers import confidence, main_class
from dynamarks_tf.evidence.meetings import MetBefore, MetByOthers
from dynamarks_tf.request_logs import QueryLog
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.suspects.queries import FirstQueries, QuerySource, SelectedQueries, confident_balanced_choice
from dynamarks_tf.verification.owner import Owner
from dynamarks_tf.watermark.keyed_hash import KeyedHash

Array = npt.NDArray[Any]

_IN_MEMORY = 64 * 2**20  # bytes of clean answers; what is more goes to a temporary file


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """The queries of a test, fixed and digested.

    Attributes:
        source: the inputs.
        selection: how they were chosen from those given, as the plan names it.
        count: how many there are.
        sha256: digest of all of them, in order.
        indices: which of those given they are, shape `(count,)`; `None` for all.
        clean: the clean model's answers, if they were needed to choose; `None` if they are still to be computed.
        met_before: secret signs that requests met first which are in the log and are not asked.
        log: what was selected from which request log, as `QueryLog.scope` tells it; `None` if nothing was selected.
    """

    source: QuerySource
    selection: str
    count: int
    sha256: str
    indices: Array | None
    clean: KeptAnswers | None
    met_before: MetBefore
    log: dict[str, Any] | None


def choose_queries(
    queries: QuerySource,
    owner: Owner,
    suspect: Suspect,
    keyed_hash: KeyedHash,
    *,
    logged: bool,
    max_queries: int | None,
    seed: int,
    batch_size: int,
    verbose: bool = False,
) -> Chosen:
    """Fixes which inputs will be asked, before the suspect answers anything.

    If clients, a model or versions were selected from a log, all its requests are looked at: a secret sign that another
    request met first had been shown before, and says nothing about the selected ones. Of a log, `max_queries` takes
    the first requests: any other choice would weigh secret signs by how often a client repeated what met them. Of
    other inputs it takes those of which the clean model is surest, balanced over its classes.

    Args:
        queries: the inputs that were given.
        owner: the owner's side.
        suspect: the suspect, opened; only the shape of its inputs is looked at.
        keyed_hash: which secret signs an output gets.
        logged: whether clients sent the inputs to the marked API.
        max_queries: the largest number of queries; `None` for all.
        seed: seed of the choice.
        batch_size: how many inputs are read at once.
        verbose: whether to show progress.

    Raises:
        ArgumentError: there are no queries, or their shape does not fit the owner model.
        SuspectError: the suspect takes inputs of another shape.
    """
    if isinstance(queries, QueryLog):
        queries = queries.taking(owner.input_shape, text=owner.takes_text)
    source: QuerySource = _CheckedQueries(queries, owner.input_shape, suspect)
    selection, indices, clean, met_before, log = "all", None, None, MetBefore(), None
    if logged and isinstance(queries, QueryLog) and queries.is_filtered:
        next(source.batches(1), None)  # a wrong client or shape shows before the whole log is answered
        log, (met_before, clean) = queries.scope, _met_by_others(queries, owner, keyed_hash, batch_size, verbose)
    if max_queries is not None and logged:
        selection = "first/1"
        queries = queries.first(max_queries) if isinstance(queries, QueryLog) else FirstQueries(queries, max_queries)
        source = _CheckedQueries(queries, owner.input_shape, suspect)
    elif max_queries is not None:
        selection = "confident-balanced/1"
        every = KeptAnswers()
        found = []
        batches = source.batches(batch_size)
        for batch in progress.track(batches, "choosing queries by predicted class", enabled=verbose):
            answers = owner.answers(batch)
            every.add(answers)
            found.append((main_class(answers), confidence(answers)))
        if not found:
            raise _no_queries()
        classes, sure = (np.concatenate(column) for column in zip(*found, strict=True))
        chosen = SelectedQueries(source, confident_balanced_choice(classes, sure, max_queries, seed))
        source, indices, clean = chosen, chosen.indices, every.of(chosen.indices)
    count, digest = _digest(source, batch_size)
    if logged and log is None and isinstance(queries, QueryLog) and queries.has_other_forms:
        log, (met_before, clean) = queries.scope, _met_by_others(queries, owner, keyed_hash, batch_size, verbose)
    if selection == "first/1":
        indices = np.arange(count)
    return Chosen(source, selection, count, digest, indices, clean, met_before, log)


def _met_by_others(
    log: QueryLog, owner: Owner, keyed_hash: KeyedHash, batch_size: int, verbose: bool
) -> tuple[MetBefore, KeptAnswers]:
    """The secret signs that other requests of the log met first; and the clean answers to the selected ones."""
    others, kept = MetByOthers(keyed_hash, owner.params), KeptAnswers()
    for inputs, is_selected in progress.track(_joined(log, batch_size), "reading the whole log", enabled=verbose):
        for answers, are_selected in _answered(owner, inputs, is_selected):
            others.add(answers, are_selected)
            if are_selected.any():
                kept.add(answers[are_selected])
    return others.met_before, kept


def _answered(owner: Owner, inputs: Array, is_selected: Array) -> Iterator[tuple[Array, Array]]:
    """Clean answers in order, without those to other requests that the model does not take: they show no sign."""
    try:
        answers = owner.answers(inputs)
    except DynaMarksError:
        if is_selected.all():
            raise
        if len(inputs) > 1:
            middle = len(inputs) // 2
            yield from _answered(owner, inputs[:middle], is_selected[:middle])
            yield from _answered(owner, inputs[middle:], is_selected[middle:])
    else:
        yield answers, is_selected


def _joined(log: QueryLog, batch_size: int) -> Iterator[tuple[Array, Array]]:
    """The requests of the whole log in batches of one type and shape, and which rows are selected."""
    waiting: list[tuple[Array, bool]] = []
    count = 0
    for inputs, is_selected in log.whole():
        for start in range(0, len(inputs), batch_size):
            part = inputs[start : start + batch_size]
            form = part.dtype, part.shape[1:]
            if waiting and (count + len(part) > batch_size or form != (waiting[0][0].dtype, waiting[0][0].shape[1:])):
                yield _as_one(waiting)
                waiting, count = [], 0
            waiting.append((part, is_selected))
            count += len(part)
    if waiting:
        yield _as_one(waiting)


def _as_one(requests: list[tuple[Array, bool]]) -> tuple[Array, Array]:
    flags = [np.full(len(inputs), is_selected) for inputs, is_selected in requests]
    return np.concatenate([inputs for inputs, _ in requests]), np.concatenate(flags)


class KeptAnswers:
    """Answers of the clean model that will be needed again, in memory while they are few, otherwise in a file.

    Example:

    >>> kept = KeptAnswers()
    >>> kept.add(owner.answers(batch))
    >>> kept.of(np.array([3, 17])).rows(0, 2)
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 -- lives as long as this object
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)
        self._indices: Array | None = None

    def add(self, answers: Array) -> None:
        """Keeps one more batch, of shape `(n, ..., C)`."""
        self._shape, self._dtype = answers.shape[1:], answers.dtype
        self._file.write(np.ascontiguousarray(answers).tobytes())

    def of(self, indices: Array) -> KeptAnswers:
        """The answers of some rows, in their order; the file is shared."""
        part = KeptAnswers.__new__(KeptAnswers)
        part._file, part._shape, part._dtype, part._indices = self._file, self._shape, self._dtype, indices
        return part

    def rows(self, start: int, stop: int) -> Array:
        """The answers from one row to before another, shape `(stop - start, ..., C)`."""
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        wanted = range(start, stop) if self._indices is None else self._indices[start:stop]
        found = bytearray()
        for row in wanted:
            self._file.seek(int(row) * size)
            found += self._file.read(size)
        return np.frombuffer(found, self._dtype).reshape(-1, *self._shape)


class _CheckedQueries:
    """Queries that are known to have the shape that owner model and suspect take."""

    def __init__(self, source: QuerySource, input_shape: tuple[int | None, ...], suspect: Suspect) -> None:
        self._source = source
        self._input_shape = input_shape
        self._suspect = suspect

    def batches(self, batch_size: int) -> Iterator[Array]:
        for batch in self._source.batches(batch_size):
            shape = batch.shape[1:]
            if not _fits(shape, self._input_shape):
                hint = ""
                if shape == () and len(self._input_shape) == 1 and self._input_shape[0] in (None, 1):
                    hint = " Give them an axis more: queries.reshape(-1, 1)."
                raise ArgumentError(
                    f"`queries` have shape {shape} each; the owner model takes {self._input_shape}.{hint}"
                )
            if self._suspect.input_shape is not None and not _fits(shape, self._suspect.input_shape):
                raise SuspectError(
                    f"The suspect takes inputs of shape {tuple(self._suspect.input_shape)}, the owner model "
                    f"{self._input_shape}. Wrap the suspect in a callable that converts the inputs."
                )
            yield batch


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e is None or e == s for s, e in zip(shape, expected, strict=True))


def _digest(source: QuerySource, batch_size: int) -> tuple[int, str]:
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
