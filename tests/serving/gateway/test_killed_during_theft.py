"""A proxy that is killed during a theft: the log holds the answers before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.serving.gateway import Proxy
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.suspects import as_suspect
from tests.helpers.waiting import eventually

ROWS = np.random.default_rng(1).normal(size=(25, 1, 4)).astype(np.float32)


def test_answers_before_and_after_the_kill_are_in_the_log(
    start: Callable[..., Any], upstream: LocalServer, tmp_path: Path
) -> None:

    def logged() -> list[np.ndarray]:
        if not any((tmp_path / "logs").glob("*.tfrecord")):
            return []
        return list(open_log(tmp_path / "logs").batches(1))

    process = start("--grpc-port", "0", "--log-dir", str(tmp_path / "logs"))
    url = f"grpc://{process.grpc_address}/m"
    attacker = as_suspect(url)
    for row in ROWS[:10]:
        attacker.predict(row)
    eventually(lambda: len(logged()) == 10)  # while the proxy runs
    for row in ROWS[10:15]:
        attacker.predict(row)
    process.kill()
    process.wait()
    with pytest.raises(SuspectError, match="cannot be reached"):
        attacker.predict(ROWS[15])
    attacker.close()
    port = int(process.grpc_address.rpartition(":")[2])
    with Proxy(upstream.grpc_address, None, grpc_port=port, rest_port=None, request_log=tmp_path / "logs"):
        attacker = as_suspect(url)
        for row in ROWS[15:]:
            attacker.predict(row)
        attacker.close()
    found = np.concatenate(logged())
    kept = np.isin(ROWS[:, 0, 0], found[:, 0])
    np.testing.assert_array_equal(found, ROWS[kept, 0])  # in order, none twice
    assert kept[:10].all()
    assert kept[15:].all()
