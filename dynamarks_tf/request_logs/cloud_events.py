"""Request logs of KServe's payload logger: CloudEvents, one JSON object a line.

KServe's logger sends an event for each request and each answer to a collector, joined by their `id`. The collector
writes each down as one line, in one of two forms:

    {"specversion": "1.0", "id": "7f", "type": "org.kubeflow.serving.inference.request", "data": {"instances": [...]},
     "inferenceservicename": "clf", "metadata": "{\\"X-Client-Id\\":[\\"alice\\"]}", "time": "2026-01-02T03:04:05Z"}
    {"headers": {"ce-id": "7f", "ce-type": "org.kubeflow.serving.inference.response", ...}, "body": "{...}"}

The first is the CloudEvents JSON format (`data`, or `data_base64`); the second is an HTTP request as KServe sends it,
whose headers carry the attributes (`body`, or `body_base64`). Bodies are those of the v1 protocol (`instances` or
`inputs`, `predictions` or `outputs`) and of the Open Inference protocol v2 (`inputs` and `outputs` with name, shape,
datatype and data). The version is the `model_version` of an answer of v2, if that is a number. The client is named by
the header `x-client-id`, which KServe adds to the events if the InferenceService asks for it:
`logger: {metadataHeaders: ["X-Client-Id"]}`.

A client may choose the id, so that a repeated one proves nothing: only where one request and one answer have an id do
they belong together, whichever came first. For all other requests the version is not recorded. Requests come in the
order of the file; other types of events are skipped.
"""

from __future__ import annotations

import array
import base64
import binascii
import dataclasses
import datetime
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dynamarks_tf._support.storage import CutOffError, StoredFile
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import rapid_json
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, read_client
from dynamarks_tf.request_logs.entries import (
    Array,
    LogEntry,
    LogFile,
    TruncatedError,
    UnreadableEntry,
    UnusableError,
    first_time,
    input_name,
)
from dynamarks_tf.request_logs.json_text import is_base64, to_array
from dynamarks_tf.request_logs.lines import load, longest_line, parse, read_lines, unreadable

REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"

_UNKNOWN = -1
_TIME = re.compile(r"(?P<whole>[^.Z+]{19})(?P<part>\.[0-9]+)?(?P<zone>Z|[+-][0-9:]{5})")
_VERSION = re.compile(r"[0-9]{1,18}")
_V2_TYPES = {
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"{kind}INT{bits}": f"{kind.lower()}int{bits}" for kind in ("", "U") for bits in (8, 16, 32, 64)},
}


def is_event(line: bytes) -> bool:
    """Whether a file that begins with this line holds events."""
    try:
        fields = load(line)
    except ValueError:  # a client can do this to a line; the collector put these words around it
        return b"specversion" in line or b"ce-id" in line.lower()
    return isinstance(fields, dict) and "type" in _attributes(fields)


class _Event(NamedTuple):
    fields: dict[str, Any]  # the JSON object of the line
    attributes: dict[str, Any]


class _Index(NamedTuple):
    """Where the requests of a file stand, in its order, and which version answered each of them."""

    offsets: array.array[int]
    versions: array.array[int]  # `_UNKNOWN` where it was not recorded
    truncated: str | None  # the message about the last line, if it is cut off


