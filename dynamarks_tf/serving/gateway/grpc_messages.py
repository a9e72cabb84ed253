"""gRPC over HTTP/2: the headers of requests and answers, and the one message in each."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from dynamarks_tf.serving.gateway.header_blocks import Fields, encode
from dynamarks_tf.serving.gateway.http2_frames import Http2Error, Problem
from dynamarks_tf.serving.protocol.status import Code, StatusError

PREFIX_BYTES = 5  # before each message: a flag for compression, and the length
ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

_NAME = re.compile(rb":?[0-9a-z!#$%&'*+.^_`|~-]+")
_NAME_OF_GRPC = re.compile(r"[0-9a-z_.-]+")
_VALUE_OF_GRPC = re.compile(r"([!-~]([ -~]*[!-~])?)?")
_BASE64 = re.compile(r"[A-Za-z0-9+/=,]*")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_PSEUDO = {b":method", b":scheme", b":path", b":authority"}
_NEEDED = {b":method", b":scheme", b":path"}
_OF_HTTP_1 = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_OWN = {"te", "host", "user-agent", "content-type", "content-length", "grpc-encoding", "grpc-accept-encoding"}
_GRPC_PASSED_ON = {"grpc-timeout", "grpc-previous-rpc-attempts", "grpc-trace-bin", "grpc-tags-bin"}
_CONTENT_TYPE = re.compile(r"application/grpc(\+proto)?\s*(;.*)?", re.IGNORECASE)
_TIMEOUT = re.compile(r"(?P<count>[0-9]{1,8})(?P<unit>[HMSmun])")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # characters that need no escape in grpc-message
_HTTP_CODES = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


@dataclass(frozen=True)
class RequestHead:
    """The headers of a request.

    Attributes:
        path: the method that is called.
        headers: all headers except those whose names begin with a colon.
        block: the header block for the upstream server.
        encoding: the compression of a compressed message.
        timeout_s: seconds that the client waits, if it says so.
        problem: the reason to refuse the request, if there is one.
    """

    path: str
    headers: tuple[tuple[str, str], ...]
    block: bytes
    encoding: str
    timeout_s: float | None
    problem: StatusError | None


def read_request(fields: Fields, *, authority: str, is_passed_on: Callable[[str], bool]) -> RequestHead:
    """Reads the headers of a request.

    Args:
        fields: the headers.
        authority: the `:authority` of the upstream server.
        is_passed_on: whether a header is passed on to the upstream server.

    Raises:
        Http2Error: these are no headers of a request in HTTP/2.
    """
    pseudo: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _malformed("a header has characters that are not allowed")
        if not name.startswith(b":"):
            if name in _OF_HTTP_1 or (name == b"te" and value != b"trailers"):
                raise _malformed("a header is not of HTTP/2")
            regular.append((name, value))
        elif regular or name in pseudo or name not in _PSEUDO:
            raise _malformed("a header that begins with a colon is unknown, repeated or late")
        else:
            pseudo[name] = value
    if not pseudo.keys() >= _NEEDED or not pseudo[b":path"]:
        raise _malformed("method, scheme or path are missing")
    headers = tuple((name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in regular)
    path = pseudo[b":path"].decode("utf-8", "replace")
    timeout_s, problem = None, None
    try:
        timeout_s = _timeout(headers)
        _check_metadata(headers)
        if pseudo[b":method"] != b"POST" or not _CONTENT_TYPE.fullmatch(_only(headers, "content-type")):
            problem = StatusError(Code.INTERNAL, "This is no call of gRPC, which is a POST of application/grpc.")
        encoding = _only(headers, "grpc-encoding", "identity")
    except StatusError as error:
        encoding, problem = "", error
    block = encode(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", pseudo[b":path"]),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"grpc-accept-encoding", b"identity"),
            *((name, value) for name, value in regular if _is_metadata(name.decode()) and is_passed_on(name.decode())),
        ]
    )
    return RequestHead(path, headers, block, encoding, timeout_s, problem)


def _is_metadata(name: str) -> bool:
    """Whether a header is the client's own, and not of the connection."""
    return name not in _OWN and (not name.startswith("grpc-") or name in _GRPC_PASSED_ON)


