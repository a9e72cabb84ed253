"""The request log of the local server, on which no answer depends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs import PredictionLogWriter, open_log
from dynamarks_tf.request_logs.rotation import RotatingFiles
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.logs import read_predictions
from tests.helpers.server_clients import over_grpc, over_rest, predict_request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def logging_server(zoo: Path, folder: Path) -> Iterator[LocalServer]:
    with LocalServer(zoo, grpc_port=0, rest_port=0, request_log=folder) as server:
        yield server


def test_both_interfaces_log_request_and_answer(
    logging_server: LocalServer, folder: Path, images: np.ndarray, probabilities: np.ndarray
) -> None:
    over_rest(logging_server, {"instances": images.tolist()}, headers={"X-Client-ID": "alice"})
    over_grpc(logging_server, predict_request("zoo", image=images), ("x-client-id", "bob"))
    over_grpc(logging_server, predict_request("zoo", image=images))
    logging_server.stop()
    found = read_predictions(folder)
    assert [logged.client for logged in found] == ["alice", "bob", None]
    for logged in found:
        np.testing.assert_array_equal(logged.inputs["image"], images, strict=True)
        np.testing.assert_allclose(logged.answers["probabilities"], probabilities, rtol=1e-6)
        assert logged.answers["probabilities"].dtype == np.float32
    np.testing.assert_array_equal(found[0].answers["probabilities"], found[1].answers["probabilities"])
    assert (logging_server.request_log.written, logging_server.request_log.dropped) == (3, 0)


def test_the_log_names_the_version_and_signature_that_answered(
    logging_server: LocalServer, folder: Path, images: np.ndarray
) -> None:
    over_grpc(logging_server, predict_request("zoo", image=images))
    logging_server.stop()
    (logged,) = read_predictions(folder)
    spec = logged.spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("zoo", 10, "serving_default")
    assert logged.request == predict_request("zoo", image=images)


def test_requests_that_failed_are_not_logged(logging_server: LocalServer, folder: Path, images: np.ndarray) -> None:
    over_rest(logging_server, {"instances": [[1, 2]]})  # the graph refuses
    over_rest(logging_server, {"signature_name": "half_out", "inputs": [1.0]})  # the answer cannot be written as JSON
    with pytest.raises(grpc.RpcError):
        over_grpc(logging_server, predict_request("zoo", "nonsense", image=images))
    logging_server.stop()
    assert list(folder.iterdir()) == []


def test_another_header(zoo: Path, folder: Path, images: np.ndarray) -> None:
    with LocalServer(zoo, grpc_port=0, rest_port=0, request_log=folder, client_header="X-Account") as server:
        alice = {"X-ACCOUNT": "alice ", "Authorization": "Bearer SECRET"}
        for headers in (alice, {"x-client-id": "bob"}, {"X-Account": "a" * 1000}):
            over_rest(server, {"instances": images.tolist()}, headers=headers)
        metadata = (("x-account", "carol"), ("authorization", "SECRET"), ("x-account", "proxy"))
        over_grpc(server, predict_request("zoo", image=images), *metadata)
    clients = [request.client for request in read_predictions(folder)]
    assert clients == ["alice", None, "a" * 256, "carol,proxy"]
    assert b"SECRET" not in b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize(
    "name", ["Authorization", "proxy-authorization", "cookie", "X-Api-Key", "x-apikey", "x-auth-token", "client-bin"]
)
def test_secrets_are_not_logged(zoo: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"The header '{name}' carries secrets, which must not be logged. Name one"):
        LocalServer(zoo, grpc_port=0, rest_port=0, client_header=name)


@pytest.mark.parametrize("name", ["", "x client", "x_client", "-x", "x:"])
def test_invalid_header_names_are_refused(zoo: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"must be made of letters, digits and hyphens. Received: '{name}'"):
        LocalServer(zoo, grpc_port=0, rest_port=0, client_header=name)


def test_a_server_without_a_log_has_none(server: LocalServer) -> None:
    assert server.request_log is None


def test_an_unusable_log_folder_fails_the_start(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = LocalServer(zoo, grpc_port=0, rest_port=0, request_log=tmp_path / "file")
    with pytest.raises(LogError, match="Requests cannot be logged to .*file: (File exists|Not a directory)"):
        server.start()


def test_each_start_begins_a_new_log(zoo: Path, folder: Path, images: np.ndarray) -> None:
    server = LocalServer(zoo, grpc_port=None, rest_port=0, request_log=folder)
    assert server.request_log is None
    for _ in range(2):
        with server:
            over_rest(server, {"instances": images.tolist()})
        assert server.request_log.written == 1
    assert len(list(folder.iterdir())) == 2


def test_a_writer_of_the_caller_stays_open(zoo: Path, folder: Path, images: np.ndarray) -> None:
    with PredictionLogWriter(folder) as writer:
        for _ in range(2):
            with LocalServer(zoo, grpc_port=None, rest_port=0, request_log=writer) as server:
                over_rest(server, {"instances": images.tolist()})
                assert server.request_log is writer
    assert (writer.written, writer.dropped) == (2, 0)
    assert len(list(folder.iterdir())) == 1


# Answers without a working log


def ask_both(server: LocalServer, images: np.ndarray, probabilities: np.ndarray) -> None:
    body = over_rest(server, {"instances": images.tolist()}).json()
    np.testing.assert_allclose(body["predictions"], probabilities, rtol=1e-6)
    response = over_grpc(server, predict_request("zoo", image=images))
    np.testing.assert_allclose(response.outputs["probabilities"].float_val, probabilities.ravel(), rtol=1e-6)


def test_answers_do_not_depend_on_the_disk(
    zoo: Path,
    folder: Path,
    images: np.ndarray,
    probabilities: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: RotatingFiles, record: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RotatingFiles, "append", fail)
    with LocalServer(zoo, grpc_port=0, rest_port=0, request_log=folder) as server:
        ask_both(server, images, probabilities)
    assert (server.request_log.written, server.request_log.dropped) == (0, 2)


def test_answers_do_not_depend_on_the_queue(
    zoo: Path, folder: Path, images: np.ndarray, probabilities: np.ndarray
) -> None:
    with (
        PredictionLogWriter(folder, max_waiting_bytes=1) as writer,
        LocalServer(zoo, grpc_port=0, rest_port=0, request_log=writer) as server,
    ):
        answered = threading.Event()
        writer.log_later(1, lambda: b"waits" * answered.wait(30))  # the first one waits whatever its size
        ask_both(server, images, probabilities)
        answered.set()
    assert (writer.written, writer.dropped) == (1, 2)


def test_answers_do_not_depend_on_the_writer(
    zoo: Path,
    folder: Path,
    images: np.ndarray,
    probabilities: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(PredictionLogWriter, "log", lambda *_, **__: 1 / 0)
    with LocalServer(zoo, grpc_port=0, rest_port=0, request_log=folder) as server:
        ask_both(server, images, probabilities)
    assert server.request_log.dropped == 2
    assert "the last one because it cannot be queued: ZeroDivisionError" in caplog.text


def test_eight_clients_at_once(zoo: Path, folder: Path) -> None:
    def work(client: int) -> None:
        for index in range(20):
            array = np.full((1, 4), 1000 * client + index, np.float32)
            if index % 2:
                over_rest(server, {"instances": array.tolist()}, headers={"x-client-id": f"client {client}"})
            else:
                over_grpc(server, predict_request("zoo", image=array), ("x-client-id", f"client {client}"))

    with (
        LocalServer(zoo, grpc_port=0, rest_port=0, request_log=folder) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(work, range(8)))
    assert (server.request_log.written, server.request_log.dropped) == (160, 0)
    for client in range(8):
        rows = np.concatenate(list(open_log(folder, client=f"client {client}").batches(64)))
        np.testing.assert_array_equal(rows[:, 0], 1000 * client + np.arange(20))


# The command line


def test_serve_logs_to_a_folder(
    zoo: Path, folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask_then_interrupt(server: LocalServer) -> None:
        over_rest(server, {"instances": images.tolist()}, headers={"x-account": "alice"})
        os.kill(os.getpid(), signal.SIGTERM)  # as a container engine does
        time.sleep(10)

    monkeypatch.setattr(LocalServer, "wait", ask_then_interrupt)
    arguments = ["serve", str(zoo), "--grpc-port", "0", "--rest-port", "0"]
    assert main([*arguments, "--log-dir", str(folder), "--client-header", "x-account"]) == 0
    out = capsys.readouterr().out
    assert f"log  {folder}, client from header x-account" in out
    assert "logged 1 requests, dropped 0" in out
    assert open_log(folder).clients() == {"alice": 1}
    assert main([*arguments, "--log-dir", str(folder), "--client-header", "authorization"]) == 2
    assert "carries secrets" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "log" not in capsys.readouterr().out
