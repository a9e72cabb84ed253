"""The framing of TFRecord files, against TensorFlow's own, and what damage is told apart."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.crc32c import BLOCK, ROWS, crc32c, numpy_crc32c
from dynamarks_tf.request_logs.entries import TruncatedError
from dynamarks_tf.request_logs.tf_record import HEADER_BYTES, frame, is_header, read_records

PAYLOADS = [b"", b"x", b"0123456789abcdef", os.urandom(BLOCK - 1), os.urandom(BLOCK + 1), os.urandom(3000)]


def read(path: Path) -> list[tuple[int, bytes]]:
    return list(read_records(path, path.stat().st_size))


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_of_the_standard(data: bytes, crc: int) -> None:
    """RFC 3720, appendix B.4."""
    assert (crc32c(data), numpy_crc32c(data)) == (crc, crc)


@given(st.integers(0, 3 * BLOCK), st.integers(0, 2**32 - 1))
def test_checksums_are_those_of_the_obvious_loop(length: int, seed: int) -> None:
    import random

    assert_checksum(random.Random(seed).randbytes(length))


@pytest.mark.parametrize("length", [BLOCK * ROWS - 1, BLOCK * ROWS, BLOCK * ROWS + 1, 3 * BLOCK * ROWS + 5])
def test_checksums_of_long_data(length: int) -> None:
    assert_checksum(os.urandom(length))


def assert_checksum(data: bytes) -> None:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == numpy_crc32c(data) == state ^ 0xFFFFFFFF


def test_files_are_those_of_tensorflow(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert theirs.read_bytes() == b"".join(map(frame, PAYLOADS))
    offsets = [0, *itertools.accumulate(len(frame(payload)) for payload in PAYLOADS)]
    assert read(theirs) == list(zip(offsets, PAYLOADS, strict=False))


def test_a_header_is_recognized() -> None:
    assert is_header(frame(b"abc"))
    assert not is_header(frame(b"abc")[: HEADER_BYTES - 1])
    assert not is_header(b'{"inputs": [[1]]}')


def test_a_file_cut_anywhere_gives_all_whole_records(tmp_path: Path) -> None:
    payloads = [b"first", b"second one"]
    whole = b"".join(map(frame, payloads))
    begin = len(frame(payloads[0]))
    path = tmp_path / "log"
    for size in range(begin + 1, len(whole)):
        path.write_bytes(whole[:size])
        records = read_records(path, size)
        assert next(records) == (0, b"first")
        with pytest.raises(
            TruncatedError, match=f"the last record, at offset {begin}, is cut off after {size - begin}"
        ):
            next(records)
    for size, count in ((begin, 1), (len(whole), 2)):
        path.write_bytes(whole[:size])
        assert len(read(path)) == count


def test_a_changed_byte_anywhere_names_file_and_offset(tmp_path: Path) -> None:
    """But for one in the length that makes it longer: its own checksum catches that as well."""
    records = [frame(b"first"), frame(b"second one"), frame(b"third")]
    begin = len(records[0])
    path = tmp_path / "log"
    for position in range(len(records[1])):
        changed = bytearray(b"".join(records))
        changed[begin + position] ^= 1 << position % 8
        path.write_bytes(changed)
        part = "length" if position < HEADER_BYTES else "data"
        with pytest.raises(
            LogError, match=rf"log: the record at offset {begin} is corrupt.*{part} is wrong.*-c {begin}"
        ):
            read(path)


def test_an_absurd_length_is_corrupt_even_with_a_right_checksum(tmp_path: Path) -> None:
    from dynamarks_tf.request_logs.tf_record import _checksum

    length = (2**40).to_bytes(8, "little")
    path = tmp_path / "log"
    path.write_bytes(length + _checksum(length))
    with pytest.raises(LogError, match="offset 0 is corrupt: its length is 1099511627776 bytes"):
        read(path)


def test_what_is_appended_later_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(frame(b"early"))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(frame(b"late"))
    assert list(read_records(path, size)) == [(0, b"early")]
