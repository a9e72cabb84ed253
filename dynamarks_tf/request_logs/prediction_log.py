"""`PredictionLog`, the message in which TensorFlow Serving logs requests and takes warm-up requests.

A log is a TFRecord file of them. Each holds request and response as they went over the wire, and in `log_metadata`:

- `model_spec`: the model, version and signature that answered;
- `timestamp_secs`: when, in whole seconds since 1970; the rest of the second stands, in microseconds, in a field of
  our own. Other readers skip it, as they must with fields of protocol buffers that they do not know;
- `request_origin`: the client's name, empty if unknown. TensorFlow Serving calls it the "request origin identifier".
  The request itself stays as the client sent it, and so does its own field `client_id`.

Every reader of `PredictionLog` takes such a file, and TensorFlow Serving takes up to 1,000 records of it for warm-up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from dynamarks_tf._support import tensor_proto
from dynamarks_tf.request_logs.entries import (
    Array,
    LogEntry,
    LogFile,
    UnreadableEntry,
    UnusableError,
    input_name,
)
from dynamarks_tf.request_logs.tf_record import Damage, read_records

if TYPE_CHECKING:
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

UNDECODED = "undecoded REST body"  # the name of the only tensor in an entry with bodies as they were sent

# Numbers of fields: twice of PredictionLog, twice of PredictLog, of PredictResponse, and three times of LogMetadata.
_METADATA = 1
_PREDICT_LOG = 6
_REQUEST = 1
_RESPONSE = 2
_RESPONSE_SPEC = 2
_METADATA_SPEC = 1
_SECONDS = 4
_ORIGIN = 6

# Our own field of LogMetadata, far above the numbers that TensorFlow Serving uses: the rest of `timestamp_secs`.
_MICROSECONDS = 51_015


def encode(
    request: predict_pb2.PredictRequest,
    response: predict_pb2.PredictResponse,
    *,
    client: str | None = None,
    time: float = 0.0,
) -> bytes:
    """Returns a serialized `PredictionLog`.

    Args:
        request: the request.
        response: the answer to it.
        client: the client's name.
        time: when, in seconds since 1970; microseconds are kept.
    """
    return encode_bytes(request.SerializeToString(), response.SerializeToString(), client=client, time=time)


def encode_bytes(
    request: bytes | memoryview, response: bytes, *, client: str | None = None, time: float = 0.0
) -> bytes:
    """Returns the same from serialized messages, whose tensors are neither decoded nor copied more than once.

    It needs no TensorFlow.

    Raises:
        DecodeError: `response` is no message.
    """
    seconds, microseconds = divmod(math.floor(time * 1e6), 1_000_000)
    spec, origin = _split(response).get(_RESPONSE_SPEC, b""), (client or "").encode("utf-8")
    metadata = (
        *_field(_METADATA_SPEC, spec),
        *_number(_SECONDS, seconds),
        *_number(_MICROSECONDS, microseconds),
        *_field(_ORIGIN, origin),
    )
    inner = (*_field(_REQUEST, request), *_field(_RESPONSE, response))
    return b"".join((*_field(_METADATA, b"".join(metadata)), _key(_PREDICT_LOG), _varint(sum(map(len, inner))), *inner))


def _number(number: int, value: int) -> tuple[bytes, bytes] | tuple[()]:
    return (_varint(number << 3), _varint(value)) if value else ()


def _field(number: int, data: bytes | memoryview) -> tuple[bytes, bytes, bytes | memoryview]:
    return _key(number), _varint(len(data)), data


def _key(number: int) -> bytes:
    return bytes([number << 3 | 2])  # 2: preceded by its length


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


class PredictionLogFile(LogFile):
    """A TFRecord file of `PredictionLog` messages."""

    def entries(self) -> Iterator[LogEntry]:
        """Reads the file.

        Raises:
            TruncatedError: the last record is not whole.
        """
        for offset, data in read_records(self.file):
            if isinstance(data, Damage):
                yield UnreadableEntry(file=self.file, offset=offset, problem=f"it is corrupt: {data.problem}")
                continue
            try:
                log = _parse(data)
            except DecodeError:
                yield UnreadableEntry(file=self.file, offset=offset, problem="it is no PredictionLog message")
                continue
            metadata = log.log_metadata
            spec = metadata.model_spec
            yield PredictionEntry(
                file=self.file,
                offset=offset,
                client=metadata.request_origin or None,
                time=_time(metadata),
                model=spec.name or log.predict_log.request.model_spec.name or None,
                version=_version(log, spec),
                message=log,
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionEntry(LogEntry):
    """A `PredictionLog`.

    Attributes:
        message: the message itself.
    """

    message: prediction_log_pb2.PredictionLog

    def inputs(self, name: str | None) -> Array:
        kind = self.message.WhichOneof("log_type")
        if kind != "predict_log":
            raise UnusableError(f"it is a {kind or 'message without a request'}, not a predict_log")
        tensors = self.message.predict_log.request.inputs
        if UNDECODED in tensors:
            raise UnusableError("its inputs could not be decoded when it was logged")
        name = input_name(tensors, name)  # looking a missing name up would add it to the message
        try:
            return tensor_proto.read_rows(tensors[name])
        except ValueError as error:
            raise UnusableError(f"its input {name!r} cannot be decoded: {error}") from error


def _time(metadata: Any) -> float | None:
    seconds = float(metadata.timestamp_secs)
    for field in UnknownFieldSet(metadata):
        if field.field_number == _MICROSECONDS and isinstance(field.data, int):
            seconds += field.data / 1e6
    return seconds or None


def _version(log: prediction_log_pb2.PredictionLog, spec: Any) -> int | None:
    """Returns the version that answered; one that was asked for by number is the one that answered."""
    if spec.HasField("version"):
        return int(spec.version.value)
    for part in (log.predict_log.response, log.predict_log.request):
        if part.model_spec.HasField("version"):
            return int(part.model_spec.version.value)
    return None


def _parse(data: bytes) -> prediction_log_pb2.PredictionLog:
    """Parses a record, which a client can have nested as deep as the server allows.

    In the record its request stands two levels deeper, too deep for the parser; by itself it is not.

    Raises:
        DecodeError: it is another message.
    """
    message = _message()
    try:
        return message.FromString(data)
    except DecodeError:
        log = message()
        parts = _split(data)
        log.log_metadata.MergeFromString(parts.get(_METADATA, b""))
        parts = _split(parts.get(_PREDICT_LOG, b""))
        log.predict_log.request.MergeFromString(parts.get(_REQUEST, b""))
        log.predict_log.response.MergeFromString(parts.get(_RESPONSE, b""))
        return log


@functools.cache
def _message() -> type[prediction_log_pb2.PredictionLog]:
    from tensorflow_serving.apis import prediction_log_pb2

    message: type[prediction_log_pb2.PredictionLog] = prediction_log_pb2.PredictionLog
    return message


def _split(data: bytes) -> dict[int, bytes]:
    """Returns the fields of a message that are preceded by their length, by number, unparsed."""
    fields = UnknownFieldSet(empty_pb2.Empty.FromString(data))
    return {field.field_number: field.data for field in fields if isinstance(field.data, bytes)}
