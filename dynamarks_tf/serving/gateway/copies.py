"""A request and its answer as Envoy sends them, and what of them goes into the log.

Nothing is unpacked or decoded before the writer's thread does it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, read_client
from dynamarks_tf.request_logs.prediction_log import encode_bytes
from dynamarks_tf.serving.gateway.rest_prediction import RestDecoder, RestPrediction, encode_undecoded

try:
    from pybase64 import b64decode  # takes a fifth of the time
except ImportError:
    from base64 import b64decode  # type: ignore[assignment]

MOST_UNPACKED_BYTES = 2**29
PREFIX_BYTES = 5  # before each message of gRPC: a flag for compression, and the length

_ENCODINGS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


@dataclass(frozen=True)
class Copy:
    """A request and its answer, in base64, as Envoy's script kept them.

    Attributes:
        path: the path of the request.
        client: the client's name, if known.
        time: when the request came, in seconds since 1970.
    """

    path: str
    client: str | None
    time: float
    _request: bytes
    _request_encoding: bytes
    _answer: bytes
    _answer_encoding: bytes

    @classmethod
    def read(cls, common: Any) -> Copy:
        """Reads the copy in an entry of Envoy's access log.

        Raises:
            Exception: there is none in it.
        """
        (values,) = (each.value.fields for each in common.metadata.filter_metadata if each.key == b"dynamarks")
        kept = {each.key: each.value.string_value for each in values}
        path, client, encoding, answer_encoding = (
            b64decode(kept.get(key, b"")) for key in (b"path", b"client", b"encoding", b"answer_encoding")
        )
        named = read_client([(CLIENT_HEADER, client.decode("utf-8", "surrogateescape"))], CLIENT_HEADER)
        return cls(
            path.decode("utf-8", "replace"),
            named,
            seconds(common.start_time),
            kept[b"request"],
            encoding,
            kept[b"answer"],
            answer_encoding,
        )

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return len(self._request) + len(self._answer)

    def encode_grpc(self) -> bytes:
        """Returns a serialized `PredictionLog` of a call of Predict.

        Raises:
            LogError: a body is no message.
        """
        request = _message(b64decode(self._request), self._request_encoding)
        answer = _message(b64decode(self._answer), self._answer_encoding)
        return encode_bytes(request, bytes(answer), client=self.client, time=self.time)

    def encode_rest(self, decoder: RestDecoder) -> bytes:
        """Returns a serialized `PredictionLog` of a prediction over REST.

        Raises:
            LogError: it cannot be decoded.
        """
        answer: bytes | memoryview = b64decode(self._answer)
        if self._answer_encoding not in (b"", b"identity"):
            answer = _unpack(answer, self._answer_encoding)
        return decoder.encode(
            RestPrediction(self.path, b64decode(self._request), bytes(answer), self.client, self.time)
        )

    def encode_undecoded(self) -> bytes:
        """Returns a serialized `PredictionLog` with the bodies as they were sent."""
        request, answer = b64decode(self._request), b64decode(self._answer)
        return encode_undecoded(RestPrediction(self.path, request, answer, self.client, self.time))


def seconds(stamp: Any) -> float:
    """Returns a time or a duration of Envoy in seconds."""
    return float(stamp.seconds + stamp.nanos / 1e9)


def _message(body: bytes, encoding: bytes) -> bytes | memoryview:
    """Returns the first message of a body, which is the one that a server answers."""
    size = int.from_bytes(body[1:PREFIX_BYTES], "big")
    content = memoryview(body)[PREFIX_BYTES : PREFIX_BYTES + size]
    if len(body) < PREFIX_BYTES + size:
        raise LogError("its body is no message of gRPC")
    return _unpack(content, encoding) if body[0] else content


def _unpack(data: bytes | memoryview, encoding: bytes) -> bytes:
    if encoding not in _ENCODINGS:
        raise LogError("its body is compressed in an unknown way")
    unpacker = zlib.decompressobj(_ENCODINGS[encoding])
    try:
        unpacked = unpacker.decompress(data, MOST_UNPACKED_BYTES)
    except zlib.error as error:
        raise LogError("its body cannot be unpacked") from error
    if not unpacker.eof:
        raise LogError(f"its body is cut off, or larger than {MOST_UNPACKED_BYTES} bytes when unpacked")
    return unpacked