class EventsFile(LogFile):
    """A file of events.

    It is read as a whole once, for the version that answered each request: the answer can stand anywhere. From then
    on, 16 bytes are kept of each request, and each pass reads the requests only.

    Args:
        file: the file.
        dtype: the type of the inputs in bodies of the v1 protocol, which do not state it.
    """

    def __init__(self, file: StoredFile, dtype: str = "float32") -> None:
        super().__init__(file)
        self._dtype = dtype

    def entries(self) -> Iterator[LogEntry]:
        """Reads the requests.

        Raises:
            TruncatedError: the last line is not whole.
        """
        index = self._index
        with self.file.open() as opened:
            for offset, version in zip(index.offsets, index.versions, strict=True):
                opened.seek(offset)
                event = self._parse(offset, opened.readline(longest_line(opened)))
                if isinstance(event, UnreadableEntry):
                    yield event
                    continue
                yield EventEntry(
                    file=self.file,
                    offset=offset,
                    client=_client(event.attributes.get("metadata")),
                    time=_seconds(event.attributes.get("time")),
                    model=event.attributes.get("inferenceservicename"),
                    version=None if version == _UNKNOWN else version,
                    event=event.fields,
                    dtype=self._dtype,
                )
        if index.truncated is not None:
            raise TruncatedError(index.truncated)

    @functools.cached_property
    def start_time(self) -> float | None:
        """The first time of a request, which can be found without the versions."""
        try:
            return first_time(
                _seconds(event.attributes.get("time"))
                for _, event in self._events()
                if isinstance(event, _Event) and event.attributes.get("type") == REQUEST
            )
        except (LogError, OSError):  # reported by the pass that comes to it
            return None

    @functools.cached_property
    def _index(self) -> _Index:
        offsets = array.array("q")
        requests: dict[str, int] = {}  # by id: the number of the request, `_UNKNOWN` if there are several
        answers: dict[str, int] = {}  # by id: the version, `_UNKNOWN` if there are several
        truncated = None
        try:
            for offset, event in self._events():
                if isinstance(event, UnreadableEntry):
                    offsets.append(offset)
                    continue
                kind, name = event.attributes.get("type"), str(event.attributes.get("id", ""))
                if kind == REQUEST:
                    requests[name] = _UNKNOWN if name in requests else len(offsets)
                    offsets.append(offset)
                elif kind == RESPONSE:
                    answers[name] = _UNKNOWN if name in answers else _version(event.fields)
        except (TruncatedError, CutOffError) as error:
            truncated = str(error)
        versions = array.array("q", [_UNKNOWN]) * len(offsets)
        for name, version in answers.items():
            number = requests.get(name, _UNKNOWN)
            if number != _UNKNOWN:
                versions[number] = version
        return _Index(offsets, versions, truncated)

    def _events(self) -> Iterator[tuple[int, _Event | UnreadableEntry]]:
        """Yields the offset and the content of each line."""
        for offset, line in read_lines(self.file):
            yield offset, self._parse(offset, line)

    def _parse(self, offset: int, line: bytes | None) -> _Event | UnreadableEntry:
        try:
            fields = parse(line)
        except ValueError as error:
            return unreadable(self.file, offset, line, error)
        return _Event(fields, _attributes(fields))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventEntry(LogEntry):
    """The event of a request.

    Attributes:
        event: the JSON object of its line.
        dtype: the type of inputs whose body does not state it.
    """

    event: dict[str, Any]
    dtype: str

    def inputs(self, name: str | None) -> Array:
        body = _body(self.event)
        key = next((key for key in ("instances", "inputs") if key in body), None)
        if key is None:
            raise UnusableError("its body has neither 'instances' nor 'inputs'")
        try:
            return _tensor(body[key], name, self.dtype)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise UnusableError(f"its inputs are no array: {type(error).__name__}: {error}") from error


def _attributes(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the attributes of an event in either form."""
    headers = fields.get("headers")
    if not isinstance(headers, dict):
        return fields if "specversion" in fields else {}
    return {name.lower().removeprefix("ce-"): value for name, value in headers.items() if name.lower()[:3] == "ce-"}


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON object that was sent.

    Raises:
        UnusableError: there is none.
    """
    try:
        for name in ("data", "body"):
            if f"{name}_base64" in fields:
                return _object(load(base64.b64decode(fields[f"{name}_base64"], validate=True), is_whole=False))
            if name in fields:
                value = fields[name]
                return _object(load(value, is_whole=False) if isinstance(value, str) else value)
    except (ValueError, TypeError, binascii.Error) as error:
        raise UnusableError(f"its body is no JSON object: {error}") from error
    raise UnusableError("its event has no data")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is a list or a single value")
    return value


def _version(answer: dict[str, Any]) -> int:
    """Reads the version in an answer of the v2 protocol, a string; servers other than Triton fill it otherwise."""
    try:
        version = _body(answer).get("model_version")
    except UnusableError:
        return _UNKNOWN
    return int(version) if isinstance(version, str) and _VERSION.fullmatch(version) else _UNKNOWN


def _tensor(value: Any, name: str | None, dtype: str) -> Array:
    if isinstance(value, dict) and not is_base64(value):  # columns by name
        return to_array(value[input_name(value, name)], dtype)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict) or is_base64(value[0]):
        return to_array(value, dtype)
    if "datatype" not in value[0]:  # rows by name
        name = input_name({key for key, _ in rapid_json.members(value[0])}, name)
        return to_array(rapid_json.values(value, name), dtype)[: len(value)]
    tensors = {tensor["name"]: tensor for tensor in value}  # v2
    tensor = tensors[input_name(tensors, name)]
    if tensor["datatype"] == "BYTES":
        flat = to_array(tensor["data"], "bool")
        if flat.dtype.kind != "O":
            raise ValueError("data of type BYTES must be strings")
    else:
        flat = np.array(tensor["data"], _V2_TYPES[tensor["datatype"]])
    return flat.reshape(tuple(map(int, tensor["shape"])))


def _client(metadata: Any) -> str | None:
    """Reads the client's name out of the headers that KServe adds: names, each with a list of values."""
    try:
        headers = load(metadata) if isinstance(metadata, str) else metadata
        return read_client([(name, value) for name, values in headers.items() for value in values], CLIENT_HEADER)
    except (ValueError, AttributeError, TypeError):
        return None


def _seconds(time: Any) -> float | None:
    """Reads a time of RFC 3339, of which Go writes nine digits of the second."""
    found = _TIME.fullmatch(time) if isinstance(time, str) else None
    if not found:
        return None
    try:
        whole = datetime.datetime.fromisoformat(found["whole"] + found["zone"].replace("Z", "+00:00"))
    except ValueError:
        return None
    return whole.timestamp() + float(found["part"] or 0)
