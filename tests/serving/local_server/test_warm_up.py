"""Warm-up requests run before a version answers; a version whose requests fail does not answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from dynamarks_tf.errors import ServingError
from dynamarks_tf.export.warmup import WARMUP_FILE, write_warmup
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.server_clients import ask, factor_request, states
from tests.helpers.waiting import eventually

Add = Callable[..., Path]


def write(version: Path, *logs: prediction_log_pb2.PredictionLog) -> None:
    (version / WARMUP_FILE.parent).mkdir()
    with tf.io.TFRecordWriter(str(version / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def log_of(**changes: Any) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(factor_request("of another name", version=99, **changes))
    return log


def test_the_requests_of_an_export_are_run(add_version: Add, tmp_path: Path) -> None:
    version = add_version(1)
    write_warmup(version, {"x": np.ones(3, np.float32)}, model_name="clf", signature_name="serving_default")
    with LocalServer(tmp_path / "clf", grpc_port=None, rest_port=0) as server:
        assert ask(server) == 1


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ([log_of(), log_of(signature_name="x")], 'request 2 fails: FAILED_PRECONDITION: Serving signature key "x"'),
        ([log_of()] * 1001, "more than 1000 warm-up requests"),
        (
            [prediction_log_pb2.PredictionLog(session_run_log=prediction_log_pb2.SessionRunLog())],
            "request 1 fails: UNIMPLEMENTED: Unsupported log_type for warmup: session_run_log. Use predict_log.",
        ),
        (
            [log_of(), prediction_log_pb2.PredictionLog(classify_log=prediction_log_pb2.ClassifyLog())],
            "request 2 fails: UNIMPLEMENTED: Unsupported log_type for warmup: classify_log. Use predict_log.",
        ),
    ],
    ids=["signature", "too many", "session run", "classify"],
)
def test_a_request_that_fails_or_is_not_one_of_predict_fails_the_start(
    add_version: Add, tmp_path: Path, logs: Any, message: str
) -> None:
    write(add_version(1), *logs)
    with pytest.raises(ServingError, match=message):
        LocalServer(tmp_path / "clf", grpc_port=None, rest_port=0).start()


def test_a_damaged_file_fails_the_start(add_version: Add, tmp_path: Path) -> None:
    version = add_version(1)
    write(version, log_of())
    (version / WARMUP_FILE).write_bytes((version / WARMUP_FILE).read_bytes()[:-1])
    with pytest.raises(ServingError, match=r"tf_serving_warmup_requests: warm-up request 0 fails: .*cut off"):
        LocalServer(tmp_path / "clf", grpc_port=None, rest_port=0).start()


def test_a_new_version_that_cannot_be_warmed_up_is_refused(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    with LocalServer(tmp_path / "clf", grpc_port=None, rest_port=0, file_system_poll_wait_seconds=0.05) as server:
        incoming = add_version(2, model="elsewhere")
        write(incoming, log_of(signature_name="x"))
        incoming.rename(tmp_path / "clf" / "2")
        eventually(lambda: states(server) == {2: "END", 1: "AVAILABLE"})
        assert ask(server) == 1


def test_an_empty_log_is_skipped(add_version: Add, tmp_path: Path) -> None:
    write(add_version(1), prediction_log_pb2.PredictionLog(), log_of())
    with LocalServer(tmp_path / "clf", grpc_port=None, rest_port=0) as server:
        assert ask(server) == 1
