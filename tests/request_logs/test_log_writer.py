"""Writing logs: rotation, crashes, full queues and full disks, many threads."""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs import PredictionLogWriter, open_log, prediction_log, rotation, writer
from dynamarks_tf.request_logs.rotation import RotatingFiles, list_files
from tests.helpers.logs import read_predictions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Files


def test_logged_requests_can_be_read(folder: Path, make_messages: Any, expected: Any) -> None:
    before = int(time.time())
    with PredictionLogWriter(folder) as log:
        for index in range(10):
            log.log(*make_messages(index), client="alice" if index % 2 else None)
    assert (log.written, log.dropped) == (10, 0)
    np.testing.assert_array_equal(next(open_log(folder).batches(10)), expected(range(10)))
    found = read_predictions(folder)
    for index, logged in enumerate(found):
        answers = make_messages(index)[1].outputs["probabilities"]
        np.testing.assert_array_equal(logged.answers["probabilities"], tf.make_ndarray(answers), strict=True)
    assert [logged.client for logged in found] == [None, "alice"] * 5
    assert all(before <= logged.time <= time.time() for logged in found)


def test_files_and_folder_are_private_under_any_umask(folder: Path, make_messages: Any) -> None:
    kept = os.umask(0)
    try:
        with PredictionLogWriter(folder) as log:
            log.log(*make_messages())
    finally:
        os.umask(kept)
    (file,) = folder.iterdir()
    assert (mode(folder), mode(file)) == (0o700, 0o600)


def test_a_server_without_requests_leaves_no_file(folder: Path) -> None:
    PredictionLogWriter(folder).close()
    assert list(folder.iterdir()) == []


def test_requests_are_on_the_disk_while_the_log_goes_on(folder: Path, make_messages: Any) -> None:
    with PredictionLogWriter(folder) as log:
        log.log(*make_messages())
        wait_until(lambda: log.written == 1)
        assert len(read_predictions(folder)) == 1


def test_files_are_rotated_by_size(folder: Path) -> None:
    files = RotatingFiles(folder, max_bytes=100)
    for index, size in enumerate([40, 60, 1, 99, 250, 40]):
        files.append(bytes([index]) * size)
    files.close()
    files.close()
    assert [path.read_bytes() for path in list_files(folder)] == [
        bytes(40) + b"\1" * 60,
        b"\2" + b"\3" * 99,
        b"\4" * 250,
        b"\5" * 40,
    ]
    names = [path.name for path in list_files(folder)]
    assert names == sorted(names)
    assert names[0].startswith("requests-00000001-20")
    assert names[0].endswith("Z.tfrecord")


def test_a_restart_goes_on_with_the_next_number_and_a_new_file(folder: Path) -> None:
    for _ in range(3):
        files = RotatingFiles(folder, max_bytes=100)
        files.append(b"x")
        files.close()
    assert [path.name[:17] for path in list_files(folder)] == [f"requests-0000000{n}" for n in (1, 2, 3)]


def test_two_processes_share_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = RotatingFiles(folder, max_bytes=100), RotatingFiles(folder, max_bytes=100)
    first.append(b"first")
    monkeypatch.setattr(rotation, "list_files", lambda folder: [])  # as it was before the first one wrote
    second.append(b"second")
    assert sorted(path.read_bytes() for path in folder.iterdir()) == [b"first", b"second"]


