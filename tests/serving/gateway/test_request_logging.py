"""The request log of the proxy, on which no answer depends."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf

from dynamarks_tf.cli.main import main
from dynamarks_tf.request_logs import PredictionLogWriter
from dynamarks_tf.serving.gateway import Admission, ApiKeys, Proxy
from dynamarks_tf.serving.gateway.request_logger import RequestLogger
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.suspects import as_suspect
from tests.helpers.logs import read_predictions
from tests.helpers.server_clients import over_grpc, over_rest, predict_request

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def test_both_interfaces_are_logged_alike(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    with make_proxy(request_log=tmp_path) as proxy:
        answer = over_grpc(proxy, predict_request("m", image=ROWS), ("x-client-id", "bob"))
        rows = over_rest(proxy, {"instances": ROWS.tolist()}, headers={"X-Client-ID": "alice"})
        packed = gzip.compress(json.dumps({"inputs": {"image": ROWS.tolist()}}).encode())
        columns = over_rest(proxy, packed, "/versions/1", headers={"Content-Encoding": "gzip"})
    assert (proxy.request_log.written, proxy.request_log.dropped) == (3, 0)
    found = read_predictions(tmp_path)
    assert [logged.client for logged in found] == ["bob", "alice", None]
    expected = tf.make_ndarray(answer.outputs["probabilities"])
    for logged, sent in zip(found, (expected, rows.json()["predictions"], columns.json()["outputs"]), strict=True):
        np.testing.assert_array_equal(logged.inputs["image"], ROWS, strict=True)
        np.testing.assert_array_equal(logged.answers["probabilities"], expected, strict=True)
        np.testing.assert_array_equal(logged.answers["probabilities"], np.float32(sent), strict=True)
        assert abs(logged.time - time.time()) < 60
        spec = logged.spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("m", 1, "serving_default")


def test_all_paths_of_a_model_are_logged_as_the_same_model(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    with make_proxy(request_log=tmp_path) as proxy:
        for path in ("m", "%6d", "m/versions/1", "m/versions/0001"):
            assert over_rest(proxy, {"instances": ROWS.tolist()}, model=path).status_code == 200
    found = [(logged.spec.name, logged.inputs["image"].shape) for logged in read_predictions(tmp_path)]
    assert found == 4 * [("m", (5, 4))]


def test_other_dtypes_and_several_tensors_over_rest(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    body = {"signature_name": "combine", "instances": [{"a": 3, "b": 0.1}, {"a": 255, "b": 1e300}]}
    with make_proxy(request_log=tmp_path) as proxy:
        assert over_rest(proxy, body).status_code == 200
    (logged,) = read_predictions(tmp_path)
    np.testing.assert_array_equal(logged.inputs["a"], np.array([3, 255], np.uint8), strict=True)
    np.testing.assert_array_equal(logged.answers["sum"], np.array([3.1, 1e300]), strict=True)


def test_only_predictions_that_were_answered_are_logged(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    with make_proxy(request_log=tmp_path) as proxy:
        assert over_rest(proxy, {"instances": [[1, 2]]}).status_code == 400
        assert requests.get(f"{proxy.rest_url}/v1/models/m/metadata", timeout=30).status_code == 200
        with pytest.raises(grpc.RpcError):
            over_grpc(proxy, predict_request("m", "nonsense", image=ROWS))
    assert list(tmp_path.iterdir()) == []


def test_predictions_that_cannot_be_logged_are_counted(
    upstream: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server for the metadata does not exist, so the logger cannot decode predictions."""
    with PredictionLogWriter(tmp_path) as writer:
        request_logger = RequestLogger(writer, "http://127.0.0.1:1", max_body_bytes=1000)
        for _ in range(3):
            request_logger.log_rest("/v1/models/m:predict", b"{}", b"{}", is_packed=False, client=None)
        request_logger.log_grpc(b"\xff", b"\xff", None)
    assert (writer.written, writer.dropped) == (0, 4)
    assert "4 requests dropped so far" in caplog.text


def test_a_theft_through_the_proxy_is_proven_from_its_log(
    marked_model: Any, surrogate: Any, digits: Any, key: Any, tmp_path: Path, capsys: Any
) -> None:
    from dynamarks_tf.export import export_saved_model

    export_saved_model(marked_model, tmp_path / "clf" / "1")
    marked_model.save(tmp_path / "marked.keras")
    surrogate.save(tmp_path / "surrogate.keras")
    key.save(tmp_path / "acme.key")
    keys = ApiKeys([("alice", bytes.fromhex("2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"))])
    stolen = digits.x_train[len(digits.x_train) // 2 :]
    with LocalServer(tmp_path / "clf", grpc_port=0, rest_port=0) as server:
        rest = f"127.0.0.1:{server.rest_port}"
        options = {"admission": Admission(keys=keys), "request_log": tmp_path / "logs"}
        with Proxy(server.grpc_address, rest, grpc_port=0, rest_port=0, **options) as proxy:
            for start in range(0, len(stolen), 100):
                batch = stolen[start : start + 100]
                if start % 200:
                    body = {"instances": batch.tolist()}
                    headers = {"x-api-key": "alice"}
                    assert over_rest(proxy, body, model="clf", headers=headers).status_code == 200
                else:
                    over_grpc(proxy, predict_request("clf", image=batch), ("x-api-key", "alice"))
    words = ("verify", "surrogate.keras", "--owner", "marked.keras", "--key", "acme.key", "--log", "logs")
    arguments = [word if word.startswith("--") or word == "verify" else str(tmp_path / word) for word in words]
    assert main([*arguments, "--client", "alice", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["plan"]["log"]["num_queries"] == len(stolen)
    assert main([*arguments, "--client", "bob"]) == 2


def test_as_suspect_reads_through_the_proxy(proxy: Proxy) -> None:
    rest_answers = as_suspect(f"{proxy.rest_url}/v1/models/m").predict(ROWS)
    grpc_answers = as_suspect(f"grpc://{proxy.grpc_address}/m").predict(ROWS)
    np.testing.assert_array_equal(grpc_answers, rest_answers.astype(np.float32))
