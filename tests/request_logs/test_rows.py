"""The rows that a log gives: of requests of one shape, and of a server that goes on logging."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def test_all_formats_hold_the_same_queries(logs: dict[str, QueryLog]) -> None:
    for log in logs.values():
        np.testing.assert_array_equal(rows_of(log), rows_of(logs["log"]), strict=True)
        assert len(rows_of(log)) == TOTAL


def log_names(log: QueryLog) -> list[str]:
    return [Path(path).name for path in log.paths]


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
        parts = (log, log.taking((4,)))
        for more in (range(30, 33), range(33, 60)):
            write(more)
            for part in (*parts, log.taking((4,))):
                np.testing.assert_array_equal(rows_of(part), expected(range(30)))
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
        for part in (log, log.taking((4,))):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*the last record, at offset .*, is cut off")
                np.testing.assert_array_equal(rows_of(part), expected(range(2)))
