"""Request logs of KServe's payload logger: CloudEvents, one JSON object a line.

KServe's logger sends an event for each request and each answer to whatever collects them, joined by their `id`. The
collector writes each down as one line, in one of two forms:

    {"specversion": "1.0", "id": "7f", "type": "org.kubeflow.serving.inference.request", "data": {"instances": [...]},
     "inferenceservicename": "clf", "metadata": "{\\"X-Client-Id\\":[\\"alice\\"]}", "time": "2026-01-02T03:04:05Z"}
    {"headers": {"ce-id": "7f", "ce-type": "org.kubeflow.serving.inference.response", ...}, "body": "{...}"}

The first is the CloudEvents JSON format (`data`, or `data_base64`); the second is what KServe sends, an HTTP request
whose headers carry the attributes (`body`, or `body_base64`). Bodies are those of the v1 protocol (`instances` or
`inputs`, `predictions` or `outputs`) and of the Open Inference protocol v2 (`inputs` and `outputs` with name, shape,
datatype and data). The version is the `model_version` of an answer of v2, if that is a number; else it is not recorded.
The client is what the header `x-client-id` says, which KServe adds to the events if the InferenceService asks for it:
`logger: {metadataHeaders: ["X-Client-Id"]}`.

A client may choose the id, so that a repeated one proves nothing: only where one request and one answer have an id do
they belong together, whichever came first. All other requests are read without an answer, and answers without a
request are not read. Requests come in their order, those of one id together. Other types of events are skipped.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, read_client
from dynamarks_tf.request_logs.entries import Array, LogEntry, TruncatedError, UnusableError, unreadable
from dynamarks_tf.request_logs.json_keys import first_wins

REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"
BUFFER = 2**20  # bytes

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
        fields = _load(line)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):  # what a client can do to a line; the collector put these words around it
        return b"specversion" in line or b"ce-id" in line.lower()
    return isinstance(fields, dict) and "type" in _attributes(fields)


def read(path: Path, size: int, *, dtype: str = "float32") -> Iterator[LogEntry]:
    """Reads a file of events, twice; of each it remembers the id and the place.

    Args:
        path: the file.
        size: how many bytes of it to read.
        dtype: the type of the inputs in bodies of the v1 protocol, which do not tell it; answers there are float32.

    Raises:
        TruncatedError: the last line is not whole.
        LogError: a line is no event.
    """
    places: dict[str, tuple[list[int], list[int]]] = {}  # of requests and answers, by id
    offset = 0
    problem: TruncatedError | None = None
    with path.open("rb", buffering=BUFFER) as file:
        while offset < size:
            line = file.readline(size - offset)
            try:
                attributes = _attributes(_load(line)) if line.strip() else {}
            except (ValueError, RecursionError, AttributeError) as error:
                if not line.endswith(b"\n"):
                    problem = TruncatedError(f"{path}: the last line, at offset {offset}, is cut off and is skipped")
                    break
                if isinstance(error, (json.JSONDecodeError, AttributeError)):
                    raise LogError(f"{path}: the line at offset {offset} is corrupt: {error}") from error
                yield unreadable(path, offset, f"its line cannot be parsed: {error}")
                attributes = {}
            if attributes.get("type") in (REQUEST, RESPONSE):
                requests, responses = places.setdefault(str(attributes.get("id", "")), ([], []))
                (requests if attributes["type"] == REQUEST else responses).append(offset)
            offset += len(line)
        for requests, responses in places.values():
            is_pair = len(requests) == len(responses) == 1
            unanswered = (
                f"its answer is uncertain: requests with its id: {len(requests)}, answers: {len(responses)}"
                if responses
                else "its answer was not logged"
            )
            for start in requests:
                request = _line(file, start, size)
                response = _line(file, responses[0], size) if is_pair else None
                yield _record(path, start, request, response, unanswered, dtype)
    if problem is not None:
        raise problem


def _line(file: BinaryIO, start: int, size: int) -> dict[str, Any]:
    file.seek(start)
    fields: dict[str, Any] = _load(file.readline(size - start))
    return fields


def _load(data: str | bytes) -> Any:
    """Parses JSON; strings may hold bytes that are not UTF-8, as model servers let them."""
    text = data.decode("utf-8-sig", "surrogateescape") if isinstance(data, bytes) else data
    return json.loads(text, object_pairs_hook=first_wins)


@dataclasses.dataclass(frozen=True)
class EventRecord(LogEntry):
    """The event of a request, and that of its answer.

    Attributes:
        request: the JSON object of the request's line.
        response: that of the answer's line; `None` if there is none, or none for certain.
        unanswered: why it is `None`, if it is.
        dtype: the type of inputs whose body does not tell it.
    """

    request: dict[str, Any]
    response: dict[str, Any] | None
    unanswered: str
    dtype: str

    def inputs(self, name: str | None) -> Array:
        return _tensor(_body(self.request), ("instances", "inputs"), name, self.dtype, "input")

    def answers(self, name: str | None) -> Array:
        if self.response is None:
            raise UnusableError(self.unanswered)
        return _tensor(_body(self.response), ("predictions", "outputs"), name, "float32", "output")


def _record(
    path: Path, offset: int, request: dict[str, Any], response: dict[str, Any] | None, unanswered: str, dtype: str
) -> EventRecord:
    attributes = _attributes(request)
    return EventRecord(
        path,
        offset,
        client=_client(attributes.get("metadata")),
        time=_seconds(attributes.get("time")),
        model=attributes.get("inferenceservicename"),
        version=None if response is None else _version(response),
        request=request,
        response=response,
        unanswered=unanswered,
        dtype=dtype,
    )


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
                return _object(_load(base64.b64decode(fields[f"{name}_base64"], validate=True)))
            if name in fields:
                value = fields[name]
                return _object(_load(value) if isinstance(value, str) else value)
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise UnusableError(f"its body is no JSON object: {error}") from error
    raise UnusableError("its event has no data")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is a list or a single value")
    return value


def _version(response: dict[str, Any]) -> int | None:
    """Reads the version in an answer of the v2 protocol, a string; servers other than Triton put other things there."""
    try:
        version = _body(response).get("model_version")
    except UnusableError:
        return None
    return int(version) if isinstance(version, str) and _VERSION.fullmatch(version) else None


def _tensor(body: dict[str, Any], keys: tuple[str, str], name: str | None, dtype: str, what: str) -> Array:
    key = next((key for key in keys if key in body), None)
    if key is None:
        raise UnusableError(f"its body has neither {keys[0]!r} nor {keys[1]!r}")
    value = body[key]
    try:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            if "datatype" in value[0]:  # v2
                tensor = _pick({part["name"]: part for part in value}, name, what)
                flat: Array = np.array(tensor["data"], _V2_TYPES[tensor["datatype"]])
                return flat.reshape(tuple(map(int, tensor["shape"])))
            name = name or _only(value[0], what)
            return np.array([row[name] for row in value], dtype)
        return np.array(_pick(value, name, what) if isinstance(value, dict) else value, dtype)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UnusableError(f"its {what}s are no array: {type(error).__name__}: {error}") from error


def _pick(tensors: Mapping[str, Any], name: str | None, what: str) -> Any:
    name = name or _only(tensors, what)
    if name not in tensors:
        raise UnusableError(f"its {what}s are: {', '.join(sorted(tensors))}; not {name!r}")
    return tensors[name]


def _only(tensors: Mapping[str, Any], what: str) -> str:
    if len(tensors) != 1:
        raise UnusableError(f"its {what}s are: {', '.join(sorted(tensors)) or 'none'}; say which with {what}=")
    return next(iter(tensors))


def _client(metadata: Any) -> str | None:
    """Reads the client's name out of the headers that KServe adds: names, each with a list of values."""
    try:
        headers = json.loads(metadata) if isinstance(metadata, str) else metadata
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
