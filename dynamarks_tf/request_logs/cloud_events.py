"""Request logs of KServe's payload logger: CloudEvents, one JSON object a line.

KServe's logger sends an event for each request and each answer to whatever collects them, joined by their `id`. The
collector writes each down as one line, in one of two forms:

    {"specversion": "1.0", "id": "7f", "type": "org.kubeflow.serving.inference.request", "data": {"instances": [...]},
     "inferenceservicename": "clf", "metadata": "{\\"X-Client-Id\\":[\\"alice\\"]}", "time": "2026-01-02T03:04:05Z"}
    {"headers": {"ce-id": "7f", "ce-type": "org.kubeflow.serving.inference.response", ...}, "body": "{...}"}

The first is the CloudEvents JSON format (`data`, or `data_base64`); the second is what KServe sends, an HTTP request
whose headers carry the attributes (`body`, or `body_base64`). Bodies are those of the v1 protocol (`instances` or
`inputs`, `predictions` or `outputs`) and of the Open Inference protocol v2 (`inputs` and `outputs` with name, shape,
datatype and data). The client is what the header `x-client-id` says, which KServe adds to the events if the
InferenceService asks for it: `logger: {metadataHeaders: ["X-Client-Id"]}`.

Requests are read in the order of their answers; requests without an answer come last, without answers. Other types of
events are skipped.
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
from typing import Any

import numpy as np

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, read_client
from dynamarks_tf.request_logs.records import Array, LogRecord, TruncatedError, UnusableError

REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"
BUFFER = 2**20  # bytes

_TIME = re.compile(r"(?P<whole>[^.Z+]{19})(?P<part>\.[0-9]+)?(?P<zone>Z|[+-][0-9:]{5})")
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
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "type" in _attributes(fields)


def read(path: Path, size: int, *, dtype: str = "float32") -> Iterator[LogRecord]:
    """Reads a file of events.

    Args:
        path: the file.
        size: how many bytes of it to read.
        dtype: the type of the inputs in bodies of the v1 protocol, which do not tell it; answers there are float32.

    Raises:
        TruncatedError: the last line is not whole.
        LogError: a line is no event.
    """
    waiting: dict[str, tuple[int, int]] = {}  # where the requests are whose answers have not come yet
    offset = 0
    problem: TruncatedError | None = None
    with path.open("rb", buffering=BUFFER) as file:
        while offset < size:
            file.seek(offset)
            line = file.readline(size - offset)
            try:
                fields = json.loads(line) if line.strip() else {}
                attributes = _attributes(fields)
            except (ValueError, RecursionError, AttributeError) as error:
                if line.endswith(b"\n"):
                    raise LogError(f"{path}: the line at offset {offset} is corrupt: {error}") from error
                problem = TruncatedError(f"{path}: the last line, at offset {offset}, is cut off and is skipped")
                break
            name = str(attributes.get("id", ""))
            if attributes.get("type") == REQUEST:
                waiting[name] = (offset, len(line))
            elif attributes.get("type") == RESPONSE and name in waiting:
                start, length = waiting.pop(name)
                file.seek(start)
                yield _record(path, start, json.loads(file.read(length)), fields, dtype)
            offset += len(line)
        for start, length in waiting.values():
            file.seek(start)
            yield _record(path, start, json.loads(file.read(length)), None, dtype)
    if problem is not None:
        raise problem


@dataclasses.dataclass(frozen=True)
class EventRecord(LogRecord):
    """The event of a request, and that of its answer.

    Attributes:
        request: the JSON object of the request's line.
        response: that of the answer's line; `None` if there is none.
        dtype: the type of inputs whose body does not tell it.
    """

    request: dict[str, Any]
    response: dict[str, Any] | None
    dtype: str

    def inputs(self, name: str | None) -> Array:
        return _tensor(_body(self.request), ("instances", "inputs"), name, self.dtype, "input")

    def answers(self, name: str | None) -> Array:
        if self.response is None:
            raise UnusableError("its answer was not logged")
        return _tensor(_body(self.response), ("predictions", "outputs"), name, "float32", "output")


def _record(
    path: Path, offset: int, request: dict[str, Any], response: dict[str, Any] | None, dtype: str
) -> EventRecord:
    attributes = _attributes(request)
    return EventRecord(
        path,
        offset,
        client=_client(attributes.get("metadata")),
        time=_seconds(attributes.get("time")),
        model=attributes.get("inferenceservicename"),
        request=request,
        response=response,
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
                return _object(json.loads(base64.b64decode(fields[f"{name}_base64"], validate=True)))
            if name in fields:
                value = fields[name]
                return _object(json.loads(value) if isinstance(value, str) else value)
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise UnusableError(f"its body is no JSON object: {error}") from error
    raise UnusableError("its event has no data")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is a list or a single value")
    return value


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