def test_a_killed_process_loses_nothing_that_was_written(folder: Path) -> None:
    """All requests that it had counted as written can be read."""
    script = """
        import sys
        from tensorflow_serving.apis import predict_pb2
        from dynamarks_tf.request_logs import PredictionLogWriter, writer
        import tensorflow as tf
        writer.FLUSH_S = 0.001
        log = PredictionLogWriter(sys.argv[1], max_file_bytes=100_000)
        request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0] * 1000]))
        response.outputs["p"].CopyFrom(tf.make_tensor_proto([[0.5] * 10]))
        while True:
            log.log(request, response)
            print(log.written, flush=True)
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    written = 0
    for line in process.stdout:
        written = int(line)
        if written > 200:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list_files(folder)) > 1
    assert sum(len(batch) for batch in open_log(folder).batches(256)) >= written


# The disk


@pytest.mark.parametrize("where", ["a file", "a file/logs"])
def test_a_folder_that_cannot_be_created(tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(LogError, match=f"Requests cannot be logged to .*{where}: (File exists|Not a directory)"):
        PredictionLogWriter(tmp_path / where)


def test_sizes_are_positive(folder: Path) -> None:
    for sizes in ({"max_file_bytes": 0}, {"max_waiting_bytes": 0}):
        with pytest.raises(ArgumentError, match=f"must be at least 1. Received: .*{next(iter(sizes))}=0"):
            PredictionLogWriter(folder, **sizes)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], None]]:
    """`full_disk(n)`: only n more bytes fit, the last of them as a part of a record; `None`: any number."""
    room: list[int | None] = [None]
    real = os.write

    def write(file: int, data: Any) -> int:
        if room[0] is None:
            return real(file, data)
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(file, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(rotation.os, "write", write)
    yield lambda size: room.__setitem__(0, size)
    room[0] = None


def test_a_full_disk_loses_whole_records_only(folder: Path, full_disk: Any) -> None:
    files = RotatingFiles(folder, max_bytes=10**6)
    full_disk(25)
    files.append(b"a" * 20)
    with pytest.raises(OSError, match="No space left"):
        files.append(b"b" * 20)
    full_disk(None)
    files.append(b"c" * 20)
    files.close()
    (path,) = folder.iterdir()
    assert path.read_bytes() == b"a" * 20 + b"c" * 20


def test_a_record_that_cannot_be_taken_back_ends_its_file(
    folder: Path, full_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, size: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(rotation.os, "ftruncate", fail)
    files = RotatingFiles(folder, max_bytes=10**6)
    full_disk(25)
    files.append(b"a" * 20)
    with pytest.raises(OSError, match="No space left"):
        files.append(b"b" * 20)
    full_disk(None)
    files.append(b"c" * 20)
    files.close()
    assert [path.read_bytes() for path in list_files(folder)] == [b"a" * 20 + b"b" * 5, b"c" * 20]


def test_a_full_disk_is_counted_and_reported_and_later_requests_are_written(
    folder: Path, full_disk: Any, make_messages: Any, caplog: pytest.LogCaptureFixture, expected: Any
) -> None:
    with PredictionLogWriter(folder) as log:
        log.log(*make_messages(0))
        wait_until(lambda: log.written == 1)
        full_disk(100)
        for index in (1, 2):
            log.log(*make_messages(index))
            wait_until(lambda: log.dropped == index)  # noqa: B023
        full_disk(None)
        log.log(*make_messages(3))
    assert (log.written, log.dropped) == (2, 2)
    np.testing.assert_array_equal(next(open_log(folder).batches(9)), expected([0, 3]))
    first, last = [record.getMessage() for record in caplog.records]  # one a minute, and one at the end
    problem = "writing failed: No space left on device (asked by an unknown client)"
    assert first.endswith(f"1 requests dropped so far, the last one because {problem}")
    assert "2 requests dropped so far" in last


def test_a_real_limit_on_the_size_of_files(folder: Path) -> None:
    """The operating system cuts the write off in the middle of a record."""
    script = """
        import resource, sys
        from pathlib import Path
        from dynamarks_tf.request_logs.rotation import RotatingFiles
        files = RotatingFiles(Path(sys.argv[1]), max_bytes=10**6)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        files.append(b"a" * 600)
        try:
            files.append(b"b" * 600)
        except OSError as error:
            assert "File too large" in str(error)
        files.append(b"c" * 400)
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(folder)], check=True)
    (path,) = folder.iterdir()
    assert path.read_bytes() == b"a" * 600 + b"c" * 400


