"""Logs of JSON lines: the schema, and errors for lines outside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.request_logs.json_lines import JsonLinesFile
from tests.helpers.logs import stored

ALICE = {"inputs": [[0.1, 0.2], [0.3, 0.4]], "outputs": [[0.9, 0.1], [0.2, 0.8]], "client": "alice", "time": 12.5}
BOB = {"inputs": [[1, 2]], "outputs": [[0.5, 0.5]], "client": "bob"}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def entries(path: Path, dtype: str = "float32") -> list[Any]:
    return list(JsonLinesFile(stored(path), dtype).entries())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_requests_come_back(path: Path) -> None:
    first, second = entries(write(path, ALICE, "", BOB))
    np.testing.assert_array_equal(first.inputs(None), np.array(ALICE["inputs"], np.float32), strict=True)
    assert (first.client, first.time) == ("alice", 12.5)
    assert (second.client, second.time) == ("bob", None)
    assert second.inputs(None).dtype == np.float32  # also where a client happens to send whole numbers


def test_the_version_that_answered(path: Path) -> None:
    log = open_log(write(path, {**ALICE, "version": 2}, {**BOB, "version": 3}, BOB), version=2)
    assert [entry.version for entry in entries(path)] == [2, 3, None]
    with pytest.warns(UserWarning, match="1 logged requests were left out: the version"):
        (inputs,) = log.batches(9)
    np.testing.assert_array_equal(inputs, np.float32(ALICE["inputs"]))


def test_the_type_of_inputs_can_be_given(path: Path) -> None:
    (inputs,) = open_log(write(path, BOB), dtype="uint8").batches(9)
    assert inputs.dtype == np.uint8


def test_inputs_by_name(path: Path) -> None:
    write(path, {"inputs": {"a": [[1]], "b": [[2]]}, "model": "clf"})
    assert next(open_log(path, input="b", model="clf").batches(9)) == 2
    with pytest.raises(LogError, match="its inputs are: a, b; say which with input="):
        next(open_log(path).batches(9))
    with pytest.raises(LogError, match="its inputs are: a, b; not 'c'"):
        next(open_log(path, input="c").batches(9))


def test_a_line_without_inputs_is_left_out(path: Path) -> None:
    log = open_log(write(path, {"inputs": None, "outputs": [[1, 2]]}, ALICE))
    with pytest.warns(UserWarning, match='1 logged requests were left out. The first: .*offset 0: it has no "inputs"'):
        assert [len(batch) for batch in log.batches(9)] == [2]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [([[1], [2, 3]], "are no array of float32"), ([["x", 1]], "are no array of float32: text and numbers are mixed")],
)
def test_inputs_that_are_no_array(path: Path, inputs: Any, reason: str) -> None:
    with pytest.raises(LogError, match=f'its "inputs" {reason}'):
        next(open_log(write(path, {"inputs": inputs})).batches(9))


def test_a_clients_name_that_utf_8_cannot_hold_becomes_an_escape_and_an_empty_one_is_none(path: Path) -> None:
    path.write_text("".join(f'{{"inputs": [[1]], "client": "{name}"}}\n' for name in (r"\ud800", "")))
    assert open_log(path).clients() == {r"\ud800": 1, None: 1}


def test_the_last_line_cut_anywhere_is_reported_and_skipped(path: Path) -> None:
    first = json.dumps(ALICE).encode() + b"\n"
    last = json.dumps({**BOB, "client": "Bjørn"}, ensure_ascii=False).encode()
    for size in range(1, len(last)):
        path.write_bytes(first + last[:size])
        with pytest.warns(UserWarning, match=f"log.jsonl: the last line, at offset {len(first)}, is cut off"):
            assert [len(batch) for batch in open_log(path).batches(9)] == [2]
    path.write_bytes(first + last)  # whole, but for the end of the line
    assert [len(batch) for batch in open_log(path).batches(9)] == [3]


def test_a_file_that_has_shrunk_is_reported(path: Path) -> None:
    log = open_log(write(path, ALICE, BOB))
    write(path, ALICE)
    with pytest.warns(UserWarning, match=r"log.jsonl: the file ends at offset \d+; \d+ bytes were expected"):
        assert [len(batch) for batch in log.batches(9)] == [2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{nonsense", "Expecting property name"),
        ('["inputs"]', "it is no JSON object"),
        ('{"inputs": [[1]], "client": 7}', '"client" is 7'),
        ('{"inputs": [[1]], "version": 1.5}', '"version" is 1.5'),
        ('{"inputs": [[1]], "version": true}', '"version" is True'),
        ('{"inputs": [[1]], "time": "noon"}', "\"time\" is 'noon'"),
        ("{" * 9 + "[" * 100_000, "nested more than 500 levels deep"),
        ('{"inputs": ' + "[" * 100_000, "nested more than 500 levels deep"),
        ('{"inputs": [[' + "9" * 5000 + "]]}", "a number that is too large"),
        ('{"time": ' + "9" * 4000 + "}", '"time" is too large'),
    ],
    ids=["no JSON", "no object", "client", "version", "truth", "time", "braces", "deep", "digits", "late"],
)
def test_a_corrupt_line_names_file_and_offset_and_costs_no_other(path: Path, line: str, reason: str) -> None:
    offset = len(json.dumps(ALICE)) + 1
    problem = f"1 logged requests were left out.*log.jsonl, offset {offset}: its line cannot be read: .*({reason})"
    with pytest.warns(UserWarning, match=problem):
        assert sum(map(len, open_log(write(path, ALICE, line, BOB)).batches(9))) == 3