def _check_metadata(headers: tuple[tuple[str, str], ...]) -> None:
    for name, value in headers:
        allowed = _BASE64 if name.endswith("-bin") else _VALUE_OF_GRPC
        if not _NAME_OF_GRPC.fullmatch(name) or not allowed.fullmatch(value):
            raise StatusError(Code.INTERNAL, "A header has characters that gRPC does not allow.")


def _malformed(text: str) -> Http2Error:
    return Http2Error(Problem.PROTOCOL_ERROR, text)


def _only(headers: tuple[tuple[str, str], ...], name: str, default: str = "") -> str:
    values = [value for each, value in headers if each == name]
    if len(values) > 1:
        raise StatusError(Code.INTERNAL, f"The header {name} comes twice.")
    return values[0] if values else default


def _timeout(headers: tuple[tuple[str, str], ...]) -> float | None:
    text = _only(headers, "grpc-timeout")
    if not text:
        return None
    found = _TIMEOUT.fullmatch(text)
    if not found:
        raise StatusError(Code.INTERNAL, "The header grpc-timeout is malformed.")
    return int(found["count"]) * _UNIT_S[found["unit"]]


@dataclass(frozen=True)
class AnswerHead:
    """Headers or trailers of an answer.

    Attributes:
        block: the header block for the client.
        http_status: HTTP's status, `None` in trailers.
        status: gRPC's status, `None` if there is none.
    """

    block: bytes
    http_status: int | None
    status: int | None


def read_answer(fields: Fields) -> AnswerHead:
    """Reads headers or trailers of an answer.

    Raises:
        Http2Error: these are no headers of an answer in HTTP/2.
    """
    statuses = [value for name, value in fields if name == b"grpc-status"]
    http = [value for name, value in fields if name == b":status"]
    if len(http) > 1 or not all(value.isdigit() and len(value) == 3 for value in http):
        raise _malformed("an answer has no proper status")
    if statuses and not (len(statuses) == 1 and statuses[0].isdigit() and len(statuses[0]) < 5):
        raise _malformed("an answer has no proper grpc-status")
    return AnswerHead(encode(fields), int(http[0]) if http else None, int(statuses[0]) if statuses else None)


@functools.lru_cache(256)
def refusal(code: Code, message: str) -> bytes:
    """Returns the only block of an answer that refuses a request."""
    fields = [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", str(int(code)).encode()),
        (b"grpc-message", quote(message, safe=_PLAIN).encode()),
    ]
    return encode(fields)


def code_name(status: int) -> str:
    """Returns the name of one of gRPC's codes."""
    try:
        return "OK" if status == 0 else Code(status).name
    except ValueError:
        return Code.UNKNOWN.name


def code_of_http(status: int | None) -> Code:
    """Returns the code for an answer that is not one of gRPC."""
    return _HTTP_CODES.get(status or 0, Code.UNKNOWN)


def is_whole(body: bytes) -> bool:
    """Whether a body is one message, not compressed, and nothing else."""
    return len(body) >= PREFIX_BYTES and body[0] == 0 and int.from_bytes(body[1:PREFIX_BYTES], "big") + 5 == len(body)


def with_prefix(message: bytes) -> bytes:
    """Returns the body that holds one message."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def unpack(message: bytes, encoding: str, most: int) -> bytes:
    """Decompresses a message.

    Raises:
        StatusError: it is not compressed in this way, or larger than `most` bytes.
    """
    unpacker = zlib.decompressobj(ENCODINGS[encoding])
    try:
        unpacked = unpacker.decompress(message, most)
        is_more = bool(unpacker.decompress(unpacker.unconsumed_tail, 1))
    except zlib.error:
        raise StatusError(Code.INTERNAL, f"The message is no {encoding}.") from None
    if is_more:
        raise StatusError(Code.RESOURCE_EXHAUSTED, f"The message is larger than {most} bytes after decompression.")
    if not unpacker.eof or unpacker.unused_data:
        raise StatusError(Code.INTERNAL, f"The message is no {encoding}.")
    return unpacked
