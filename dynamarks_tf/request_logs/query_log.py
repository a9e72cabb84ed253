"""A request log as a source of queries: in order of time, one client's requests, batches of a fixed size."""

from __future__ import annotations

import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs.entries import (
    Array,
    LogEntry,
    LoggedBatch,
    LoggedRequest,
    TruncatedError,
    UnreadableRecord,
    UnusableError,
)
from dynamarks_tf.request_logs.time_order import merge, start_time

SHOWN_CLIENTS = 5

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class LogFile:
    """One file of a log.

    Attributes:
        path: the file.
        size: how many bytes it had when the log was opened. What is appended later is not read, so that every pass
            yields the same.
        read: yields the records of the first `size` bytes of `path`.
    """

    path: Path
    size: int
    read: Callable[[Path, int], Iterator[LogEntry]]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which requests of a log are wanted, and which of their arrays.

    Attributes:
        clients: who asked; anybody if `None`.
        model: the name of the model that was asked; any if `None`. Records without a name are taken.
        versions: which versions answered; any, but one only in batches, if `None`. If some are wanted, records without
            a version are not taken.
        input: the name of the input; the only one if `None`.
        output: the name of the output; the only one if `None`.
        input_shape: the shape of one input, `None` for unknown axes; that of the first usable request if `None`.
    """

    clients: Collection[str] | None = None
    model: str | None = None
    versions: Collection[int] | None = None
    input: str | None = None
    output: str | None = None
    input_shape: Shape | None = None

    def takes(self, record: LogEntry) -> bool:
        """Whether a record is wanted. An unreadable one may be, and so is not passed over in silence."""
        if isinstance(record, UnreadableRecord):
            return True
        return self.takes_model(record) and (self.versions is None or record.version in self.versions)

    def takes_model(self, record: LogEntry) -> bool:
        """Whether it is wanted but for its version."""
        return (self.clients is None or record.client in self.clients) and (
            self.model is None or record.model in (None, self.model)
        )


class QueryLog:
    """The requests in log files; `open_log` makes one. It can be read any number of times, in memory that does
    not grow with its length: one block is held of each file that covers the moment reached.

    What a client sent must not be able to spoil the log: a request that has no such input, or inputs of another shape
    or type than the rest, or that no parser takes, is left out and counted. A damaged file is an error.

    Args:
        files: the files; records without times keep this order.
        selection: which requests are wanted.

    Attributes:
        problems: what was skipped or left out in the passes so far; each was also a warning.
    """

    def __init__(self, files: Sequence[LogFile], selection: Selection) -> None:
        self._files = tuple(files)
        self._selection = selection
        self._starts: list[float | None] | None = None
        self.problems: list[str] = []

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in the order given."""
        return tuple(file.path for file in self._files)

    def taking(self, input_shape: Shape) -> QueryLog:
        """The same log, of which only requests with inputs of a shape are wanted.

        Args:
            input_shape: the shape of one input, `None` for unknown axes.
        """
        return QueryLog(self._files, dataclasses.replace(self._selection, input_shape=tuple(input_shape)))

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the inputs, `batch_size` rows at a time: always the same rows in the same order.

        Raises:
            LogError: a file is damaged, there is no such request, or several versions answered and none was chosen.
        """
        for batch in self._batches(batch_size, answers=False):
            yield _joined([part.inputs for part in batch])

    def answered_batches(self, batch_size: int) -> Iterator[LoggedBatch]:
        """Yields inputs with the answers that were given. Requests whose answer was not recorded are left out.

        Raises:
            LogError: a file is damaged, there is no such request, or several versions answered and none was chosen.
        """
        for batch in self._batches(batch_size, answers=True):
            answers = [part.answers for part in batch if part.answers is not None]
            yield LoggedBatch(_joined([part.inputs for part in batch]), _joined(answers))

    def requests(self, *, answers: bool = True) -> Iterator[LoggedRequest]:
        """Yields request by request, with client, time, model and version, of all versions unless one was chosen.

        Args:
            answers: whether to decode the answers; requests without one are left out then.

        Raises:
            LogError: a file is damaged, or there is no such request.
        """
        left_out, first_reason, found, unversioned = 0, "", 0, 0
        form: _Form | None = None
        for record in self._records():
            if not self._selection.takes(record):
                unversioned += record.version is None and self._selection.takes_model(record)
                continue
            try:
                request = _decode(record, self._selection, answers)
                form = _check_form(request, form, self._selection.input_shape)
            except UnusableError as error:
                left_out += 1
                first_reason = first_reason or f"{record.place}: {error}"
                continue
            found += 1
            yield request
        if not found:
            raise LogError(self._nothing_found(first_reason))
        if left_out:
            self._warn(f"{left_out} logged requests were left out. The first: {first_reason}")
        if unversioned:
            self._warn(f"{unversioned} logged requests were left out: the version that answered was not recorded.")

    def clients(self) -> dict[str | None, int]:
        """Counts the requests of each client, whatever was selected; `None` stands for those of unknown origin.

        Raises:
            LogError: a file is damaged.
        """
        return dict(collections.Counter(record.client for record in self._records()))

    def versions(self) -> dict[tuple[str | None, int | None], int]:
        """Counts the requests of each model and version, of the clients and the model selected; `None`: not recorded.

        Raises:
            LogError: a file is damaged.
        """
        records = (record for record in self._records() if not isinstance(record, UnreadableRecord))
        return dict(
            collections.Counter((each.model, each.version) for each in records if self._selection.takes_model(each))
        )

    def _records(self) -> Iterator[LogEntry]:
        if self._starts is None:
            # Not from the files' names: a file may be begun long after its first request was answered.
            self._starts = [None] if len(self._files) == 1 else [_start(file) for file in self._files]
        return merge([functools.partial(self._read, file) for file in self._files], self._starts)

    def _read(self, file: LogFile) -> Iterator[LogEntry]:
        try:
            yield from file.read(file.path, file.size)
        except TruncatedError as error:
            self._warn(str(error))
        except OSError as error:
            raise LogError(f"Cannot read {file.path}: {error.strerror}") from error

    def _batches(self, batch_size: int, *, answers: bool) -> Iterator[list[LoggedRequest]]:
        if batch_size < 1:
            raise ArgumentError(f"`batch_size` must be at least 1. Received: {batch_size}")
        waiting: list[LoggedRequest] = []
        room = batch_size
        version: int | None = None
        model: str | None = None
        for request in self.requests(answers=answers):
            if request.version is not None:
                is_other = self._selection.versions is None and version not in (None, request.version)
                if is_other or (model and request.model not in (None, model)):
                    raise LogError(self._several_versions())
                version, model = request.version, request.model or model
            start = 0
            while start < len(request):
                part = request.rows(start, start + room)
                waiting.append(part)
                start += len(part)
                room -= len(part)
                if not room:
                    yield waiting
                    waiting, room = [], batch_size
        if waiting:
            yield waiting

    def _warn(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            warnings.warn(problem, stacklevel=2)

    def _nothing_found(self, first_reason: str) -> str:
        where = ", ".join(map(str, self.paths))
        if first_reason:
            return f"No request in {where} can be used. The first: {first_reason}"
        if self._selection.versions is not None and (versions := self.versions()):
            return (
                f"No request in {where} is of {_said(self._selection)}. Of the others, these answered: "
                f"{_counted(versions)}."
            )
        clients = self.clients()
        if not clients:
            return f"There is no request in {where}."
        names = [repr(client) if client else "(not recorded)" for client in clients]
        more = f" and {len(names) - SHOWN_CLIENTS} more" if len(names) > SHOWN_CLIENTS else ""
        return (
            f"No request in {where} is of {_said(self._selection)}. There are requests of the clients "
            f"{', '.join(names[:SHOWN_CLIENTS])}{more}."
        )

    def _several_versions(self) -> str:
        versions = self.versions()
        known = [(model, version) for model, version in versions if version is not None]
        models = {model for model, _ in known if model is not None}
        options = []
        if len(models) > 1:
            options.append("model= (`dynamarks verify --log-model NAME`)")
        if len({version for _, version in known}) > 1 and self._selection.versions is None:
            options.append("version= (`dynamarks verify --log-version N`; all that one key marked)")
        return (
            f"Several versions answered the requests in {', '.join(map(str, self.paths))}: {_counted(versions)}. "
            f"A mark's key belongs to one version of one model. Say which with {' and '.join(options)}."
        )


def _start(file: LogFile) -> float | None:
    try:
        return start_time(file.read(file.path, file.size))
    except (LogError, OSError):  # reported where it is read
        return None


_Form = tuple[tuple[np.dtype[np.generic], tuple[int, ...]], ...]


def _decode(record: LogEntry, selection: Selection, answers: bool) -> LoggedRequest:
    request = LoggedRequest(
        record.inputs(selection.input),
        record.answers(selection.output) if answers else None,
        record.client,
        record.time,
        record.model,
        record.version,
    )
    for what, array in (("inputs", request.inputs), ("answers", request.answers)):
        if array is None:
            continue
        if array.ndim == 0:
            raise UnusableError(f"its {what} are a single value")
        if array.dtype.kind in "OSU":
            raise UnusableError(f"its {what} are text")
        if len(array) != len(request.inputs):
            raise UnusableError(f"it has {len(request.inputs)} inputs and {len(array)} answers")
    if not len(request):
        raise UnusableError("it has no rows")
    return request


def _check_form(request: LoggedRequest, expected: _Form | None, input_shape: Shape | None) -> _Form:
    """Returns the form that requests must have from now on, which is that of the first one.

    Raises:
        UnusableError: this one has another.
    """
    arrays = [array for array in (request.inputs, request.answers) if array is not None]
    form = tuple((array.dtype, array.shape[1:]) for array in arrays)
    shape = request.inputs.shape[1:]
    if input_shape is not None and not _fits(shape, input_shape):
        raise UnusableError(f"its inputs have shape {shape}, not {input_shape}")
    if expected is not None and form != expected:
        for what, (dtype, shape), wanted in zip(("inputs", "answers"), form, expected, strict=False):
            if (dtype, shape) != wanted:
                raise UnusableError(f"its {what} are {dtype} of shape {shape}, the first ones {wanted[0]} {wanted[1]}")
    return form


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(want in (None, size) for size, want in zip(shape, wanted, strict=True))


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _said(selection: Selection) -> str:
    clients = " or ".join(map(repr, sorted(selection.clients))) if selection.clients is not None else "anybody"
    model = f" to the model {selection.model!r}" if selection.model else ""
    if selection.versions is None:
        return f"{clients}{model}"
    return f"{clients}{model}, answered by version {' or '.join(map(str, sorted(selection.versions)))}"


def _counted(versions: dict[tuple[str | None, int | None], int]) -> str:
    return ", ".join(
        f"{'a model not recorded' if model is None else repr(model)}, version "
        f"{'not recorded' if version is None else version}: {count} requests"
        for (model, version), count in sorted(versions.items(), key=lambda item: str(item[0]))
    )
