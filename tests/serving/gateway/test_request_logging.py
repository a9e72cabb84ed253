"""The log of a gateway before a server with TensorFlow. The demo's test proves a theft from such a log."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.gateway.launcher import Gateway, find_envoy
from dynamarks_tf.serving.gateway.settings import Settings
from dynamarks_tf.serving.gateway.temporary_folder import temporary_folder
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.suspects import as_suspect
from tests.helpers.logs import Logged, read_predictions
from tests.helpers.server_clients import predict_request
from tests.helpers.waiting import eventually

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model "m", from float32 of shape (n, 4) to 3 probabilities."""
    base = tmp_path_factory.mktemp("served")
    module = tf.Module()
    module.weights = tf.Variable(tf.reshape(tf.sin(tf.range(12, dtype=tf.float32)), (4, 3)))

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="image")])
    def probabilities(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(image @ module.weights)}

    @tf.function(
        input_signature=[tf.TensorSpec((None,), tf.uint8, name="a"), tf.TensorSpec((None,), tf.string, name="b")]
    )
    def combine(a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": tf.cast(a, tf.float64) + 0.1, "b_bytes": b}

    tf.saved_model.save(
        module, str(base / "m" / "1"), signatures={"serving_default": probabilities, "combine": combine}
    )
    return base


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LocalServer]:
    with LocalServer(folder / "m", grpc_port=0, rest_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(server: LocalServer, folder: Path) -> Iterator[Gateway]:
    try:
        find_envoy()
    except ServingError as error:
        pytest.skip(str(error))
    rest = f"127.0.0.1:{server.rest_port}"
    with temporary_folder() as place:
        settings = Settings(folder=place, upstream=server.grpc_address, upstream_rest=rest, grpc_port=0, rest_port=0)
        with Gateway(settings, log_dir=folder / "logs", threads=1) as running:
            yield running


def over_rest(gateway: Gateway, body: Any, model: str = "m", **headers: str) -> requests.Response:
    data = json.dumps(body) if isinstance(body, dict) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(f"{gateway.rest_url}/v1/models/{model}:predict", data, headers=named, timeout=30)


def over_grpc(gateway: Gateway, request: Any, client: str) -> Any:
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc.insecure_channel(gateway.grpc_address) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return service.Predict(request, metadata=(("x-client-id", client),), timeout=30)


def logged(folder: Path, client: str, count: int) -> list[Logged]:
    found: list[Logged] = []

    def is_there() -> bool:
        found[:] = [one for one in read_predictions(folder / "logs") if one.client == client]
        return len(found) >= count

    eventually(is_there)
    return found


def test_both_interfaces_are_logged_alike(gateway: Gateway, folder: Path) -> None:
    answer = over_grpc(gateway, predict_request("m", image=ROWS), "alike")
    rows = over_rest(gateway, {"instances": ROWS.tolist()}, x_client_id="alike")
    packed = gzip.compress(json.dumps({"inputs": {"image": ROWS.tolist()}}).encode())
    columns = over_rest(gateway, packed, "m/versions/1", content_encoding="gzip", x_client_id="alike")
    found = logged(folder, "alike", 3)
    expected = tf.make_ndarray(answer.outputs["probabilities"])
    for one, sent in zip(found, (expected, rows.json()["predictions"], columns.json()["outputs"]), strict=True):
        np.testing.assert_array_equal(one.inputs["image"], ROWS, strict=True)
        np.testing.assert_array_equal(one.answers["probabilities"], expected, strict=True)
        np.testing.assert_array_equal(one.answers["probabilities"], np.float32(sent), strict=True)
        assert abs(one.time - time.time()) < 60
        assert (one.spec.name, one.spec.version.value, one.spec.signature_name) == ("m", 1, "serving_default")


def test_other_dtypes_and_several_tensors_over_rest(gateway: Gateway, folder: Path) -> None:
    body = {"signature_name": "combine", "instances": [{"a": 3, "b": "x"}, {"a": 255, "b": {"b64": "/w=="}}]}
    assert over_rest(gateway, body, x_client_id="others").status_code == 200
    (one,) = logged(folder, "others", 1)
    np.testing.assert_array_equal(one.inputs["a"], np.array([3, 255], np.uint8), strict=True)
    np.testing.assert_array_equal(one.answers["sum"], np.array([3.1, 255.1]), strict=True)
    assert one.inputs["b"].tolist() == one.answers["b_bytes"].tolist() == [b"x", b"\xff"]


def test_only_predictions_that_were_answered_are_logged(gateway: Gateway, folder: Path) -> None:
    assert over_rest(gateway, {"instances": [[1, 2]]}, x_client_id="refused").status_code == 400
    with pytest.raises(grpc.RpcError):
        over_grpc(gateway, predict_request("m", "nonsense", image=ROWS), "refused")
    assert over_rest(gateway, {"instances": ROWS.tolist()}, x_client_id="refused").status_code == 200
    assert len(logged(folder, "refused", 1)) == 1


def test_wrong_requests_of_one_client_fail_no_other(gateway: Gateway) -> None:
    """With batching, which is off, requests of others would share their fate."""

    def asked(body: dict[str, Any]) -> set[int]:
        return {over_rest(gateway, body).status_code for _ in range(10)}

    with ThreadPoolExecutor(5) as pool:
        wrong = pool.submit(asked, {"instances": [[1.0, 2.0]]})
        correct = [pool.submit(asked, {"instances": ROWS.tolist()}) for _ in range(4)]
        assert [each.result() for each in (wrong, *correct)] == [{400}, {200}, {200}, {200}, {200}]


def test_as_suspect_reads_through_the_gateway(gateway: Gateway) -> None:
    rest_answers = as_suspect(f"{gateway.rest_url}/v1/models/m").predict(ROWS)
    grpc_answers = as_suspect(f"grpc://{gateway.grpc_address}/m").predict(ROWS)
    np.testing.assert_array_equal(grpc_answers, rest_answers.astype(np.float32))
