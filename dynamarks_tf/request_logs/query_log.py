"""A request log as a source of queries: in order of time, one client's requests, batches of a fixed size."""

from __future__ import annotations

import collections
import dataclasses
import functools
import warnings
from collections.abc import Collection, Iterator, Sequence
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

    def takes(self, entry: LogEntry) -> bool:
        """Whether an entry is wanted. An unreadable one may be, and so is not passed over in silence."""
        if isinstance(entry, UnreadableEntry):
            return True
        return self.takes_model(entry) and (self.versions is None or entry.version in self.versions)

    def takes_model(self, entry: LogEntry) -> bool:
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
    ones, or that no parser takes, are left out and counted. A damaged file is an error.

    Args:
        files: the files; entries without times keep this order.
        selection: which requests are wanted.
        count: how many queries to read at most; all if `None`.
        found: problems found when the files were looked for.

    Attributes:
        problems: those, and all that was skipped or left out in the passes so far; each was also a warning.
        has_other_forms: whether the passes so far left out requests with inputs of another type or shape than the first
            ones, which the model may have answered.
    """

    def __init__(
        self, files: Sequence[LogFile], selection: Selection, *, count: int | None = None, found: Sequence[str] = ()
    ) -> None:
        self._files = tuple(files)
        self._selection = selection
        self._count = count
        self._found = tuple(found)
        self.problems = list(found)
        self.has_other_forms = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths and URLs of the files, in the order given; secrets of URLs are left out."""
        return tuple(file.file.name for file in self._files)

    def first(self, count: int) -> QueryLog:
        """Returns the log cut to its first queries. Nothing is read for it, and each pass over it ends after them.

        Args:
            count: the number of queries, which are rows of inputs; a log that has fewer is not cut. They are counted
                after all selection: `log.first(n).taking(shape)` is `log.taking(shape).first(n)`.

        Raises:
            ArgumentError: `count` is below 1.
        """
        if count < 1:
            raise ArgumentError(f"`count` must be at least 1. Received: {count}")
        return self._changed(count=count if self._count is None else min(count, self._count))

    def taking(self, input_shape: Sequence[int | None], *, text: bool | None = None) -> QueryLog:
        """Returns the log without requests whose inputs do not fit a shape.

        Args:
            input_shape: shape of one input, `None` for unknown axes.
            text: whether only text and bytes fit, or only numbers; either if `None`.
        """
        shapes = (*self._selection.input_shapes, tuple(input_shape))
        text = self._selection.text if text is None else text
        return self._changed(selection=dataclasses.replace(self._selection, input_shapes=shapes, text=text))

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the inputs, `batch_size` rows at a time: always the same rows in the same order.

        Raises:
            LogError: a file is damaged, there is no such request, or several versions answered and none was chosen.
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

    @property
    def is_filtered(self) -> bool:
        """Whether clients, a model or versions were selected, so that the files may hold requests that are not read."""
        selection = self._selection
        return not (selection.clients is None and selection.model is None and selection.versions is None)

    @property
    def scope(self) -> dict[str, Any]:
        """What the log is and what was selected from it, as plain values for JSON: files, clients, model, versions."""
        selection = self._selection
        return {
            "files": [{"name": file.file.last_name, "size": file.file.size} for file in self._files],
            "clients": None if selection.clients is None else sorted(selection.clients),
            "model": selection.model,
            "versions": None if selection.versions is None else sorted(selection.versions),
        }

    def whole(self) -> Iterator[tuple[Array, bool]]:
        """Yields the inputs of every request in the files, of all clients, models and versions, in order of time.

        Requests whose inputs cannot be used, or have another shape than selected, are left out. Selected requests of
        another type or shape than the first one are no queries, and count as not selected: the model answered them.

        Yields:
            The inputs, shape `(n, ...)`, and whether the request is selected.

        Raises:
            LogError: a file is damaged.
        """
        form: Form | None = None
        for entry in self._entries():
            is_selected = self._selection.takes(entry)
            try:
                inputs = self._selection.inputs(entry)
            except UnusableError:
                continue
            if is_selected:
                form = form or _form_of(inputs)
                is_selected = _form_of(inputs) == form
            yield inputs, is_selected

    def clients(self) -> dict[str | None, int]:
        """Counts the requests of each client in the whole log; `None` stands for those of unknown origin.

        Raises:
            LogError: a file is damaged.
        """
        return dict(collections.Counter(entry.client for entry in self._entries()))

    def versions(self) -> dict[tuple[str | None, int | None], int]:
        """Counts the requests of each model and version in the whole log, of the clients and the model selected.

        Returns:
            Counts by the name of the model and the version, `None` where they were not recorded.

        Raises:
            LogError: a file is damaged.
        """
        entries = (entry for entry in self._entries() if not isinstance(entry, UnreadableEntry))
        return dict(
            collections.Counter((each.model, each.version) for each in entries if self._selection.takes_model(each))
        )

    def _inputs(self) -> Iterator[Array]:
        """Yields the inputs of each request; those of the last one up to the count."""
        taken, left_out, unversioned, first_reason = 0, 0, 0, ""
        form: Form | None = None
        model: str | None = None
        version: int | None = None
        for entry in self._entries():
            if not self._selection.takes(entry):
                unversioned += entry.version is None and self._selection.takes_model(entry)
                continue
            try:
                inputs = self._selection.inputs(entry)
                self.has_other_forms = self.has_other_forms or form not in (None, _form_of(inputs))
                form = _same_form(inputs, form)
            except UnusableError as error:
                left_out += 1
                first_reason = first_reason or f"{entry.place}: {error}"
                continue
            if entry.version is not None:
                is_other = self._selection.versions is None and version not in (None, entry.version)
                if is_other or (model and entry.model not in (None, model)):
                    raise LogError(self._several_versions())
                version, model = entry.version, entry.model or model
            if self._count is not None:
                inputs = inputs[: self._count - taken]
            taken += len(inputs)
            yield inputs
            if taken == self._count:
                break
        if not taken:
            raise LogError(self._nothing_found(first_reason))
        if left_out:
            self._warn(f"{left_out} logged requests were left out. The first: {first_reason}")
        if unversioned:
            self._warn(f"{unversioned} logged requests were left out: the version that answered was not recorded.")

    def _changed(self, *, selection: Selection | None = None, count: int | None = None) -> QueryLog:
        return QueryLog(self._files, selection or self._selection, count=count or self._count, found=self._found)

    def _entries(self) -> Iterator[LogEntry]:
        # Not from the files' names: a file may be begun long after its first request was answered.
        starts = [None] if len(self._files) == 1 else [file.start_time for file in self._files]
        return merge([functools.partial(self._read, file) for file in self._files], starts)

    def _read(self, file: LogFile) -> Iterator[LogEntry]:
        try:
            yield from file.entries()
        except (TruncatedError, CutOffError) as error:
            self._warn(str(error))
        except OSError as error:
            raise LogError(str(error)) from error

    def _warn(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            warnings.warn(problem, stacklevel=2)

    def _nothing_found(self, first_reason: str) -> str:
        where = ", ".join(self.paths)
        if first_reason:
            return f"No request in {where} can be used. The first: {first_reason}"
        if self._selection.versions is not None and (versions := self.versions()):
            return (
                f"No request in {where} is from {_described(self._selection)}. Of the others, these answered: "
                f"{_counted(versions)}."
            )
        clients = self.clients()
        if not clients:
            return f"There is no request in {where}."
        names = [repr(client) if client else "(not recorded)" for client in clients]
        more = f" and {len(names) - SHOWN_CLIENTS} more" if len(names) > SHOWN_CLIENTS else ""
        return (
            f"No request in {where} is from {_described(self._selection)}. There are requests from the clients "
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
            f"Several versions answered the requests in {', '.join(self.paths)}: {_counted(versions)}. "
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