def test_a_folder_that_vanishes_loses_its_requests_and_no_later_ones(folder: Path, make_messages: Any) -> None:
    with PredictionLogWriter(folder) as log:
        folder.rmdir()
        log.log(*make_messages())
        wait_until(lambda: log.dropped == 1)
        folder.mkdir()
        log.log(*make_messages())
    assert (log.written, log.dropped) == (1, 1)


def test_a_disk_that_cannot_sync_is_reported(
    folder: Path, make_messages: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(rotation.os, "fsync", fail)
    with PredictionLogWriter(folder) as log:
        log.log(*make_messages())
    assert log.written == 1
    assert "the last requests may be lost: Input/output error" in caplog.text


def test_a_disk_that_fails_again_and_again_is_reported_twice_a_second_at_most(
    folder: Path, make_messages: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(rotation.os, "fsync", fail)
    monkeypatch.setattr(writer, "BATCH_BYTES", 1)  # each request is a batch
    monkeypatch.setattr(writer, "FLUSH_S", 60.0)
    with PredictionLogWriter(folder) as log:
        for number in range(1, 20):
            log.log(*make_messages())
            wait_until(lambda number=number: log.written == number)
    assert caplog.text.count("may be lost") == 2  # the first batch, and the end


def test_a_megabyte_is_written_without_waiting_for_the_half_second(
    folder: Path, make_messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FLUSH_S", 60.0)
    request, response = make_messages()
    size = request.ByteSize() + response.ByteSize() + writer.BYTES_EACH
    with PredictionLogWriter(folder) as log:
        for _ in range(writer.BATCH_BYTES // size + 1):
            log.log(request, response)
        wait_until(lambda: log.written > 0)


def test_a_file_system_that_keeps_its_page_cache_loses_nothing(
    folder: Path, make_messages: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(rotation.os, "posix_fadvise", refuse, raising=False)
    with PredictionLogWriter(folder) as log:
        log.log(*make_messages())
    assert log.written == 1
    assert "may be lost" not in caplog.text


def test_written_records_leave_the_page_cache(folder: Path) -> None:
    """Linux caches what was written; a log of gigabytes would evict the files of the models."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system has no posix_fadvise")
    files = RotatingFiles(folder, max_bytes=2**30)
    files.append(os.urandom(2**22))
    (path,) = folder.iterdir()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert cached_fraction(mapped) > 0.9
        files.sync()
        assert cached_fraction(mapped) < 0.1
    files.close()


def cached_fraction(mapped: mmap.mmap) -> float:
    """The fraction of a file's pages that is in the page cache."""
    pages = (ctypes.c_ubyte * (len(mapped) // mmap.PAGESIZE))()
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    if ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), pages):
        pytest.skip(f"mincore fails: {os.strerror(ctypes.get_errno())}")
    return sum(page & 1 for page in pages) / len(pages)


@pytest.mark.parametrize("size", [10, rotation.LARGE_BYTES])
def test_records_in_parts_are_written_whole(folder: Path, size: int) -> None:
    files = RotatingFiles(folder, max_bytes=3 * size + 16)
    parts = [b"head", os.urandom(size), b"", b"tail"]
    for _ in range(3):
        files.append(*parts)
    files.close()
    assert [path.read_bytes() for path in list_files(folder)] == [b"".join(parts) * 2, b"".join(parts)]


def test_a_large_record_that_the_disk_takes_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def writev(file: int, views: list[memoryview]) -> int:
        return os.write(file, views[0][:50_000])

    monkeypatch.setattr(rotation.os, "writev", writev, raising=False)
    files = RotatingFiles(folder, max_bytes=10**6)
    parts = [b"head", os.urandom(2 * rotation.LARGE_BYTES), b"tail"]
    files.append(*parts)
    files.close()
    assert [path.read_bytes() for path in folder.iterdir()] == [b"".join(parts)]


# The queue


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that takes nothing until the event is set."""
    released = threading.Event()
    real = RotatingFiles.append

    def append(self: RotatingFiles, *parts: bytes) -> None:
        released.wait()
        real(self, *parts)

    monkeypatch.setattr(RotatingFiles, "append", append)
    yield released
    released.set()


def test_a_full_queue_drops_at_once_and_counts(folder: Path, make_messages: Any, stuck: threading.Event) -> None:
    request, response = make_messages()
    size = request.ByteSize() + response.ByteSize() + writer.BYTES_EACH
    log = PredictionLogWriter(folder, max_waiting_bytes=10 * size)
    began = time.monotonic()
    for _ in range(25):
        log.log(request, response)
    assert time.monotonic() - began < 1
    assert (log.written, log.dropped) == (0, 15)  # those being written count as waiting
    stuck.set()
    log.close()
    assert (log.written, log.dropped) == (10, 15)
    assert len(read_predictions(folder)) == 10


def test_a_request_larger_than_the_queue_is_logged_if_nothing_waits(folder: Path, make_messages: Any) -> None:
    with PredictionLogWriter(folder, max_waiting_bytes=100) as log:
        log.log(*make_messages())
    assert (log.written, log.dropped) == (1, 0)


def test_a_stuck_disk_does_not_delay_closing_and_what_it_holds_up_is_counted(
    folder: Path, make_messages: Any, stuck: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    settled: list[bool] = []
    log = PredictionLogWriter(folder, on_settled=settled.append)
    for _ in range(3):
        log.log(*make_messages())
    log.close(timeout_s=0.1)
    assert "3 requests still not written after 0.1 s" in caplog.text
    stuck.set()
    log.close()
    assert (log.written, log.dropped, settled) == (0, 3, [False] * 3)


def test_a_closed_log_drops_requests(folder: Path, make_messages: Any) -> None:
    log = PredictionLogWriter(folder)
    log.close()
    log.log(*make_messages())
    assert (log.written, log.dropped) == (0, 1)


def test_one_request_that_cannot_be_written_does_not_stop_the_rest(
    folder: Path, make_messages: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with PredictionLogWriter(folder) as log:
        log.log(*make_messages(), client=7)  # type: ignore[arg-type]
        log.log(*make_messages())
    assert (log.written, log.dropped) == (1, 1)
    assert "the last one because it cannot be written" in caplog.text


def test_eight_threads_log_each_client_in_order(
    folder: Path, make_messages: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def work(thread: int) -> None:
        for index in range(250):
            log.log(*make_messages(1000 * thread + index), client=f"client {thread}")

    with PredictionLogWriter(folder, max_file_bytes=50_000) as log, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (log.written, log.dropped) == (2000, 0)
    assert len(list_files(folder)) > 5
    assert all(path.stat().st_size <= 50_000 for path in list_files(folder))
    for thread in range(8):
        firsts = np.concatenate([batch[:, 0] for batch in open_log(folder, client=f"client {thread}").batches(64)])
        np.testing.assert_array_equal(firsts, 100 * (1000 * thread + np.arange(250)))
    assert not caplog.records


def test_a_record_can_be_made_when_it_is_written(folder: Path, make_messages: Any) -> None:
    threads: list[str] = []

    def record() -> bytes:
        threads.append(threading.current_thread().name)
        return prediction_log.encode(*make_messages(), client="alice")

    def broken() -> bytes:
        raise ValueError("no such tensor")

    with PredictionLogWriter(folder, max_waiting_bytes=100_000) as log:
        log.log_later(1000, record)
        log.log_later(1000, broken)
        log.log_later(100_000, record)  # more than may wait
        assert threads in ([], ["request-log"])
    assert (log.written, log.dropped, threads) == (1, 2, ["request-log"])
    assert [logged.client for logged in read_predictions(folder)] == ["alice"]
