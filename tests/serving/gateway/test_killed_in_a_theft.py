"""A proxy that is killed in the middle of a theft: what the attacker was answered before and after is in the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.suspects import as_suspect

ROWS = np.random.default_rng(1).normal(size=(25, 1, 4)).astype(np.float32)


def test_what_was_answered_before_and_after_is_in_the_log(start: Callable[..., Any], tmp_path: Path) -> None:
    log = ("--log-dir", str(tmp_path / "logs"))

    def logged() -> list[np.ndarray]:
        if not any((tmp_path / "logs").glob("*.tfrecord")):
            return []
        return list(open_log(tmp_path / "logs").batches(1))

    process = start("--grpc-port", "0", *log)
    url = f"grpc://{process.grpc}/m"
    attacker = as_suspect(url)
    for row in ROWS[:10]:
        attacker.predict(row)
    deadline = time.monotonic() + 30
    while len(logged()) < 10:
        assert time.monotonic() < deadline, "nothing is written while the proxy runs"
        time.sleep(0.1)
    for row in ROWS[10:15]:
        attacker.predict(row)
    process.kill()
    process.wait()
    with pytest.raises(SuspectError, match="cannot be reached"):
        attacker.predict(ROWS[15])
    attacker.close()
    process = start("--grpc-port", process.grpc.rpartition(":")[2], *log)
    attacker = as_suspect(url)
    for row in ROWS[15:]:
        attacker.predict(row)
    process.terminate()
    assert process.wait(30) == 0
    found = np.concatenate(logged())
    kept = np.isin(ROWS[:, 0, 0], found[:, 0])
    np.testing.assert_array_equal(found, ROWS[kept, 0])  # in order, none twice
    assert kept[:10].all()
    assert kept[15:].all()
