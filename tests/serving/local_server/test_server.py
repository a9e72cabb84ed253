"""Starting, stopping and misusing the local server."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.local_server import LocalServer, open_server
from tests.helpers.server_clients import over_grpc, over_rest, predict_request, requests_under_way, stub
from tests.helpers.waiting import eventually


def is_open(port: int | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port or 0)) == 0


def start(base_path: Path) -> None:
    with LocalServer(base_path, grpc_port=0, rest_port=0):
        pass


@pytest.fixture
def copy(zoo: Path, tmp_path: Path) -> Path:
    """A model folder of its own, to be damaged."""
    shutil.copytree(zoo / "10", tmp_path / "clf" / "1")
    return tmp_path / "clf"


# Addresses


def test_addresses(zoo: Path) -> None:
    with LocalServer(zoo, grpc_port=0, rest_port=0) as server:
        assert (server.name, server.version, server.host) == ("zoo", 10, "127.0.0.1")
        assert server.grpc_port != server.rest_port
        assert server.grpc_address == f"127.0.0.1:{server.grpc_port}"
        assert server.grpc_url == f"grpc://127.0.0.1:{server.grpc_port}/zoo"
        assert server.rest_url == f"http://127.0.0.1:{server.rest_port}/v1/models/zoo"
        assert is_open(server.grpc_port)
        assert is_open(server.rest_port)
    assert not is_open(server.grpc_port)
    assert not is_open(server.rest_port)


def test_the_name_can_be_chosen(zoo: Path) -> None:
    with LocalServer(zoo, name="other", grpc_port=None, rest_port=0) as server:
        assert server.rest_url.endswith("/v1/models/other")
        assert requests.get(server.rest_url, timeout=30).status_code == 200
        assert requests.get(server.rest_url.replace("other", "zoo"), timeout=30).status_code == 404


def test_each_interface_can_be_left_out(zoo: Path) -> None:
    with LocalServer(zoo, grpc_port=0, rest_port=None) as server:
        assert is_open(server.grpc_port)
        with pytest.raises(ServingError, match="REST is switched off"):
            _ = server.rest_url
    with LocalServer(zoo, grpc_port=None, rest_port=0) as server, pytest.raises(ServingError, match="gRPC is switched"):
        _ = server.grpc_url


def test_all_addresses_are_reached_through_loopback(zoo: Path) -> None:
    with LocalServer(zoo, host="0.0.0.0", grpc_port=0, rest_port=0) as server:
        assert server.rest_url.startswith("http://127.0.0.1:")
        assert requests.get(server.rest_url, timeout=30).status_code == 200


def test_a_server_that_was_not_started_has_no_version_and_no_address(zoo: Path) -> None:
    server = LocalServer(zoo, grpc_port=0, rest_port=0)
    for attribute in ("version", "grpc_url", "rest_url"):
        with pytest.raises(ServingError, match="start"):
            getattr(server, attribute)


def test_nothing_is_printed(zoo: Path, capsys: pytest.CaptureFixture[str], images: np.ndarray) -> None:
    with LocalServer(zoo, grpc_port=0, rest_port=0) as server:
        over_rest(server, {"instances": images.tolist()})
        over_rest(server, {})
    assert capsys.readouterr() == ("", "")


# Models and ports that cannot be served


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"nowhere is not a folder\. Give the folder that holds one numbered folder"):
        start(tmp_path / "nowhere")


def test_folder_without_a_version(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    with pytest.raises(ServingError, match="holds no version: none of its folders has a number as its name"):
        start(tmp_path)


def test_a_versions_own_folder(zoo: Path) -> None:
    with pytest.raises(ServingError, match=rf"is a version itself.*Give the folder above it, {zoo}\."):
        start(zoo / "10")


@pytest.mark.parametrize(
    "damage",
    [
        lambda version: (version / "saved_model.pb").unlink(),
        lambda version: (version / "saved_model.pb").write_bytes(b"\xff" * 100),
        lambda version: shutil.rmtree(version / "variables"),
        lambda version: next((version / "variables").glob("*.data*")).write_bytes(b""),
    ],
    ids=["no graph", "graph of nonsense", "no variables", "variables cut off"],
)
def test_damaged_model(copy: Path, damage: Callable[[Path], Any]) -> None:
    damage(copy / "1")
    server = LocalServer(copy, grpc_port=0, rest_port=0)
    with pytest.raises(ServingError, match=r"clf/1 cannot be loaded as a SavedModel: .*Export the model again"):
        server.start()
    with pytest.raises(ServingError, match="not open"):
        _ = server.rest_url


def test_the_highest_version_is_served_even_if_it_is_damaged(copy: Path) -> None:
    """TensorFlow Serving does not fall back to an older version either."""
    (copy / "2").mkdir()
    with pytest.raises(ServingError, match="clf/2 cannot be loaded"):
        start(copy)


@pytest.mark.parametrize("protocol", ["gRPC", "REST"])
def test_a_taken_port_is_named(zoo: Path, protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"grpc_port": 0, "rest_port": 0, protocol.lower() + "_port": port}
        server = LocalServer(zoo, **ports)
        with pytest.raises(
            ServingError, match=f"{protocol} port {port} on 127.0.0.1 cannot be opened: Address already"
        ):
            server.start()
    server.start()  # no port was left open, and the taken one is free now
    server.stop()


def test_two_servers_cannot_share_a_grpc_port(server: LocalServer, zoo: Path) -> None:
    with pytest.raises(ServingError, match=f"gRPC port {server.grpc_port} "):
        LocalServer(zoo, grpc_port=server.grpc_port, rest_port=None).start()


def test_contradicting_ports(zoo: Path) -> None:
    with pytest.raises(ServingError, match="both None"):
        LocalServer(zoo, grpc_port=None, rest_port=None)
    with pytest.raises(ServingError, match="both 8500"):
        LocalServer(zoo, grpc_port=8500, rest_port=8500)


def test_models_that_fail_in_production_cause_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = tf.Module()
    argument = tf.TensorSpec((None,), tf.float32, name="x")
    inner = tf.function(lambda x: {"y": x + 1}, jit_compile=True)
    compiled = tf.function(lambda x: inner(x), input_signature=[argument])
    called = tf.function(lambda x: {"y": tf.numpy_function(lambda y: y, [x], tf.float32)}, input_signature=[argument])
    tf.saved_model.save(module, str(tmp_path / "clf" / "1"), signatures={"compiled": compiled, "called": called})
    with caplog.at_level(logging.WARNING, "dynamarks_tf"):
        start(tmp_path / "clf")
    assert "jit_compile=True" in caplog.text
    assert "calls back into Python" in caplog.text


def test_defaults_of_a_signature_replace_missing_inputs(copy: Path) -> None:
    file = copy / "1" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    defaults = saved.meta_graphs[0].signature_def["combine"].defaults
    defaults["b"].CopyFrom(tf.make_tensor_proto(np.array([5], np.int32)))
    file.write_bytes(saved.SerializeToString())
    request = predict_request("clf", "combine", a=np.ones(1, np.float32))
    with LocalServer(copy, grpc_port=0, rest_port=None) as server:
        response = over_grpc(server, request)
    assert list(response.outputs["sum"].float_val) == [6.0]


# Stopping

SLOW = {"signature_name": "count", "inputs": 400_000}  # a second or more


def test_answers_under_way_are_finished(zoo: Path) -> None:
    server = LocalServer(zoo, grpc_port=0, rest_port=0)
    server.start()
    with ThreadPoolExecutor(1) as pool, stub(server) as service:
        grpc_answer = service.Predict.future(predict_request("zoo", "count", steps=np.int64(SLOW["inputs"])))
        rest_answer = pool.submit(over_rest, server, SLOW, timeout=60)
        eventually(lambda: requests_under_way(server) == 2)
        server.stop(grace_s=60)
        assert rest_answer.result().json() == {"outputs": SLOW["inputs"]}
        assert list(grpc_answer.result().outputs["counted"].int64_val) == [SLOW["inputs"]]
    assert not is_open(server.rest_port)
    assert not is_open(server.grpc_port)


def test_answers_that_take_too_long_are_not_waited_for(zoo: Path) -> None:
    server = LocalServer(zoo, grpc_port=None, rest_port=0)
    server.start()
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(over_rest, server, {"signature_name": "count", "inputs": 10**15}, timeout=60)
        eventually(lambda: requests_under_way(server) == 1)
        began = time.monotonic()
        server.stop(grace_s=0.2)
        assert time.monotonic() - began < 10
        with pytest.raises(requests.ConnectionError):
            endless.result()


def test_an_idle_connection_does_not_delay_the_stop(zoo: Path) -> None:
    server = LocalServer(zoo, grpc_port=None, rest_port=0)
    server.start()
    with requests.Session() as session:
        session.get(server.rest_url, timeout=30)
        began = time.monotonic()
        server.stop(grace_s=30)
        assert time.monotonic() - began < 5


def test_stop_start_and_stop_again(zoo: Path) -> None:
    server = LocalServer(zoo, grpc_port=0, rest_port=0)
    server.stop()
    for _ in range(2):
        server.start()
        assert requests.get(server.rest_url, timeout=30).status_code == 200
        with pytest.raises(ServingError, match="running already"):
            server.start()
        server.stop()
        server.stop()


def test_wait_returns_at_the_stop(zoo: Path) -> None:
    with LocalServer(zoo, grpc_port=None, rest_port=0) as server:
        waiter = threading.Thread(target=server.wait)
        waiter.start()
        waiter.join(0.1)
        assert waiter.is_alive()
        server.stop()
        waiter.join(5)
        assert not waiter.is_alive()


def test_open_server_falls_back_to_the_local_server(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    server = open_server(zoo, name="clf", grpc_port=0, rest_port=0)
    assert isinstance(server, LocalServer)
    assert server.name == "clf"
