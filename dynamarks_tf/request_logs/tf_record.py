"""TFRecord files: each record is its length, a checksum of the length, the data, and a checksum of the data."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import TruncatedError

LARGEST_RECORD = 2**31 - 1  # bytes; protocol buffers can be no larger
BUFFER = 2**20  # bytes

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CHECKSUM.size


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns a record with `data` in it, in parts to be appended to a file, so that `data` is not copied."""
    length = _LENGTH.pack(len(data))
    return length + _checksum(length), data, _checksum(data)


def is_header(start: bytes) -> bool:
    """Whether a file that starts with these bytes starts with a whole header of a record."""
    return len(start) >= HEADER_BYTES and _checksum(start[: _LENGTH.size]) == start[_LENGTH.size : HEADER_BYTES]


def read_records(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Reads a file record by record.

    Args:
        path: the file.
        size: how many bytes of it to read; bytes appended later are left alone.

    Yields:
        The offset of each record in bytes, and its data.

    Raises:
        TruncatedError: the last record is not whole.
        LogError: a record is damaged.
    """
    offset = 0
    with path.open("rb", buffering=BUFFER) as file:
        while offset < size:
            header = file.read(min(HEADER_BYTES, size - offset))
            if len(header) < HEADER_BYTES:
                raise _truncated(path, offset, size)
            if not is_header(header):
                raise _corrupt(path, offset, "the checksum of its length is wrong")
            (length,) = _LENGTH.unpack_from(header)
            if length > LARGEST_RECORD:
                raise _corrupt(path, offset, f"its length is {length} bytes")
            end = offset + HEADER_BYTES + length + _CHECKSUM.size
            if end > size:
                raise _truncated(path, offset, size)
            data = file.read(length)
            if _checksum(data) != file.read(_CHECKSUM.size):
                raise _corrupt(path, offset, "the checksum of its data is wrong")
            yield offset, data
            offset = end


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)  # masked: a record may hold records


def _truncated(path: Path, offset: int, size: int) -> TruncatedError:
    return TruncatedError(
        f"{path}: the last record, at offset {offset}, is cut off after {size - offset} bytes, as after a crash, and "
        "is skipped"
    )


def _corrupt(path: Path, offset: int, reason: str) -> LogError:
    return LogError(
        f"{path}: the record at offset {offset} is corrupt: {reason}. Restore the file from a copy; what stands before "
        f"the record is whole: head -c {offset}"
    )
