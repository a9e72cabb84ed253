"""A request log as a source of queries: in order of time, one client's requests, batches of a fixed size."""

from __future__ import annotations

import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from dynamarks_tf._support import texts
from dynamarks_tf._support.storage import CutOffError
from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs.entries import (
    Array,
    LogEntry,
    LogFile,
    TruncatedError,
    UnreadableEntry,
    UnusableError,
)
from dynamarks_tf.request_logs.reduction import Origin
from dynamarks_tf.request_logs.time_order import merge

SHOWN_CLIENTS = 5

Shape = tuple[int | None, ...]
Form = tuple[np.dtype[np.generic], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which requests of a log are wanted, and which of their inputs.

    Attributes:
        clients: the names of the clients; any if `None`.
        model: the name of the model that was asked; any if `None`. Entries without a name are taken.
        versions: which versions answered; any, but one only, if `None`. If some are wanted, entries without a version
            are not taken.
        input: the name of the input; the only one if `None`.
        input_shapes: shapes that one input must fit, all of them; `None` for unknown axes.
        text: whether inputs must be text or bytes, or must be numbers; either if `None`.
    """

    clients: Collection[str] | None = None
    model: str | None = None
    versions: Collection[int] | None = None
    input: str | None = None
    input_shapes: tuple[Shape, ...] = ()
    text: bool | None = None

    def takes(self, entry: LogEntry | Origin) -> bool:
        """Whether an entry is wanted. An unreadable one may be, and so is not passed over in silence."""
        if isinstance(entry, UnreadableEntry):
            return True
        return self.takes_model(entry) and (self.versions is None or entry.version in self.versions)

    def takes_model(self, entry: LogEntry | Origin) -> bool:
        """Whether it is wanted but for its version."""
        return (self.clients is None or entry.client in self.clients) and (
            self.model is None or entry.model in (None, self.model)
        )

    def inputs(self, entry: LogEntry) -> Array:
        """Returns the inputs of an entry.

        Raises:
            UnusableError: it has none that can be used, or they do not fit.
        """
        inputs = entry.inputs(self.input)
        if inputs.ndim == 0:
            raise UnusableError("its inputs are a single value")
        is_text = texts.may_be_text(inputs)
        if self.text not in (None, is_text):
            raise UnusableError("its inputs are text" if is_text else "its inputs are numbers, not text")
        if not len(inputs):
            raise UnusableError("it has no rows")
        for shape in self.input_shapes:
            if not _fits(inputs.shape[1:], shape):
                raise UnusableError(f"its inputs have shape {inputs.shape[1:]}, not {shape}")
        try:
            return texts.as_bytes(inputs, errors="surrogateescape") if is_text else inputs
        except ValueError as error:
            raise UnusableError(f"its inputs are no text: {error}") from error


class QueryLog:
    """The requests in log files; `open_log` makes one, which can be read any number of times.

    Memory does not grow with the length of the log: one block is held of each file that covers the moment reached. (Of
    each request of KServe's logger, 16 bytes are kept.)

    No client can spoil the log. Requests without such an input, with inputs of another shape or type than the first
    ones, or that cannot be read, are left out and counted. A file of which nothing can be read is an error.

    Args:
        files: the files; entries without times keep this order.
        selection: which requests are wanted.
        found: problems found when the files were looked for.

    Attributes:
        files: the files, in the order given.
        selection: which requests are wanted.
        problems: those, and all that was skipped or left out in the passes so far; each was also a warning.
    """

    def __init__(self, files: Sequence[LogFile], selection: Selection, *, found: Sequence[str] = ()) -> None:
        self.files = tuple(files)
        self.selection = selection
        self._found = tuple(found)
        self.problems = list(found)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths and URLs of the files, in the order given; secrets of URLs are left out."""
        return tuple(file.file.name for file in self.files)

    def taking(self, input_shape: Sequence[int | None], *, text: bool | None = None) -> QueryLog:
        """Returns the log without requests whose inputs do not fit a shape.

        Args:
            input_shape: shape of one input, `None` for unknown axes.
            text: whether only text and bytes fit, or only numbers; either if `None`.
        """
        shapes = (*self.selection.input_shapes, tuple(input_shape))
        text = self.selection.text if text is None else text
        selection = dataclasses.replace(self.selection, input_shapes=shapes, text=text)
        return QueryLog(self.files, selection, found=self._found)

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the inputs, `batch_size` rows at a time: always the same rows in the same order.

        Raises:
            LogError: a file cannot be read, there is no such request, or several versions answered and none was chosen.
        """
        if batch_size < 1:
            raise ArgumentError(f"`batch_size` must be at least 1. Received: {batch_size}")
        waiting: list[Array] = []
        room = batch_size
        for inputs in self._inputs():
            start = 0
            while start < len(inputs):
                part = inputs[start : start + room]
                waiting.append(part)
                start += len(part)
                room -= len(part)
                if not room:
                    yield _joined(waiting)
                    waiting, room = [], batch_size
        if waiting:
            yield _joined(waiting)

    def clients(self) -> dict[str | None, int]:
        """Counts the requests of each client in the whole log; `None` stands for those of unknown origin.

        Raises:
            LogError: a file cannot be read.
        """
        return dict(collections.Counter(entry.client for entry in self._entries()))

    def versions(self) -> dict[tuple[str | None, int | None], int]:
        """Counts the requests of each model and version in the whole log, of the clients and the model selected.

        Returns:
            Counts by the name of the model and the version, `None` where they were not recorded.

        Raises:
            LogError: a file cannot be read.
        """
        entries = (entry for entry in self._entries() if not isinstance(entry, UnreadableEntry))
        return dict(
            collections.Counter((each.model, each.version) for each in entries if self.selection.takes_model(each))
        )

    def _inputs(self) -> Iterator[Array]:
        """Yields the inputs of each request."""
        taken, left_out, unversioned, first_reason = 0, 0, 0, ""
        form: Form | None = None
        model: str | None = None
        version: int | None = None
        for entry in self._entries():
            if not self.selection.takes(entry):
                unversioned += entry.version is None and self.selection.takes_model(entry)
                continue
            try:
                inputs = self.selection.inputs(entry)
                form = _same_form(inputs, form)
            except UnusableError as error:
                left_out += 1
                first_reason = first_reason or f"{entry.place}: {error}"
                continue
            if entry.version is not None:
                is_other = self.selection.versions is None and version not in (None, entry.version)
                if is_other or (model and entry.model not in (None, model)):
                    raise several_versions(self.paths, self.selection, self.versions())
                version, model = entry.version, entry.model or model
            taken += len(inputs)
            yield inputs
        if not taken:
            raise nothing_found(self.paths, self.selection, first_reason, self.clients, self.versions)
        if left_out:
            self.warn(f"{left_out} logged requests were left out. The first: {first_reason}")
        if unversioned:
            self.warn(f"{unversioned} logged requests were left out: the version that answered was not recorded.")

    def _entries(self) -> Iterator[LogEntry]:
        # Not from the files' names: a file may be begun long after its first request was answered.
        starts = [None] if len(self.files) == 1 else [file.start_time for file in self.files]
        return merge([functools.partial(self._read, file) for file in self.files], starts)

    def _read(self, file: LogFile) -> Iterator[LogEntry]:
        try:
            yield from file.entries()
        except (TruncatedError, CutOffError) as error:
            self.warn(str(error))
        except OSError as error:
            raise LogError(str(error)) from error

    def warn(self, problem: str) -> None:
        """Notes a problem, and warns of it, once."""
        if problem not in self.problems:
            self.problems.append(problem)
            warnings.warn(problem, stacklevel=2)


def nothing_found(
    paths: Sequence[Any],
    selection: Selection,
    reason: str,
    clients: Callable[[], dict[str | None, int]],
    versions: Callable[[], dict[tuple[str | None, int | None], int]],
) -> LogError:
    """Makes the error for a log of which nothing can be used.

    Args:
        paths: the files.
        selection: which requests were wanted.
        reason: why the first one of them was left out; empty if there was none.
        clients: counts the requests of each client.
        versions: counts the requests of each model and version.
    """
    where = ", ".join(map(str, paths))
    if reason:
        return LogError(f"No request in {where} can be used. The first: {reason}")
    if selection.versions is not None and (found := versions()):
        return LogError(
            f"No request in {where} is from {_described(selection)}. Of the others, these answered: {_counted(found)}."
        )
    counted = clients()
    if not counted:
        return LogError(f"There is no request in {where}.")
    names = [repr(client) if client else "(not recorded)" for client in counted]
    more = f" and {len(names) - SHOWN_CLIENTS} more" if len(names) > SHOWN_CLIENTS else ""
    return LogError(
        f"No request in {where} is from {_described(selection)}. There are requests from the clients "
        f"{', '.join(names[:SHOWN_CLIENTS])}{more}."
    )


def several_versions(
    paths: Sequence[Any], selection: Selection, versions: dict[tuple[str | None, int | None], int]
) -> LogError:
    """Makes the error for a log in which several versions answered and none was chosen."""
    known = [(model, version) for model, version in versions if version is not None]
    models = {model for model, _ in known if model is not None}
    options = []
    if len(models) > 1:
        options.append("model= (`dynamarks verify --log-model NAME`)")
    if len({version for _, version in known}) > 1 and selection.versions is None:
        options.append("version= (`dynamarks verify --log-version N`; all that one key marked)")
    return LogError(
        f"Several versions answered the requests in {', '.join(map(str, paths))}: {_counted(versions)}. "
        f"A mark's key belongs to one version of one model. Choose with {' and '.join(options)}."
    )


def _same_form(inputs: Array, expected: Form | None) -> Form:
    """Returns type and shape that all inputs must have from now on: those of the first request.

    Raises:
        UnusableError: these have others.
    """
    form = _form_of(inputs)
    if expected is not None and form != expected:
        raise UnusableError(f"its inputs are {form[0]} of shape {form[1]}, the first ones {expected[0]} {expected[1]}")
    return form


def _form_of(inputs: Array) -> Form:
    return inputs.dtype, inputs.shape[1:]


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    if shape == wanted:
        return True
    return len(shape) == len(wanted) and all(want in (None, size) for size, want in zip(shape, wanted, strict=True))


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _described(selection: Selection) -> str:
    clients = " or ".join(map(repr, sorted(selection.clients))) if selection.clients is not None else "any client"
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
