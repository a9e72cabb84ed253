"""The smoke test passes on every server of a marked model, and notices wrong answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow as tf

from dynamarks_tf.errors import ServingError
from dynamarks_tf.export import export_saved_model
from dynamarks_tf.serving.gateway import clients
from dynamarks_tf.serving.gateway.launcher import Gateway, find_envoy
from dynamarks_tf.serving.gateway.settings import Settings
from dynamarks_tf.serving.local_server import LocalServer, TensorFlowServing
from tests.helpers import ROOT, self_signed
from tests.helpers.files import script

SCRIPT = ROOT / "serving" / "smoke_test.py"


@pytest.fixture(scope="module")
def smoke() -> ModuleType:
    return script(SCRIPT)


@pytest.fixture(scope="module")
def folder(marked_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "clf"
    export_saved_model(marked_model, path / "1")
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LocalServer]:
    with LocalServer(folder, grpc_port=0, rest_port=0) as running:
        yield running


def arguments(grpc_port: int | None, rest_port: int | None, *more: str) -> list[str]:
    return ["127.0.0.1", str(grpc_port), "--rest-port", str(rest_port), *more]


def test_local_server(smoke: ModuleType, server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main(arguments(server.grpc_port, server.rest_port)) == 0
    assert capsys.readouterr().out.endswith("8 of 8 checks passed\n")
    assert smoke.main(["127.0.0.1", str(server.grpc_port)]) == 0
    assert capsys.readouterr().out.endswith("5 of 5 checks passed\n")


def test_proxy_with_tls(
    smoke: ModuleType,
    server: LocalServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the README, for a deployment on Kubernetes behind a forwarded port."""
    try:
        find_envoy()
    except ServingError as error:
        pytest.skip(str(error))
    certificate, private_key = self_signed(tmp_path)
    token = clients.add(tmp_path / "clients", "alice", days=1)
    settings = Settings(
        folder=tmp_path,
        upstream=server.grpc_address,
        upstream_rest=f"127.0.0.1:{server.rest_port}",
        grpc_port=0,
        rest_port=0,
        tls_cert=certificate,
        tls_key=private_key,
        clients=tmp_path / "clients" / "public",
    )
    with Gateway(settings, threads=1) as gateway:
        asked = ["localhost", str(gateway.settings.grpc_port), "--rest-port", str(gateway.settings.rest_port)]
        assert smoke.main([*asked, "--tls", str(certificate)]) == 1
        assert "UNAUTHENTICATED" in capsys.readouterr().out
        monkeypatch.setenv("DYNAMARKS_API_KEY", token)
        assert smoke.main([*asked, "--tls", str(certificate)]) == 0
        assert capsys.readouterr().out.endswith("8 of 8 checks passed\n")
        assert smoke.main(asked) == 1


@pytest.mark.skipif(TensorFlowServing.find() is None, reason="tensorflow_model_server is not installed")
def test_tensorflow_serving(smoke: ModuleType, folder: Path) -> None:
    with TensorFlowServing(folder, name="clf", grpc_port=0, rest_port=0) as server:
        assert smoke.main(arguments(server.grpc_port, server.rest_port)) == 0


def test_wrong_answers_are_reported(
    smoke: ModuleType, server: LocalServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(answer: requests.Response) -> Any:
        text = answer.text
        return json.loads(text.replace("0.", "1.") if answer.ok and answer.request.method == "POST" else text)

    monkeypatch.setattr(requests.Response, "json", changed)
    assert smoke.main(arguments(server.grpc_port, server.rest_port)) == 1
    out = capsys.readouterr().out
    assert "FAILED  rest predicts like grpc" in out
    assert out.endswith("7 of 8 checks passed\n")
    assert smoke.main(arguments(server.grpc_port, server.rest_port, "--model", "other")) == 1
    assert "FAILED  the signature of other cannot be had: NOT_FOUND" in capsys.readouterr().out


def _decoding(text: tf.Tensor) -> dict[str, tf.Tensor]:
    size = lambda file: tf.cast(tf.size(tf.io.decode_png(file)), tf.float32)  # noqa: E731
    return {
        "size": tf.map_fn(size, text, fn_output_signature=tf.float32),
        "read_bytes": tf.strings.join([text, b"\xff"]),
    }


def _measuring(text: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"size": tf.cast(tf.strings.length(text), tf.float32), "read_bytes": tf.strings.upper(text)}


@pytest.mark.parametrize("call", [_measuring, _decoding], ids=["text", "files"])
def test_text_and_bytes(smoke: ModuleType, tmp_path: Path, call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that decodes files takes none of the made-up texts; that is said, and its own inputs help."""
    function = tf.function(call, input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    tf.saved_model.save(tf.Module(), str(tmp_path / "clf" / "1"), signatures=function.get_concrete_function())
    png = tf.io.encode_png(np.zeros((2, 3, 1), np.uint8)).numpy()
    np.save(tmp_path / "x.npy", np.array([png, png, png]))
    np.save(tmp_path / "numbers.npy", np.zeros((2, 3)))
    with LocalServer(tmp_path / "clf", grpc_port=0, rest_port=0) as server:
        asked = arguments(server.grpc_port, server.rest_port)
        code = smoke.main(asked)
        assert (code, "Give inputs that the model takes: --inputs" in capsys.readouterr().out) == (
            (0, False) if call is _measuring else (1, True)
        )
        assert smoke.main([*asked, "--inputs", str(tmp_path / "x.npy")]) == 0
        assert smoke.main([*asked, "--inputs", str(tmp_path / "numbers.npy")]) == 1
        assert "it holds float64 of shape (2, 3); the model takes object such as (2,)" in capsys.readouterr().out


def test_it_needs_nothing_of_this_package() -> None:
    assert "dynamarks_tf" not in SCRIPT.read_text()
