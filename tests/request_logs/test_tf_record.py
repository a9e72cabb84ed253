"""The framing of TFRecord files, against TensorFlow's own, and how damage is reported."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import tensorflow as tf

from dynamarks_tf.request_logs.entries import TruncatedError
from dynamarks_tf.request_logs.tf_record import HEADER_BYTES, Damage, is_header, read_records
from tests.helpers.logs import record, stored

PAYLOADS = [b"", b"x", b"0123456789abcdef", os.urandom(3000)]


def read(path: Path) -> list[tuple[int, bytes | Damage]]:
    return list(read_records(stored(path)))


def test_files_are_those_of_tensorflow(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert theirs.read_bytes() == b"".join(map(record, PAYLOADS))
    offsets = [0, *itertools.accumulate(len(record(payload)) for payload in PAYLOADS)]
    assert read(theirs) == list(zip(offsets, PAYLOADS, strict=False))


def test_a_header_is_recognized() -> None:
    assert is_header(record(b"abc"))
    assert not is_header(record(b"abc")[: HEADER_BYTES - 1])
    assert not is_header(b'{"inputs": [[1]]}')


def test_a_file_cut_anywhere_gives_all_whole_records(tmp_path: Path) -> None:
    payloads = [b"first", b"second one"]
    whole = b"".join(map(record, payloads))
    begin = len(record(payloads[0]))
    path = tmp_path / "log"
    for size in range(begin + 1, len(whole)):
        path.write_bytes(whole[:size])
        records = read_records(stored(path))
        assert next(records) == (0, b"first")
        with pytest.raises(
            TruncatedError, match=f"the last record, at offset {begin}, is cut off after {size - begin}"
        ):
            next(records)
    for size, count in ((begin, 1), (len(whole), 2)):
        path.write_bytes(whole[:size])
        assert len(read(path)) == count


def test_a_changed_byte_anywhere_costs_one_record(tmp_path: Path) -> None:
    """The length has a checksum of its own, so a length that was made longer is no truncated record."""
    records = [record(b"first"), record(b"second one"), record(b"third")]
    begin = len(records[0])
    path = tmp_path / "log"
    for position in range(len(records[1])):
        changed = bytearray(b"".join(records))
        changed[begin + position] ^= 1 << position % 8
        path.write_bytes(changed)
        part = "length" if position < HEADER_BYTES else "data"
        first, (offset, damage), third = read(path)
        assert (first, offset, third) == ((0, b"first"), begin, (begin + len(records[1]), b"third"))
        assert isinstance(damage, Damage)
        assert f"{part} is wrong" in damage.problem


def test_records_that_a_client_sent_inside_a_record_are_not_taken_for_others(tmp_path: Path) -> None:
    forged = record(b"forged") + record(b"forged too")
    outer = record(b"request" + forged + record(bytes(999))[:20] + b"answer")  # the last one seems cut off
    path = tmp_path / "log"
    path.write_bytes(record(b"first") + b"\xff" + outer[1:])
    assert read(path)[1:] == [
        (17 + 4, Damage("the checksum of its length is wrong, and the rest of the file is skipped"))
    ]
    path.write_bytes(record(b"first") + b"\xff" + outer[1:] + record(b"last"))
    _, (_, damage), last = read(path)
    assert damage == Damage(f"the checksum of its length is wrong, and {len(outer)} bytes are skipped")
    assert last == (len(record(b"first")) + len(outer), b"last")


def test_an_absurd_length_is_corrupt_even_with_a_right_checksum(tmp_path: Path) -> None:
    from dynamarks_tf.request_logs.tf_record import _checksum

    length = (2**40).to_bytes(8, "little")
    path = tmp_path / "log"
    path.write_bytes(length + _checksum(length))
    assert read(path) == [(0, Damage("its length is 1099511627776 bytes, and the rest of the file is skipped"))]


def test_records_appended_later_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(record(b"early"))
    file = stored(path)
    with path.open("ab") as growing:
        growing.write(record(b"late"))
    assert list(read_records(file)) == [(0, b"early")]
