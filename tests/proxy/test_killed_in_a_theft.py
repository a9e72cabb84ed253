"""A proxy that is killed in the middle of a theft: what the thief was answered before and after is in the log."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.local_server import LocalServer
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.suspects import as_suspect

ROWS = np.random.default_rng(1).normal(size=(25, 1, 4)).astype(np.float32)
Start = Callable[[int], tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start(upstream: LocalServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a proxy that logs, as a process, on a port; returns its gRPC address too."""
    processes: list[subprocess.Popen[str]] = []

    def start(port: int) -> tuple[subprocess.Popen[str], str]:
        words = ["--upstream", upstream.grpc_address, "--grpc-port", f"{port}", "--log-dir", str(tmp_path / "logs")]
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "dynamarks_tf", "proxy", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("gRPC"))
        return process, line.split()[1].removeprefix("grpc://").partition("/")[0]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.filterwarnings("ignore:.*ends in the middle of a record")
def test_what_was_answered_before_and_after_is_in_the_log(start: Start, tmp_path: Path) -> None:
    def logged() -> list[np.ndarray]:
        if not any((tmp_path / "logs").glob("*.tfrecord")):
            return []
        return [request.inputs for request in open_log(tmp_path / "logs").requests()]

    process, address = start(0)
    thief = as_suspect(f"grpc://{address}/m")
    for row in ROWS[:10]:
        thief.predict(row)
    deadline = time.monotonic() + 30
    while len(logged()) < 10:
        assert time.monotonic() < deadline, "nothing is written while the proxy runs"
        time.sleep(0.1)
    for row in ROWS[10:15]:
        thief.predict(row)
    process.kill()
    process.wait()
    with pytest.raises(SuspectError, match="cannot be reached"):
        thief.predict(ROWS[15])
    thief.close()
    process, again = start(int(address.rpartition(":")[2]))
    assert again == address
    thief = as_suspect(f"grpc://{address}/m")
    for row in ROWS[15:]:
        thief.predict(row)
    process.terminate()
    assert process.wait(30) == 0
    found = np.concatenate(logged())
    kept = np.isin(ROWS[:, 0, 0], found[:, 0])
    np.testing.assert_array_equal(found, ROWS[kept, 0])  # in order, none twice
    assert kept[:10].all()
    assert kept[15:].all()
