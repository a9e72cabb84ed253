"""Running the real server, for which a small script stands in here."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorflow_serving.apis import get_model_status_pb2

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.local_server import TensorFlowServing, open_server
from tests.helpers import ROOT
from tests.helpers.server_clients import model_stub, with_spec

FAKE = ROOT / "tests" / "helpers" / "fake_tensorflow_model_server.py"


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Puts the script on PATH; returns its process and flags."""
    binary = tmp_path / "bin" / "tensorflow_model_server"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_CALL", str(tmp_path / "call.json"))
    return lambda: json.loads((tmp_path / "call.json").read_text())


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_process_is_started_with_its_flags_and_stopped(
    zoo: Path, called: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(zoo.parent)
    with open_server("zoo", name="clf", grpc_port=0, rest_port=0) as server:
        assert isinstance(server, TensorFlowServing)
        flags = called()["flags"]
        assert flags["model_name"] == "clf"
        assert flags["model_base_path"] == str(zoo)  # relative ones are refused by TensorFlow Serving
        assert flags["port"] == str(server.grpc_port)
        assert flags["rest_api_port"] == str(server.rest_port)
        assert flags["max_num_load_retries"] == "0"
        assert server.version == 10
        assert server.rest_url == f"http://127.0.0.1:{server.rest_port}/v1/models/clf"
        assert server.log_path is not None
        assert "Building single TensorFlow model" in server.log_path.read_text()
        with model_stub(server) as service:
            request = with_spec(get_model_status_pb2.GetModelStatusRequest(), name="clf")
            response = service.GetModelStatus(request, timeout=10)
        assert response.model_version_status[0].state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
        with pytest.raises(ServingError, match="running already"):
            server.start()
    assert not is_running(called()["pid"])
    server.stop()


def test_each_interface_can_be_left_out(zoo: Path, called: Any) -> None:
    with TensorFlowServing(zoo, grpc_port=None, rest_port=0):
        assert called()["flags"]["port"] == "0"
    with TensorFlowServing(zoo, grpc_port=0, rest_port=None):
        assert called()["flags"]["rest_api_port"] == "0"


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fails", r"ended with exit code 255\. The end of its log:(.|\n)*did not become available"),
        ("hangs", r"has not loaded .*zoo within 1\.5 s\. The end of its log:"),
        ("no_rest", r"has not opened REST port [0-9]+\."),
    ],
)
def test_a_failed_start_shows_the_log_and_leaves_no_process(
    zoo: Path, called: Any, monkeypatch: pytest.MonkeyPatch, mode: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_MODE", mode)
    server = TensorFlowServing(zoo, grpc_port=0, rest_port=0, start_timeout_s=1.5)
    with pytest.raises(ServingError, match=message):
        server.start()
    assert not is_running(called()["pid"])


def test_wait_returns_when_the_process_ends(zoo: Path, called: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_MODE", "dies")
    with TensorFlowServing(zoo, grpc_port=0, rest_port=0) as server:
        waiter = threading.Thread(target=server.wait)
        waiter.start()
        waiter.join(10)
        assert not waiter.is_alive()


def test_problems_are_found_before_the_process_is_started(zoo: Path, called: Any, tmp_path: Path, server: Any) -> None:
    with pytest.raises(ServingError, match="is not a folder"):
        TensorFlowServing(tmp_path / "nowhere", grpc_port=0, rest_port=0).start()
    with pytest.raises(ServingError, match=f"REST port {server.rest_port} "):
        TensorFlowServing(zoo, grpc_port=0, rest_port=server.rest_port).start()
    assert not (tmp_path / "call.json").exists()


def test_a_missing_binary_is_an_error(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServingError, match="tensorflow_model_server is not on PATH"):
        TensorFlowServing(zoo, grpc_port=0, rest_port=0).start()
