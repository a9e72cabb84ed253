"""A proxy in front of a local server, both on real sockets, for all tests that only send requests."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from cryptography import x509

from dynamarks_tf.serving.gateway import Proxy
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.certificates import Authority


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model "m" from float32 of shape (n, 4) to 3 probabilities, with further signatures for faults."""
    base = tmp_path_factory.mktemp("proxied") / "m"
    module = tf.Module()
    module.weights = tf.Variable(tf.reshape(tf.sin(tf.range(12, dtype=tf.float32)), (4, 3)))

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="image")])
    def probabilities(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(image @ module.weights)}

    @tf.function(input_signature=[tf.TensorSpec((), tf.int64, name="steps")])
    def count(steps: tf.Tensor) -> dict[str, tf.Tensor]:
        start = (tf.constant(0, tf.int64),)
        return {"counted": tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), start)[0]}

    @tf.function(
        input_signature=[tf.TensorSpec((None,), tf.uint8, name="a"), tf.TensorSpec((None,), tf.float64, name="b")]
    )
    def combine(a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": tf.cast(a, tf.float64) + b, "a": a}

    signatures = {"serving_default": probabilities, "count": count, "combine": combine}
    tf.saved_model.save(module, str(base / "1"), signatures=signatures)
    return base


@pytest.fixture(scope="session")
def upstream(model_folder: Path) -> Iterator[LocalServer]:
    with LocalServer(model_folder, grpc_port=0, rest_port=0) as server:
        yield server


@pytest.fixture
def make_proxy(upstream: LocalServer) -> Callable[..., Proxy]:
    """Makes a proxy in front of the server, not started yet, with free ports."""

    def make(**options: Any) -> Proxy:
        rest = f"127.0.0.1:{upstream.rest_port}"
        return Proxy(upstream.grpc_address, rest, grpc_port=0, rest_port=0, **options)

    return make


@pytest.fixture(scope="session")
def proxy(upstream: LocalServer) -> Iterator[Proxy]:
    """A proxy without a log or authentication."""
    rest = f"127.0.0.1:{upstream.rest_port}"
    with Proxy(upstream.grpc_address, rest, grpc_port=0, rest_port=0, ops_port=0) as running:
        yield running


@pytest.fixture
def start(upstream: LocalServer) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `dynamarks proxy` in front of the server, as a process; its attribute `grpc_address` says where."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "dynamarks_tf", "proxy", "--upstream", upstream.grpc_address, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("gRPC"))
        process.grpc_address = line.split()[1]  # type: ignore[attr-defined]
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "acme-ca")


@pytest.fixture(scope="session")
def server_certificate(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
