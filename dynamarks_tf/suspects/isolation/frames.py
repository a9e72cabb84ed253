"""Messages between this process and a suspect's: a header in JSON and at most one array, each of a stated size."""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST_ANSWERS = 1 << 30  # bytes
_MOST_HEADER = 1 << 20
_BYTES_OF_TEXT = 64  # that each takes beside its characters
_LENGTH = struct.Struct(">I")
_NUMBERS = {np.dtype(f"{kind}{size}").str for kind in "iuf" for size in (1, 2, 4, 8) if (kind, size) != ("f", 1)} | {
    np.dtype(bool).str
}
_TEXTS = {"bytes": bytes, "str": str}


class FrameError(Exception):
    """The other side sent no message, or one that is not accepted."""


class Deadline:
    """A moment at which waiting ends.

    Args:
        seconds: from now; `None` for never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds until then.

        Raises:
            TimeoutError: it has passed.
        """
        if self._end is None:
            return None
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


def send(
    connection: socket.socket, header: dict[str, Any], array: Array | None = None, deadline: Deadline | None = None
) -> None:
    """Sends a message.

    Args:
        connection: the connection.
        header: what JSON can hold.
        array: an array of numbers, text or bytes.
        deadline: when waiting for the other side ends.

    Raises:
        ValueError: the array is of another type, or the header too large; nothing was sent.
        OSError: the other side is gone.
        TimeoutError: it does not take the message.
    """
    form, parts = (None, []) if array is None else _packed(array)
    content = json.dumps({**header, "array": form}).encode()
    if len(content) > _MOST_HEADER:
        raise ValueError(f"it would send a header of {len(content):,} bytes; accepted are {_MOST_HEADER:,}")
    for part in (memoryview(_LENGTH.pack(len(content)) + content), *parts):
        if not part.nbytes:
            continue
        connection.settimeout(None if deadline is None else deadline.left())
        connection.sendall(part)


def receive(
    connection: socket.socket,
    deadline: Deadline | None = None,
    *,
    rows: int | None = None,
    most_bytes: int = MOST_ANSWERS,
) -> tuple[dict[str, Any], Array | None]:
    """Receives a message. Sizes are checked before memory is taken for them.

    Args:
        connection: the connection.
        deadline: when waiting for the other side ends.
        rows: length of the first axis that an array must have; `None` for any.
        most_bytes: the largest array accepted.

    Returns:
        The header, and the array, if there is one.

    Raises:
        FrameError: the message is not accepted, or the connection ended.
        OSError: the other side is gone.
        TimeoutError: the message is not there in time.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, np.empty(_LENGTH.size, np.uint8), deadline).tobytes())
    if length > _MOST_HEADER:
        raise FrameError(f"a header of {length:,} bytes; accepted are {_MOST_HEADER:,}")
    try:
        header = json.loads(_exactly(connection, np.empty(length, np.uint8), deadline).tobytes())
        form = header.pop("array")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise FrameError("a header that cannot be read") from error
    return header, None if form is None else _unpacked(connection, form, deadline, rows, most_bytes)


def _packed(array: Array) -> tuple[dict[str, Any], list[memoryview]]:
    if array.dtype.kind in "SU":
        array = array.astype(object)
    if array.dtype == object:
        values = array.ravel().tolist()
        kind = next((name for name, type_ in _TEXTS.items() if all(isinstance(value, type_) for value in values)), None)
        if kind is None:
            raise ValueError("an array of objects that are neither all text nor all bytes")
        encoded = [value.encode("utf-8", "surrogatepass") if kind == "str" else value for value in values]
        lengths, data = np.array([len(value) for value in encoded], np.int64), b"".join(encoded)
        form = {"type": kind, "shape": list(array.shape), "bytes": len(data)}
        return form, [lengths.view(np.uint8).data, memoryview(data)]
    if array.dtype.kind == "V":  # bfloat16 and others that NumPy does not know
        array = array.astype(np.float32)
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.str not in _NUMBERS:
        raise ValueError(f"an array of {array.dtype}; accepted are real numbers, text and bytes")
    form = {"type": array.dtype.str, "shape": list(array.shape), "bytes": array.nbytes}
    return form, [array.reshape(-1).view(np.uint8).data]


def _unpacked(
    connection: socket.socket, form: Any, deadline: Deadline | None, rows: int | None, most_bytes: int
) -> Array:
    try:
        kind, shape, size = form["type"], tuple(form["shape"]), form["bytes"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, size)) and len(shape) <= 32
    except (TypeError, KeyError) as error:
        raise FrameError("an array without type, shape and size") from error
    if not whole or not isinstance(kind, str) or kind not in (*_NUMBERS, *_TEXTS):
        raise FrameError("an array of a type, shape or size that is not accepted")
    count = math.prod(shape)
    needed = size + _BYTES_OF_TEXT * count if kind in _TEXTS else size
    if rows is not None and shape[:1] != (rows,):
        raise FrameError(f"answers of shape {shape} to {rows} inputs")
    if needed > most_bytes:
        raise FrameError(f"an array of {needed:,} bytes; accepted are {most_bytes:,}. Ask fewer inputs at once")
    if max(shape, default=0) > most_bytes:
        raise FrameError(f"an array with an axis of {max(shape):,}")
    if kind in _TEXTS:
        lengths = _exactly(connection, np.empty(count, np.int64), deadline)
        if (lengths < 0).any() or (lengths > size).any() or int(lengths.sum()) != size:
            raise FrameError("text whose lengths do not add up")
        ends = np.cumsum(lengths)
        data = _exactly(connection, np.empty(size, np.uint8), deadline).tobytes()
        values = np.empty(count, object)
        for index, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True)):
            value = data[end - length : end]
            values[index] = value.decode("utf-8", "replace") if kind == "str" else value
        return values.reshape(shape)
    dtype = np.dtype(kind)
    if size != count * dtype.itemsize:
        raise FrameError("an array whose shape and size contradict each other")
    return _exactly(connection, np.empty(shape, dtype), deadline)


def _exactly(connection: socket.socket, buffer: Array, deadline: Deadline | None) -> Array:
    """Fills a buffer from the connection."""
    if not buffer.size:
        return buffer
    view = buffer.reshape(-1).view(np.uint8).data
    while view:
        connection.settimeout(None if deadline is None else deadline.left())
        received = connection.recv_into(view)
        if not received:
            raise FrameError("the connection ended")
        view = view[received:]
    return buffer
