"""Logs cut to their first queries, and to requests of one shape: the rows that they give, and how far they are read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs import PredictionLogWriter, QueryLog, open_log
from dynamarks_tf.request_logs.prediction_log import encode
from tests.helpers.logs import record
from tests.helpers.waiting import eventually

WriteLog = Callable[..., Path]
ROWS = (3, 1, 4, 1, 5, 9, 2, 6)  # of each request
TOTAL = sum(ROWS)


def rows_of(log: QueryLog, batch_size: int = 7) -> np.ndarray:
    """All rows of a log; all batches but the last must be full."""
    batches = list(log.batches(batch_size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size
    return np.concatenate(batches)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory, make_messages: Any) -> dict[str, QueryLog]:
    """The same requests in each format, and in two files of different formats."""
    folder = tmp_path_factory.mktemp("logs")
    records, lines, events, arrays = [], [], [], []
    for number, rows in enumerate(ROWS):
        inputs = (np.arange(rows * 4, dtype=np.float32) + 100 * number).reshape(rows, 4)
        records.append(record(encode(*make_messages(inputs={"image": inputs}), time=1000.0 + number)))
        lines.append({"inputs": inputs.tolist(), "time": 1000 + number})
        event = {"specversion": "1.0", "time": f"1970-01-01T00:16:{40 + number}Z", "id": str(number)}
        event["type"] = "org.kubeflow.serving.inference.request"
        events.append({**event, "data": {"instances": inputs.tolist()}})
        arrays.append(inputs)
    (folder / "log").write_bytes(b"".join(records))
    (folder / "lines").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events").write_text("".join(json.dumps(event) + "\n" for event in events))
    np.savez(folder / "arrays.npz", inputs=np.concatenate(arrays), time=np.repeat(1000.0 + np.arange(len(ROWS)), ROWS))
    (folder / "even").write_bytes(b"".join(records[::2]))
    (folder / "odd").write_text("".join(json.dumps(event) + "\n" for event in events[1::2]))
    paths: dict[str, Any] = {name: folder / name for name in ("log", "lines", "events", "arrays.npz")}
    paths["several files"] = [folder / "even", folder / "odd"]
    return {name: open_log(path) for name, path in paths.items()}


# The first queries


@given(data=st.data(), batch_size=st.integers(1, TOTAL + 1))
def test_the_first_queries_are_those_of_the_whole(logs: dict[str, QueryLog], data: Any, batch_size: int) -> None:
    log = logs[data.draw(st.sampled_from(sorted(logs)))]
    whole = rows_of(log)
    count = data.draw(st.integers(1, TOTAL + 2))
    part = log.first(count)
    for size in (batch_size, batch_size, TOTAL):  # every pass yields the same
        np.testing.assert_array_equal(rows_of(part, size), whole[:count], strict=True)


def test_all_formats_hold_the_same_queries(logs: dict[str, QueryLog]) -> None:
    for log in logs.values():
        np.testing.assert_array_equal(rows_of(log), rows_of(logs["log"]), strict=True)
        assert len(rows_of(log)) == TOTAL


def test_a_cut_log_can_be_cut_again_and_the_old_one_is_left_alone(logs: dict[str, QueryLog]) -> None:
    log = logs["log"]
    part = log.first(9)
    assert len(rows_of(part.first(5))) == 5
    assert len(rows_of(part.first(20))) == len(rows_of(part)) == 9
    assert len(rows_of(log)) == TOTAL
    assert part.paths == log.paths


def test_at_least_one_query(logs: dict[str, QueryLog]) -> None:
    for count in (0, -1):
        with pytest.raises(ArgumentError, match=f"`count` must be at least 1. Received: {count}"):
            logs["log"].first(count)


def test_nothing_behind_the_first_queries_is_read(write_log: WriteLog) -> None:
    """Neither in the same file, nor in the next one."""
    path = write_log(4)
    path.write_bytes(path.read_bytes() + bytes(100))
    next_file = write_log(1, name="next", start=2000)
    damaged = bytearray(next_file.read_bytes())
    damaged[-1] ^= 1
    log = open_log([path, next_file])
    next_file.write_bytes(damaged)
    for count in range(1, 5):
        assert len(rows_of(log.first(count))) == count
    with pytest.raises(LogError, match="corrupt"):
        rows_of(log.first(5))


def test_later_files_are_not_opened(write_log: WriteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log([write_log(3, name=f"log-{number}", start=1000.0 * number) for number in range(1, 11)])
    opened: list[str] = []
    really_open = Path.open

    def count(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self.name)
        return really_open(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", count)
    part = log.first(5)
    assert opened == []
    rows_of(part)
    assert sorted(opened) == sorted([*log_names(log), "log-1", "log-2"])  # each once, for its first time
    opened.clear()
    rows_of(part)
    rows_of(log.first(4))
    rows_of(log.taking((4,)).first(3))
    assert opened == ["log-1", "log-2", "log-1", "log-2", "log-1"]


def log_names(log: QueryLog) -> list[str]:
    return [Path(path).name for path in log.paths]


def test_the_first_queries_take_few_bytes(write_log: WriteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamarks_tf._support.storage.BUFFER", 4096)
    path = write_log(1000)
    files: list[Any] = []
    really_open = Path.open

    def keep(self: Path, *arguments: Any, **options: Any) -> Any:
        files.append(really_open(self, *arguments, **options))
        return files[-1]

    monkeypatch.setattr(Path, "open", keep)
    batches = open_log(path).first(10).batches(10)
    assert len(next(batches)) == 10
    assert files[-1].tell() <= 2 * 4096 < path.stat().st_size / 10
    assert list(batches) == []
    assert files[-1].closed


def test_versions_that_answered_only_later_queries_do_not_matter(write_log: WriteLog) -> None:
    log = open_log([write_log(3, name="old", version=1), write_log(2, name="new", version=2, start=2000)])
    assert len(rows_of(log.first(3))) == 3
    with pytest.raises(LogError, match="Several versions answered"):
        rows_of(log.first(4))


def test_only_what_was_left_out_on_the_way_is_reported(tmp_path: Path, make_messages: Any) -> None:
    odd = record(encode(*make_messages(inputs={"image": np.zeros((1, 5), np.float32)})))
    usual = record(encode(*make_messages()))
    path = tmp_path / "log"
    path.write_bytes(2 * usual + odd + usual + odd)
    log = open_log(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows_of(log.first(2))
    part = log.first(3)
    with pytest.warns(UserWarning, match=f"1 logged requests were left out. The first: .*offset {2 * len(usual)}"):
        rows_of(part)
    assert len(part.problems) == 1
    assert log.problems == []


# Requests of one shape


@pytest.fixture
def mixed(tmp_path: Path, make_messages: Any) -> QueryLog:
    """Rows of 5 values, then of 4, 2 x 2 and 4."""
    shapes = [(1, 5), (2, 4), (1, 2, 2), (1, 4)]
    logged = [make_messages(inputs={"image": np.full(shape, sum(shape), np.float32)}) for shape in shapes]
    path = tmp_path / "log"
    path.write_bytes(b"".join(record(encode(*each, time=1000.0)) for each in logged))
    return open_log(path)


@pytest.mark.filterwarnings("ignore:.*logged requests were left out")
def test_requests_whose_inputs_fit_a_shape_are_taken(mixed: QueryLog) -> None:
    assert rows_of(mixed).shape == (1, 5)
    for shape in ((4,), [4]):
        part = mixed.taking(shape)
        for _ in range(2):
            np.testing.assert_array_equal(rows_of(part, 2), [[6] * 4, [6] * 4, [5] * 4])
        np.testing.assert_array_equal(rows_of(open_log(mixed.paths, input_shape=shape)), rows_of(part))
    assert rows_of(mixed.taking((None, 2))).shape == (1, 2, 2)
    assert rows_of(mixed.taking((None,))).shape == (1, 5)  # the first of those that fit decides
    assert rows_of(mixed).shape == (1, 5)


def test_each_log_reports_for_itself(mixed: QueryLog) -> None:
    part = mixed.taking((4,))
    with pytest.warns(UserWarning, match=r"2 logged requests were left out. .*inputs have shape \(5,\), not \(4,\)"):
        rows_of(part)
    assert (len(part.problems), mixed.problems) == (1, [])


@pytest.mark.filterwarnings("ignore:.*logged requests were left out")
def test_shapes_and_counts_add_up(mixed: QueryLog) -> None:
    assert len(rows_of(mixed.taking((None,)).taking((4,)))) == 3
    with pytest.raises(LogError, match=r"inputs have shape \(5,\), not \(4,\)"):
        rows_of(mixed.taking((4,)).taking((5,)))
    for part in (mixed.taking((4,)).first(1), mixed.first(1).taking((4,))):
        np.testing.assert_array_equal(rows_of(part), [[6] * 4])


# A server that goes on logging


def test_a_log_that_grows_gives_the_same_rows_at_every_pass(tmp_path: Path, make_messages: Any, expected: Any) -> None:
    """The server writes on in the same file, and then in others."""
    folder = tmp_path / "logs"
    with PredictionLogWriter(folder, max_file_bytes=3000) as writer:

        def write(numbers: range) -> None:
            for number in numbers:
                writer.log(*make_messages(number))
            eventually(lambda: writer.written == numbers.stop)

        write(range(30))
        log = open_log(folder)
        parts = {30: log, 29: log.first(29), 12: log.first(12).taking((4,))}
        for more in (range(30, 33), range(33, 60)):
            write(more)
            for count, part in parts.items():
                np.testing.assert_array_equal(rows_of(part), expected(range(count)))
            assert len(rows_of(log.first(50))) == 30  # cut later, it still ends where it was opened
    assert 1 < len(log.paths) < len(list(folder.iterdir()))
    np.testing.assert_array_equal(rows_of(open_log(folder)), expected(range(60)))


@pytest.mark.parametrize("missing", [1, 30])
def test_a_request_that_was_being_written_stays_left_out(write_log: WriteLog, expected: Any, missing: int) -> None:
    path = write_log(3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    log = open_log(path)
    for content in (whole[:-missing], whole, whole + whole):
        path.write_bytes(content)
        for part in (log, log.first(3), log.taking((4,))):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*the last record, at offset .*, is cut off")
                np.testing.assert_array_equal(rows_of(part), expected(range(2)))
