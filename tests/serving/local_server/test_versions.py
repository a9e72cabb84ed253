"""Several models, versions and labels, and their changes while clients send requests."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_management_pb2

from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.serving.local_server.repository import Repository
from tests.helpers.server_clients import (
    ask,
    ask_grpc,
    factor_request,
    model_stub,
    over_rest,
    requests_under_way,
    states,
    stub,
    url,
    with_spec,
)
from tests.helpers.tiny_models import save_factor
from tests.helpers.waiting import count_calls, eventually

Add = Callable[..., Path]

POLL_S = 0.05


def serve(folder: Path, **options: Any) -> LocalServer:
    return LocalServer(folder, grpc_port=0, rest_port=0, file_system_poll_wait_seconds=POLL_S, **options)


def config(tmp_path: Path, *models: str) -> str:
    """Writes a model list; in each text, PATH stands for the folder of all models."""
    entries = (f'config {{ {model} model_platform: "tensorflow" }}' for model in models)
    return f"model_config_list {{ {' '.join(entries)} }}".replace("PATH", str(tmp_path))


def serve_config(tmp_path: Path, *models: str, **options: Any) -> LocalServer:
    file = tmp_path / "models.config"
    file.write_text(config(tmp_path, *models))
    return LocalServer(
        model_config_file=file, grpc_port=0, rest_port=0, file_system_poll_wait_seconds=POLL_S, **options
    )


CLF = 'name: "clf" base_path: "PATH/clf"'
TWO = CLF + " model_version_policy { latest { num_versions: 2 } }"
LABELS = ' version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'


# Versions and labels in requests


@pytest.fixture
def two_versions(add_version: Add, tmp_path: Path) -> Any:
    for version in (1, 2):
        add_version(version)
    with serve_config(tmp_path, TWO + LABELS) as server:
        yield server


def test_urls_choose_versions_and_labels(two_versions: LocalServer) -> None:
    assert two_versions.version == 2
    assert ask(two_versions) == 2
    assert ask(two_versions, "/versions/1") == 1
    assert ask(two_versions, "/versions/2") == 2
    assert ask(two_versions, "/labels/stable") == 1
    assert ask(two_versions, "/labels/canary") == 2
    assert ask(two_versions, "/labels/c%61nary") == 2
    assert ask(two_versions, "/versions/3") == (404, "Servable not found for request: Specific(clf, 3)")
    assert ask(two_versions, "/labels/x") == (400, "Unrecognized servable version label: x")
    assert ask(two_versions, "/labels/stable", model="other") == (400, "Unrecognized servable version label: stable")


def test_model_specs_choose_versions_and_labels(two_versions: LocalServer) -> None:
    """The answer names the version that was used, even if the request names a label or none."""
    assert ask_grpc(two_versions) == (2, 2)
    assert ask_grpc(two_versions, version=1) == (1, 1)
    assert ask_grpc(two_versions, version_label="stable") == (1, 1)
    assert ask_grpc(two_versions, version_label="canary") == (2, 2)


def test_metadata_and_status_of_versions_and_labels(two_versions: LocalServer) -> None:
    for suffix, version in (("", "2"), ("/versions/1", "1"), ("/labels/stable", "1"), ("/labels/canary", "2")):
        metadata = requests.get(url(two_versions, suffix + "/metadata"), timeout=30).json()
        assert metadata["model_spec"]["version"] == version
    assert states(two_versions) == {2: "AVAILABLE", 1: "AVAILABLE"}
    assert list(states(two_versions)) == [2, 1]
    for suffix in ("/labels/stable", "/labels/unknown"):  # a label is ignored here
        assert len(requests.get(url(two_versions, suffix), timeout=30).json()["model_version_status"]) == 2
    one = requests.get(url(two_versions, "/versions/1"), timeout=30).json()["model_version_status"]
    assert [status["version"] for status in one] == ["1"]
    with stub(two_versions) as service:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        with_spec(request, name="clf", version_label="stable")
        assert service.GetModelMetadata(request, timeout=30).model_spec.version.value == 1


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {4}),
        ("model_version_policy { latest { } }", {4}),
        ("model_version_policy { latest { num_versions: 3 } }", {2, 3, 4}),
        ("model_version_policy { all { } }", {1, 2, 3, 4}),
        ("model_version_policy { specific { versions: 1 versions: 3 versions: 99 } }", {1, 3}),
    ],
)
def test_version_policies(add_version: Add, tmp_path: Path, policy: str, served: set[int]) -> None:
    for version in (1, 2, 3, 4):
        add_version(version)
    with serve_config(tmp_path, f"{CLF} {policy}") as server:
        assert set(states(server)) == served
        assert server.version == max(served)
        assert ask(server) == max(served)


def test_several_models(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    add_version(3, model="other")
    with serve_config(tmp_path, CLF, 'name: "second/x" base_path: "PATH/other"') as server:
        assert server.name == "clf"
        assert (ask(server), ask(server, model="second%2Fx")) == (1, 3)
        assert ask_grpc(server, "second/x") == (3, 3)
        assert ask(server, model="other")[0] == 404


# New versions


def test_a_new_version_is_picked_up_and_the_old_one_unloaded(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    with serve(tmp_path / "clf") as server:
        add_version(2)
        eventually(lambda: ask(server) == 2)
        eventually(lambda: states(server) == {2: "AVAILABLE", 1: "END"})
        assert server.version == 2
        assert ask(server, "/versions/1") == (404, "Servable not found for request: Specific(clf, 1)")
        shutil.rmtree(tmp_path / "clf" / "2")  # rolled back
        eventually(lambda: ask(server) == 1)
        eventually(lambda: states(server) == {2: "END", 1: "AVAILABLE"})


def test_without_polling_only_the_start_counts(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    pollers = lambda: [thread for thread in threading.enumerate() if thread.name == "version-poller"]  # noqa: E731
    before = pollers()
    with LocalServer(tmp_path / "clf", grpc_port=None, rest_port=0, file_system_poll_wait_seconds=0) as server:
        add_version(2)
        assert pollers() == before
        assert ask(server) == 1


def test_no_request_is_dropped_while_versions_change(add_version: Add, tmp_path: Path) -> None:
    """Every answer is correct for a version that existed, none is from an older version than the one before."""
    add_version(1)
    done = threading.Event()

    def ask_on(server: LocalServer, over_grpc: bool, answers: list[float]) -> None:
        with requests.Session() as session, stub(server) as service:
            while not done.is_set():
                if over_grpc:
                    response = service.Predict(factor_request(), timeout=30)
                    assert response.outputs["y"].float_val[0] == response.model_spec.version.value
                    answers.append(response.outputs["y"].float_val[0])
                else:
                    response = session.post(url(server, ":predict"), json={"instances": [1.0]}, timeout=30)
                    assert response.status_code == 200, response.text
                    answers.append(response.json()["predictions"][0])

    answers: list[list[float]] = [[] for _ in range(4)]
    with serve(tmp_path / "clf") as server, ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask_on, server, bool(index % 2), answers[index]) for index in range(4)]
        try:
            eventually(lambda: all(answers))
            for version in (2, 3, 4):
                add_version(version)
                eventually(lambda version=version: states(server).get(version) == "AVAILABLE")
            eventually(lambda: states(server) == {4: "AVAILABLE", 3: "END", 2: "END", 1: "END"})
            assert ask(server) == 4
        finally:
            done.set()
        for client, numbers in zip(clients, answers, strict=True):
            client.result()
            assert numbers == sorted(numbers)
            assert numbers[0] == 1


def test_a_version_is_kept_until_its_last_request_is_answered(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    with serve(tmp_path / "clf") as server, ThreadPoolExecutor(1) as pool:
        body = {"signature_name": "count", "inputs": 300_000}
        slow = pool.submit(over_rest, server, body, timeout=60)
        eventually(lambda: requests_under_way(server))
        add_version(2)
        eventually(lambda: states(server).get(2) == "AVAILABLE")
        eventually(lambda: states(server)[1] != "AVAILABLE")
        seen = states(server)[1]
        assert slow.result().json() == {"outputs": 300_000}
        assert seen == "UNLOADING"
        eventually(lambda: states(server)[1] == "END")


def test_the_status_shows_a_version_that_is_being_loaded(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    save_factor(tmp_path / "slow.tmp", 2, load_steps=300_000)
    with serve(tmp_path / "clf") as server:
        (tmp_path / "slow.tmp").rename(tmp_path / "clf" / "2")
        eventually(lambda: states(server).get(2) == "LOADING")
        assert ask(server) == 1
        assert ask(server, "/versions/2") == (404, "Servable not found for request: Specific(clf, 2)")
        eventually(lambda: states(server) == {2: "AVAILABLE", 1: "END"})


def test_a_corrupt_version_is_refused_and_the_old_one_keeps_serving(
    add_version: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = count_calls(monkeypatch, Repository, "refresh")
    add_version(1)
    with serve(tmp_path / "clf") as server:
        bad = tmp_path / "bad.tmp"
        bad.mkdir()
        (bad / "saved_model.pb").write_bytes(b"\xff" * 100)
        bad.rename(tmp_path / "clf" / "2")
        eventually(lambda: states(server) == {2: "END", 1: "AVAILABLE"})
        (failed, old) = requests.get(url(server), timeout=30).json()["model_version_status"]
        assert failed["status"]["error_code"] not in ("OK", "")
        assert "clf/2 cannot be loaded as a SavedModel" in failed["status"]["error_message"]
        assert old["status"] == {"error_code": "OK", "error_message": ""}
        assert (ask(server), server.version) == (1, 1)
        with model_stub(server) as service:
            request = with_spec(get_model_status_pb2.GetModelStatusRequest(), name="clf", version=2)
            (status,) = service.GetModelStatus(request, timeout=30).model_version_status
            assert status.status.error_code != 0
        add_version(3)  # a good one is served anyway
        eventually(lambda: ask(server) == 3)
        shutil.rmtree(tmp_path / "clf" / "3")  # only the bad one is wanted now, so version 3 keeps answering
        seen = len(looks)
        eventually(lambda: len(looks) >= seen + 3)
        assert ask(server) == 3
        shutil.rmtree(tmp_path / "clf" / "2")
        eventually(lambda: ask(server) == 1)
        add_version(2)  # after it has gone and come back, it is tried again
        eventually(lambda: ask(server) == 2)
    assert caplog.text.count("clf/2 cannot be loaded") == 1


def test_all_versions_removed(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    with serve(tmp_path / "clf") as server:
        shutil.rmtree(tmp_path / "clf" / "1")
        eventually(lambda: ask(server) == (404, "Servable not found for request: Latest(clf)"))
        assert states(server) == {1: "END"}
        with pytest.raises(ServingError, match="No version of clf is served now"):
            _ = server.version
        add_version(2)
        eventually(lambda: ask(server) == 2)


def test_a_folder_that_vanishes_changes_nothing(
    add_version: Add, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_version(1)
    with serve(tmp_path / "clf") as server:
        (tmp_path / "clf").rename(tmp_path / "elsewhere")
        eventually(lambda: "cannot be searched for versions" in caplog.text)
        assert ask(server) == 1
        (tmp_path / "elsewhere").rename(tmp_path / "clf")
        add_version(2)
        eventually(lambda: ask(server) == 2)


# A new configuration


def reload_request(tmp_path: Path, *models: str) -> model_management_pb2.ReloadConfigRequest:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(config(tmp_path, *models), request.config)
    return request


def test_clients_change_the_served_models_if_that_is_allowed(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    add_version(2)
    add_version(3, model="other")
    with serve_config(tmp_path, CLF, allow_config_reload=True) as server, model_stub(server) as service:
        change = lambda *models: service.HandleReloadConfigRequest(reload_request(tmp_path, *models), timeout=30)  # noqa: E731
        other = 'name: "other" base_path: "PATH/other"'
        response = change(TWO, other)
        assert (response.HasField("status"), response.status.error_code) == (True, 0)
        assert (ask(server), ask(server, "/versions/1"), ask(server, model="other")) == (2, 1, 3)
        change(TWO + LABELS, other)
        assert ask(server, "/labels/stable") == 1
        with pytest.raises(grpc.RpcError, match="assign label to version 9 of model clf, which is not currently"):
            change(TWO + LABELS.replace("1", "9"), other)  # one in use moves to a version that is loaded
        assert ask(server, "/labels/stable") == 1
        change(TWO + LABELS.replace("1", "2"))
        assert ask(server, "/labels/stable") == 2
        assert ask(server, model="other")[0] == 404
        assert states(server, model="other") == {3: "END"}
        change(TWO, other)
        assert ask(server, model="other") == 3
        change(TWO)
        with pytest.raises(grpc.RpcError, match="did not become available"):  # it counts as a new model again
            change(TWO, other.replace("PATH/other", "PATH/none"))


@pytest.mark.parametrize(
    ("models", "code", "message"),
    [
        ([CLF, CLF], "INVALID_ARGUMENT", "Illegal to list model clf multiple times in config list"),
        ([CLF.replace("PATH/", "")], "INVALID_ARGUMENT", "Expected model clf to have an absolute path or URI; got"),
        (
            [CLF, 'name: "new" base_path: "PATH/none"'],
            "UNKNOWN",
            "1 servable(s) did not become available: {{{name: new",
        ),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(
    add_version: Add, tmp_path: Path, models: list[str], code: str, message: str
) -> None:
    add_version(1)
    with serve_config(tmp_path, CLF, allow_config_reload=True) as server, model_stub(server) as service:
        with pytest.raises(grpc.RpcError) as caught:
            service.HandleReloadConfigRequest(reload_request(tmp_path, *models), timeout=30)
        assert caught.value.code().name == code
        assert message in caught.value.details()
        assert ask(server) == 1
        with pytest.raises(grpc.RpcError, match="Only ModelConfigList is currently supported"):
            service.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=30)


def test_clients_cannot_change_the_served_models_by_default(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    with (
        serve_config(tmp_path, CLF) as server,
        model_stub(server) as service,
        pytest.raises(grpc.RpcError) as caught,
    ):
        service.HandleReloadConfigRequest(reload_request(tmp_path), timeout=30)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "Start the server with --allow-config-reload" in caught.value.details()


def test_the_configuration_file_is_read_again(
    add_version: Add, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_version(1)
    add_version(2)
    with serve_config(tmp_path, CLF, model_config_file_poll_wait_seconds=POLL_S) as server:
        assert set(states(server)) == {2}
        file = tmp_path / "models.config"
        file.write_text(config(tmp_path, TWO))
        eventually(lambda: states(server) == {2: "AVAILABLE", 1: "AVAILABLE"})
        file.write_text(config(tmp_path, TWO + LABELS))
        eventually(lambda: ask(server, "/labels/stable") == 1)
        file.write_text("nonsense")
        eventually(lambda: "Invalid protobuf file" in caplog.text)
        assert ask(server, "/labels/stable") == 1


# Configurations that cannot be started


def test_a_label_for_a_version_that_is_not_loaded(add_version: Add, tmp_path: Path) -> None:
    add_version(2)
    with pytest.raises(ServingError, match='label "stable" of clf names version 1, which is not loaded. Loaded: .2.'):
        serve_config(tmp_path, CLF + LABELS).start()


def test_a_policy_that_chooses_nothing(add_version: Add, tmp_path: Path) -> None:
    add_version(2)
    with pytest.raises(ServingError, match=r"holds the versions \[2\], and the version policy of clf chooses none"):
        serve_config(tmp_path, CLF + " model_version_policy { specific { versions: 1 } }").start()


def test_one_of_two_models_cannot_be_loaded(add_version: Add, tmp_path: Path) -> None:
    add_version(1)
    (tmp_path / "bad" / "1").mkdir(parents=True)
    server = serve_config(tmp_path, CLF, 'name: "bad" base_path: "PATH/bad"')
    with pytest.raises(ServingError, match="bad/1 cannot be loaded"):
        server.start()


def test_contradicting_arguments(tmp_path: Path) -> None:
    for arguments in ({}, {"base_path": tmp_path, "model_config_file": "x"}, {"name": "x", "model_config_file": "x"}):
        with pytest.raises(ArgumentError, match="Give either a model's folder, with or without a name, or"):
            LocalServer(**arguments)
    with pytest.raises(ArgumentError, match="must not be negative"):
        LocalServer(tmp_path, file_system_poll_wait_seconds=-1)
