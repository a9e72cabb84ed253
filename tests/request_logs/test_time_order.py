"""Files that cover the same period are read in the order of their entries' times, few of them at once."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.request_logs import open_log
from dynamarks_tf.request_logs.prediction_log import encode
from dynamarks_tf.request_logs.rotation import RotatingFiles
from tests.helpers import verifying
from tests.helpers.logs import record

NOON = 1767355200.0


@pytest.fixture
def write_shared(tmp_path: Path, make_messages: Any) -> Callable[..., Path]:
    """Lets several writers log requests to folders: `(writer, folder, number, time)` each, in the order of writing."""

    def write(requests: Iterable[tuple[Any, str, int, float]], max_bytes: int = 2**20) -> Path:
        writers: dict[Any, RotatingFiles] = {}
        for name, folder, number, time in requests:
            writer = writers.setdefault(name, RotatingFiles(tmp_path / folder, max_bytes=max_bytes))
            writer.append(record(encode(*make_messages(number), client="alice", time=time)))
        for writer in writers.values():
            writer.close()
        return tmp_path

    return write


def numbers(log: Any) -> list[int]:
    """The numbers of the requests, as they are read."""
    return [int(inputs[0, 0]) // 100 for inputs in log.batches(1)]


def test_two_writers_of_one_folder(write_shared: Callable[..., Path]) -> None:
    """Small files, so that each writer has begun several; and many requests a second."""
    folder = write_shared(((n % 3 == 0, "logs", n, NOON + 0.1 * n) for n in range(100)), max_bytes=2000) / "logs"
    assert len(list(folder.iterdir())) > 10
    log = open_log(folder)
    assert numbers(log) == list(range(100))
    assert numbers(log) == list(range(100))


def test_folders_of_two_replicas_in_any_order(write_shared: Callable[..., Path]) -> None:
    root = write_shared((f"r{n % 2}", f"r{n % 2}", n, NOON + n) for n in range(20))
    for order in (("r0", "r1"), ("r1", "r0")):
        assert numbers(open_log([root / name for name in order])) == list(range(20))


def test_a_file_is_named_after_its_first_request_came(write_shared: Callable[..., Path]) -> None:
    """Requests that waited to be written are older than the file that holds them."""
    root = write_shared([("a", "a", 0, NOON), ("a", "a", 2, NOON + 60), ("b", "b", 1, NOON + 30)])
    (path,) = (root / "b").iterdir()
    path.rename(path.with_name("requests-00000001-20990102T030405Z.tfrecord"))
    assert numbers(open_log([root / "a", root / "b"])) == [0, 1, 2]


def test_equal_times_and_earlier_ones_keep_the_order_of_the_files(write_shared: Callable[..., Path]) -> None:
    """Two threads of a server may log in another order than they took the time."""
    root = write_shared(
        [
            *(("a", "a", number, NOON + time) for number, time in ((0, 5), (1, 4.5), (2, 5), (5, 6))),
            *(("b", "b", number, NOON + time) for number, time in ((3, 5), (4, 5))),
        ]
    )
    assert numbers(open_log([root / "a", root / "b"])) == [0, 1, 2, 3, 4, 5]


def lines(path: Path, *requests: tuple[int, Any]) -> Path:
    path.write_text(
        "".join(
            '{"inputs": [[%d]], "time": %s}\n' % (100 * number, time)  # noqa: UP031
            for number, time in requests
        )
    )
    return path


def test_entries_without_a_time_stay_behind_the_one_before_them(tmp_path: Path) -> None:
    a = lines(tmp_path / "a", (1, "null"), (2, 10), (3, "null"), (4, "NaN"), (7, 30), (8, "Infinity"))
    b = lines(tmp_path / "b", (0, 5), (5, 20), (6, "null"), (9, 31))
    assert numbers(open_log([a, b])) == list(range(10))


def test_files_without_times_stay_behind_the_file_before_them(tmp_path: Path) -> None:
    files = [
        lines(tmp_path / "a", (0, "null")),
        lines(tmp_path / "b", (2, 10), (4, 30)),
        lines(tmp_path / "c", (5, "null"), (6, "null")),
        lines(tmp_path / "d", (1, 5), (3, 20), (7, 40)),
    ]
    assert numbers(open_log(files)) == list(range(8))


def test_rows_of_arrays_are_merged_one_by_one(tmp_path: Path) -> None:
    for name, first in (("even", 0), ("odd", 1)):
        rows = np.arange(first, 1000, 2)
        np.savez(tmp_path / f"{name}.npz", inputs=100.0 * rows[:, None], time=rows, version=3)
    log = open_log([tmp_path / "even.npz", tmp_path / "odd.npz"], version=3)
    assert numbers(log) == list(range(1000))


def test_a_damaged_record_is_reported_and_costs_no_other_file(write_shared: Callable[..., Path]) -> None:
    root = write_shared([("a", "a", 0, NOON), ("b", "b", 1, NOON + 1)])
    (path,) = (root / "b").iterdir()
    path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    with pytest.warns(UserWarning, match="1 logged requests were left out.*offset 0: it is corrupt"):
        assert [len(batch) for batch in open_log([root / "a", root / "b"]).batches(1)] == [1]


def test_a_thousand_files_of_one_writer_are_opened_one_after_the_other(
    write_shared: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shared((("a", "logs", n, NOON + n // 7) for n in range(1000)), max_bytes=1) / "logs"
    log = open_log(folder)
    assert len(log.paths) == 1000
    files: list[Any] = []
    most = 0
    really_open = Path.open

    def count(self: Path, *arguments: Any, **options: Any) -> Any:
        nonlocal files, most
        file = really_open(self, *arguments, **options)
        files = [each for each in [*files, file] if not each.closed]
        most = max(most, len(files))
        return file

    monkeypatch.setattr(Path, "open", count)
    assert numbers(log) == list(range(1000))
    assert most <= 2


def test_memory_does_not_grow_with_rotated_files(write_shared: Callable[..., Path]) -> None:
    """Of two writers at once."""
    peaks = []
    for count in (100, 2000):
        name = f"logs-{count}"
        log = open_log(write_shared(((n % 2, name, n, NOON + n) for n in range(count)), max_bytes=10_000) / name)
        tracemalloc.start()
        assert sum(len(batch) for batch in log.batches(50)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_theft_from_two_replicas_is_the_theft_from_one(
    tmp_path: Path, marked_model: Any, surrogate: Any, key: Any, digits: Any
) -> None:
    """If the replicas were read one after the other, other queries would be the first of their secret signs."""
    from tensorflow_serving.apis import predict_pb2

    from dynamarks_tf.serving.protocol.tensors import to_packed_proto

    stolen = digits.x_train[len(digits.x_train) // 2 :]
    one = RotatingFiles(tmp_path / "one", max_bytes=2**20)
    replicas = itertools.cycle([RotatingFiles(tmp_path / name, max_bytes=20_000) for name in ("a", "b", "a")])
    for start in range(0, len(stolen), 10):
        request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
        request.inputs["image"].CopyFrom(to_packed_proto(stolen[start : start + 10]))
        data = record(encode(request, response, client="alice", time=NOON + 0.01 * start))
        one.append(data)
        next(replicas).append(data)
    verify = {"owner": marked_model, "key": key}
    whole = verifying.verify(surrogate, queries=open_log(tmp_path / "one"), **verify)
    parts = verifying.verify(surrogate, queries=open_log([tmp_path / "b", tmp_path / "a"]), **verify)
    assert whole.detected()
    assert parts.plan.queries_sha256 == whole.plan.queries_sha256
    assert parts.plan.met_before_sha256 == whole.plan.met_before_sha256
    assert parts.log10_p == whole.log10_p
