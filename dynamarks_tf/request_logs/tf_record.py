"""TFRecord files: each record is its length, a checksum of the length, the data, and a checksum of the data."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import google_crc32c

from dynamarks_tf._support.storage import OpenFile, StoredFile
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import TruncatedError

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
HEADER_BYTES = _LENGTH.size + _CHECKSUM.size


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns a record with `data` in it, in parts to be appended to a file, so that `data` is not copied."""
    length = _LENGTH.pack(len(data))
    return length + _checksum(length), data, _checksum(data)


def is_header(start: bytes) -> bool:
    """Whether a file that starts with these bytes starts with a whole header of a record."""
    return len(start) >= HEADER_BYTES and _checksum(start[: _LENGTH.size]) == start[_LENGTH.size : HEADER_BYTES]


def read_records(file: StoredFile) -> Iterator[tuple[int, bytes]]:
    """Reads a file record by record.

    Args:
        file: the file.

    Yields:
        The offset of each record in bytes, and its data.

    Raises:
        TruncatedError: the last record is not whole.
        LogError: a record is damaged.
        StorageError: the file cannot be read.
    """
    offset = 0
    with file.open() as opened:
        while header := opened.read(HEADER_BYTES):
            if len(header) < HEADER_BYTES:
                raise _truncated(file, offset, len(header))
            length, of_length = _HEADER.unpack(header)
            if _masked(header[: _LENGTH.size]) != of_length:
                raise _corrupt(opened, file, offset, "the checksum of its length is wrong")
            if length > opened.largest_entry:
                raise _corrupt(opened, file, offset, f"its length is {length} bytes")
            if not opened.is_packed and offset + length > file.size:  # not read only to find its end missing
                raise _truncated(file, offset, file.size - offset)
            data = opened.read(length)
            checksum = opened.read(_CHECKSUM.size)
            if len(checksum) < _CHECKSUM.size:
                raise _truncated(file, offset, HEADER_BYTES + len(data) + len(checksum))
            if _CHECKSUM.pack(_masked(data)) != checksum:
                raise _corrupt(opened, file, offset, "the checksum of its data is wrong")
            yield offset, data
            offset += HEADER_BYTES + length + _CHECKSUM.size


def _checksum(data: bytes) -> bytes:
    return _CHECKSUM.pack(_masked(data))


def _masked(data: bytes) -> int:
    """The checksum of a record, which is masked, since a record may hold records."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _truncated(file: StoredFile, offset: int, count: int) -> TruncatedError:
    return TruncatedError(
        f"{file}: the last record, at offset {offset}, is cut off after {count} bytes, as after a crash, and is skipped"
    )


def _corrupt(opened: OpenFile, file: StoredFile, offset: int, reason: str) -> LogError:
    return LogError(
        f"{file}: the record at offset {offset} is corrupt: {reason}. Restore the file from a copy; what stands before "
        f"the record is whole: head -c {offset}{', of the unpacked file' if opened.is_packed else ''}"
    )
