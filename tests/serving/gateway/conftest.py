"""Envoy and the collector before a model server without TensorFlow; each file shares what it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.gateway.launcher import Gateway, find_envoy
from dynamarks_tf.serving.gateway.settings import Settings
from dynamarks_tf.serving.gateway.temporary_folder import temporary_folder
from tests.helpers.certificates import Authority
from tests.helpers.fake_model import FakeModel, fake_model

Start = Callable[..., Gateway]


@pytest.fixture(scope="module")
def shared_model() -> Iterator[FakeModel]:
    with fake_model() as model:
        yield model


@pytest.fixture(autouse=True)
def model(shared_model: FakeModel) -> FakeModel:
    """A model server that has seen nothing yet."""
    shared_model.reset()
    return shared_model


def _starter(model: FakeModel, stack: ExitStack) -> Start:
    try:
        find_envoy()
    except ServingError as error:
        pytest.skip(str(error))

    def start(*, log_dir: Path | None = None, envoy: Path | None = None, **options: Any) -> Gateway:
        folder = stack.enter_context(temporary_folder())
        given = {"upstream": model.grpc, "upstream_rest": model.rest, "grpc_port": 0, "rest_port": 0, **options}
        gateway = Gateway(Settings(folder=folder, **given), log_dir=log_dir, envoy=envoy, threads=1)
        return stack.enter_context(gateway)

    return start


@pytest.fixture(scope="module")
def start_shared(shared_model: FakeModel) -> Iterator[Start]:
    """Starts gateways for all tests of a file."""
    with ExitStack() as stack:
        yield _starter(shared_model, stack)


@pytest.fixture
def start(model: FakeModel) -> Iterator[Start]:
    """Starts gateways for one test."""
    with ExitStack() as stack:
        yield _starter(model, stack)


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def gateway(start_shared: Start, log_dir: Path) -> Gateway:
    """A gateway that logs, with a small size limit, whose clients are named by a header."""
    return start_shared(log_dir=log_dir, ops_port=0, max_body_bytes=300_000, head_s=1.0, request_s=1.0, idle_s=3.0)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "acme-ca")
