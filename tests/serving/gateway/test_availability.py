"""Processes that die or hang, servers that are down, full disks, and the end. Every answer is logged or counted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import requests
import yaml

from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.serving.gateway.launcher import Gateway
from dynamarks_tf.serving.gateway.settings import Settings
from tests.helpers.fake_model import PREDICT, TARGET, FakeModel, fake_model, reversed_
from tests.helpers.gateway_log import logged, read_log
from tests.helpers.waiting import eventually
from tests.serving.gateway.conftest import Start

BODY = {"instances": [[1.0, 2.0]]}


def post(url: str, body: object = BODY) -> requests.Response:
    return requests.post(url + TARGET, json=body, timeout=30)


def call(address: str, request: bytes = b"abc", count: int = 1) -> grpc.StatusCode:
    """Calls several times; returns the code of the first call that fails."""
    with grpc.insecure_channel(address) as channel:
        try:
            for _ in range(count):
                assert channel.unary_unary(PREDICT)(request, timeout=30) == reversed_(request)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_a_server_that_is_down_is_reported_and_found_again(start: Start) -> None:
    with fake_model() as first:
        gateway = start(upstream=first.grpc, upstream_rest=first.rest, ops_port=0)

        def state() -> tuple[int, grpc.StatusCode, int]:
            ready = requests.get(gateway.ops_url + "/readyz", timeout=30).status_code
            return post(gateway.rest_url).status_code, call(gateway.grpc_address), ready

        eventually(lambda: state() == (200, grpc.StatusCode.OK, 200))
    eventually(lambda: state() == (503, grpc.StatusCode.UNAVAILABLE, 503))
    assert "error" in post(gateway.rest_url).json()
    assert requests.get(gateway.ops_url + "/healthz", timeout=30).status_code == 200
    with fake_model(*(int(address.rpartition(":")[2]) for address in (first.grpc, first.rest))):
        eventually(lambda: state() == (200, grpc.StatusCode.OK, 200))


def test_a_server_that_never_answers_causes_a_timeout(start: Start, model: FakeModel) -> None:
    gateway = start(answer_s=0.5)
    model.wait.clear()
    answer = post(gateway.rest_url)
    assert (answer.status_code, list(answer.json())) == (504, ["error"])


def test_a_killed_collector_fails_no_answer_and_its_losses_are_counted(start: Start, tmp_path: Path) -> None:
    gateway = start(log_dir=tmp_path)
    assert call(gateway.grpc_address, count=40) is grpc.StatusCode.OK
    logged(tmp_path, 10)
    os.kill(gateway.process_id("collector"), signal.SIGKILL)
    assert call(gateway.grpc_address, count=40) is grpc.StatusCode.OK
    before = len(read_log(tmp_path))

    def ask() -> bool:
        assert post(gateway.rest_url).status_code == 200
        answered.append(1)
        return len(read_log(tmp_path)) > before

    answered: list[int] = []
    eventually(ask)
    eventually(lambda: gateway.written + gateway.dropped >= 80 + len(answered))
    written = len(read_log(tmp_path))
    assert (gateway.written, gateway.dropped) == (written, 80 + len(answered) - written)
    assert gateway.dropped > 0


def test_a_hung_collector_fails_no_answer_and_what_exceeds_the_buffers_is_counted(start: Start, tmp_path: Path) -> None:
    gateway = start(log_dir=tmp_path, max_body_bytes=2**22)
    large = bytes(2**21)
    os.kill(gateway.process_id("collector"), signal.SIGSTOP)
    assert call(gateway.grpc_address, large, count=20) is grpc.StatusCode.OK  # 107 MB of copies
    os.kill(gateway.process_id("collector"), signal.SIGCONT)
    eventually(lambda: gateway.written + gateway.dropped == 20)
    assert gateway.dropped > 0
    assert len(read_log(tmp_path)) == gateway.written > 0


def test_a_killed_envoy_is_started_again_and_the_counts_go_on(start: Start, tmp_path: Path) -> None:
    gateway = start(log_dir=tmp_path)
    assert call(gateway.grpc_address, count=20) is grpc.StatusCode.OK
    logged(tmp_path, 20)
    os.kill(gateway.process_id("Envoy"), signal.SIGKILL)
    eventually(lambda: call(gateway.grpc_address) is grpc.StatusCode.OK)
    assert call(gateway.grpc_address, count=9) is grpc.StatusCode.OK
    assert len(logged(tmp_path, 30)) == 30
    assert (gateway.written, gateway.dropped) == (30, 0)


def test_a_stop_lets_answers_end_and_completes_the_log(start: Start, model: FakeModel, tmp_path: Path) -> None:
    gateway = start(log_dir=tmp_path)
    model.wait.clear()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(post, gateway.rest_url), pool.submit(call, gateway.grpc_address)]
        eventually(lambda: model.posts and model.calls)
        threading.Timer(1, model.wait.set).start()
        gateway.stop(grace_s=20)
        assert answers[0].result().status_code == 200
        assert answers[1].result() is grpc.StatusCode.OK
    with pytest.raises(requests.ConnectionError):
        post(gateway.rest_url)
    gateway.stop()  # a second call is no error
    assert (gateway.written, gateway.dropped, len(read_log(tmp_path))) == (2, 0, 2)


def test_metrics_hold_no_client_names(gateway: Gateway, log_dir: Path) -> None:
    answer = requests.post(gateway.rest_url + TARGET, json=BODY, headers={"x-client-id": "alice"}, timeout=30)
    assert answer.status_code == 200
    logged(log_dir, client="alice")
    text = requests.get(f"{gateway.ops_url}/metrics", timeout=30).text
    for line in (
        "dynamarks_proxy_log_written_total [1-9]",
        r"dynamarks_proxy_log_dropped_total \d",
        'envoy_http_downstream_rq_xx{.*"clients".*} [1-9]',
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line
    assert "alice" not in text


def test_only_its_own_account_reaches_the_sockets(gateway: Gateway) -> None:
    sockets = [path for path in gateway.settings.folder.iterdir() if path.is_socket()]
    assert len(sockets) == 3
    assert {path.stat().st_mode & 0o777 for path in sockets} == {0o600}


def test_what_cannot_start_is_explained(gateway: Gateway, tmp_path: Path, start: Start) -> None:
    port = gateway.settings.grpc_port
    with pytest.raises(ServingError, match=f"gRPC port {port} on 127.0.0.1 cannot be opened"):
        start(grpc_port=port)
    with pytest.raises(ServingError, match="is running already"):
        gateway.start()
    with pytest.raises(ServingError, match="none is no program that can be run"):
        start(envoy=tmp_path / "none")
    with pytest.raises(ServingError, match="Envoy did not start"):
        start(envoy=Path("/bin/false"))
    (tmp_path / "file").touch()
    with pytest.raises(ServingError, match="collector did not start"):
        start(log_dir=tmp_path / "file" / "logs")


def test_the_command_names_missing_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, problem in (
        ([], "Give the server's gRPC address, its REST address, or both"),
        (["--upstream", "http://localhost:8501"], "is no address; accepted: HOST:PORT"),
        (["--upstream", "a:1", "--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (["--upstream", "a:1", "--client-ca", "x"], "--client-ca needs --tls-cert and --tls-key"),
        (["--upstream", "a:1", "--burst", "2"], "--burst needs --rate"),
        (["--upstream", "a:1", "--rate", "0"], "`rate` must be above 0"),
        (["--upstream", "a:1", "--print-config"], "--print-config needs --folder"),
        (["--upstream", "a:1", "--clients", str(tmp_path)], "has no jwks.json"),
        (["--upstream", "a:1", "--client-header", "Authorization"], "carries secrets"),
        (["--upstream", "a:1", "--folder", str(tmp_path / ("x" * 100))], "is too long"),
    ):
        assert main(["proxy", *words]) == 2
        assert re.search(problem, capsys.readouterr().err), words


class Command:
    """`dynamarks proxy`, in a process of its own."""

    def __init__(self, model: FakeModel, *words: str, limit: str = "unlimited") -> None:
        command = [sys.executable, "-u", "-m", "dynamarks_tf", "proxy", f"--upstream={model.grpc}", *words]
        command += [f"--upstream-rest={model.rest}", "--rest-port=0", "--threads=1"]
        shell = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *command]
        self.process = subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        lines = dict(line.split(maxsplit=1) for line in iter(self.process.stdout.readline, "stop with Ctrl-C\n"))
        self.grpc, self.rest = lines["gRPC"].split()[0], lines["REST"].split()[0]

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.usefixtures("start")
def test_the_command_serves_until_it_is_terminated_also_when_the_disk_is_full(model: FakeModel, tmp_path: Path) -> None:
    """The disk is full for files above 60 KB: for requests of 60,000 bytes."""
    command = Command(model, "--grpc-port=0", f"--log-dir={tmp_path}", limit="60")
    for size in (5, 60_000, 5, 60_000):
        assert call(command.grpc, bytes(size)) is grpc.StatusCode.OK
    logged(tmp_path, 2)
    code, out, err = command.stop()
    assert code == 0
    assert out.endswith("stopping\nlogged 2 predictions, dropped 2\n")
    assert "requests dropped so far, the last one because writing failed: File too large" in err
    assert [len(copy.request) for copy in read_log(tmp_path)] == [5, 5]


@pytest.mark.usefixtures("start")
def test_a_killed_command_ends_its_processes_and_the_next_one_goes_on_with_the_log(
    model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one also removes the sockets that the first left behind, once the first one's Envoy has ended."""
    temporary = Path(tempfile.mkdtemp())
    monkeypatch.setenv("TMPDIR", str(temporary))

    def left() -> list[Path]:
        return [path for path in temporary.iterdir() if path.name.startswith("dynamarks-")]

    first = Command(model, "--grpc-port=0", f"--log-dir={tmp_path}")
    assert call(first.grpc, count=15) is grpc.StatusCode.OK
    first.process.kill()
    first.process.communicate()
    assert len(left()) == 1
    eventually(lambda: call(first.grpc, b"later") is grpc.StatusCode.UNAVAILABLE)
    second = Command(model, f"--grpc-port={first.grpc.rpartition(':')[2]}", f"--log-dir={tmp_path}")
    assert call(second.grpc, b"after", count=10) is grpc.StatusCode.OK
    assert "logged 10 predictions, dropped 0" in second.stop()[1]
    assert left() == []
    temporary.rmdir()
    copies = [copy.request for copy in read_log(tmp_path) if copy.request != b"later"]
    assert copies == [b"abc"] * 15 + [b"after"] * 10


def test_a_folder_that_others_can_change_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ArgumentError, match="a folder of its own.*can be changed by others"):
        Gateway(Settings(folder=folder, upstream="127.0.0.1:9", grpc_port=0)).start()
    assert list(folder.iterdir()) == []


def test_the_configuration_for_an_envoy_of_ones_own(
    model: FakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--upstream", "a:1", "--upstream-rest", "a:2", "--folder", str(tmp_path / "run"), "--log-dir", "logs"]
    assert main(["proxy", *words, "--print-config"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "run" / "envoy.yaml"
    clusters = {cluster["name"] for cluster in yaml.safe_load(path.read_text())["static_resources"]["clusters"]}
    assert clusters == {"model", "model-rest", "collector", "metrics"}
    assert Settings(folder=tmp_path, upstream="a:1", grpc_port=5).ports == [5]
