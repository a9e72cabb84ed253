"""TFRecord files: each record is its length, a checksum of the length, the data, and a checksum of the data."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.storage import OpenFile, StoredFile
from dynamarks_tf.request_logs.entries import TruncatedError

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER = struct.Struct("<QI")
HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
_MASK = 0xA282EAD8
_SCANNED = 2**20  # bytes at once
_MOST_TRIED, _MOST_TRIED_PACKED = 1000, 16  # places; of a compressed file, each is read from its start


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns a record with `data` in it, in parts to be appended to a file, so that `data` is not copied."""
    length = _LENGTH.pack(len(data))
    return length + _checksum(length), data, _checksum(data)


def is_header(start: bytes) -> bool:
    """Whether a file that starts with these bytes starts with a whole header of a record."""
    return len(start) >= HEADER_BYTES and _checksum(start[: _LENGTH.size]) == start[_LENGTH.size : HEADER_BYTES]


class Damage(NamedTuple):
    """A part of a file that holds no record that can be read.

    Attributes:
        problem: what is wrong with it.
    """

    problem: str


def read_records(file: StoredFile) -> Iterator[tuple[int, bytes | Damage]]:
    """Reads a file record by record. One that is damaged costs none of the others.

    Args:
        file: the file.

    Yields:
        The offset of each record in bytes, and its data, or what is wrong with it.

    Raises:
        TruncatedError: the last record is not whole.
        StorageError: the file cannot be read.
    """
    offset = 0
    with file.open() as opened:
        while header := opened.read(HEADER_BYTES):
            if len(header) < HEADER_BYTES:
                raise _truncated(file, offset, len(header))
            length, of_length = _HEADER.unpack(header)
            is_right = _masked(header[: _LENGTH.size]) == of_length
            if not is_right or length > opened.largest_entry:
                problem = f"its length is {length} bytes" if is_right else "the checksum of its length is wrong"
                end = _next_record(opened, file, offset + 1)
                lost = "the rest of the file is" if end is None else f"{end - offset} bytes are"
                yield offset, Damage(f"{problem}, and {lost} skipped")
                if end is None:
                    return
                offset = end
                opened.seek(end)
                continue
            if not opened.is_packed and offset + length > file.size:  # not read only to find its end missing
                raise _truncated(file, offset, file.size - offset)
            data = opened.read(length)
            checksum = opened.read(_CHECKSUM.size)
            if len(checksum) < _CHECKSUM.size:
                raise _truncated(file, offset, HEADER_BYTES + len(data) + len(checksum))
            is_whole = _CHECKSUM.pack(_masked(data)) == checksum
            yield offset, data if is_whole else Damage("the checksum of its data is wrong")
            offset += HEADER_BYTES + length + _CHECKSUM.size


def _next_record(opened: OpenFile, file: StoredFile, start: int) -> int | None:
    """Where the records begin that reach from there to the end of the file without a gap; `None` if none do.

    A client can send what looks like records. Such ones end within the record that holds them, since its checksum is
    not theirs, so they do not reach the end of the file. Nor does a last record that is cut off: anybody can claim one.
    """
    no_records = set[int]()
    tried = 0
    while True:
        opened.seek(start)
        block = opened.read(_SCANNED)
        for position in map(int, _headers(block)):
            if tried == (_MOST_TRIED_PACKED if opened.is_packed else _MOST_TRIED):
                return None
            tried += 1
            if _reaches_end(opened, file, start + position, no_records):
                return start + position
        if len(block) < _SCANNED:
            return None
        start += _SCANNED - HEADER_BYTES + 1


def _reaches_end(opened: OpenFile, file: StoredFile, offset: int, no_records: set[int]) -> bool:
    """Whether whole records follow each other from here to the end of the file."""
    visited = set[int]()
    opened.seek(offset)
    while offset not in no_records:
        visited.add(offset)
        header = opened.read(HEADER_BYTES)
        if not header:
            return True
        if len(header) < HEADER_BYTES:
            break
        length, of_length = _HEADER.unpack(header)
        is_right = _masked(header[: _LENGTH.size]) == of_length and length <= opened.largest_entry
        if not is_right or (not opened.is_packed and offset + length > file.size):
            break
        data, checksum = opened.read(length), opened.read(_CHECKSUM.size)
        if _CHECKSUM.pack(_masked(data)) != checksum:
            break
        offset += HEADER_BYTES + length + _CHECKSUM.size
    no_records |= visited
    return False


def _headers(block: bytes) -> npt.NDArray[np.intp]:
    """The positions in a block at which a length stands with its checksum."""
    count = len(block) - HEADER_BYTES + 1
    if count < 1:
        return np.zeros(0, np.intp)
    data = np.frombuffer(block, np.uint8)
    zero, parts = _checksum_parts()
    crc = np.full(count, zero, np.uint32)
    for index, part in enumerate(parts):
        crc ^= part[data[index : index + count]]
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(_MASK)
    stated = np.zeros(count, np.uint32)
    for index in range(_CHECKSUM.size):
        stated |= data[_LENGTH.size + index : _LENGTH.size + index + count].astype(np.uint32) << np.uint32(8 * index)
    return np.flatnonzero(masked == stated)


@functools.cache
def _checksum_parts() -> tuple[int, npt.NDArray[np.uint32]]:
    """The checksum of a length of 0, and by how much each byte of a length changes it, shape `(8, 256)`."""
    zero: int = google_crc32c.value(bytes(_LENGTH.size))
    changed = [
        [google_crc32c.value(bytes(index) + bytes([byte]) + bytes(_LENGTH.size - 1 - index)) for byte in range(256)]
        for index in range(_LENGTH.size)
    ]
    return zero, np.array(changed, np.uint32) ^ np.uint32(zero)


def _checksum(data: bytes) -> bytes:
    return _CHECKSUM.pack(_masked(data))


def _masked(data: bytes) -> int:
    """The checksum of a record, which is masked, since a record may hold records."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _truncated(file: StoredFile, offset: int, count: int) -> TruncatedError:
    return TruncatedError(
        f"{file}: the last record, at offset {offset}, is cut off after {count} bytes, as after a crash, and is skipped"
    )
