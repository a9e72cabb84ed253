"""The proxy with broken or slow servers and clients, with large requests, and at its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.serving.gateway import Proxy, rest_front
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.logs import read_predictions
from tests.helpers.server_clients import grpc_status, over_rest, predict_request, requests_under_way
from tests.helpers.waiting import eventually

UNREACHABLE = "The server behind this proxy cannot be reached"


def test_a_server_that_is_down_is_reported_and_found_again(model_folder: Path) -> None:
    request = predict_request("m", image=np.ones((1, 4), np.float32))
    server = LocalServer(model_folder, grpc_port=0, rest_port=0)
    server.start()
    rest = f"127.0.0.1:{server.rest_port}"
    with Proxy(server.grpc_address, rest, grpc_port=0, rest_port=0, ops_port=0) as proxy:
        ready = lambda: requests.get(proxy.ops_url + "/readyz", timeout=30).status_code  # noqa: E731
        assert (over_rest(proxy).status_code, grpc_status(proxy, request)[0], ready()) == (200, grpc.StatusCode.OK, 200)
        server.stop()
        answer = over_rest(proxy)
        assert (answer.status_code, answer.json()) == (503, {"error": UNREACHABLE})
        eventually(lambda: grpc_status(proxy, request) == (grpc.StatusCode.UNAVAILABLE, UNREACHABLE))
        assert ready() == 503
        assert requests.get(proxy.ops_url + "/healthz", timeout=30).status_code == 200
        server.start()  # on the ports it had
        assert over_rest(proxy).status_code == 200
        eventually(lambda: grpc_status(proxy, request)[0] is grpc.StatusCode.OK)
        assert ready() == 200
        server.stop()


def test_connections_that_stall_do_not_delay_others(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_front, "BODY_TIMEOUT_S", 1.0)
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    stalled = [socket.create_connection(("127.0.0.1", proxy.rest_port), timeout=20) for _ in range(60)]
    half_open = [socket.create_connection(("127.0.0.1", proxy.grpc_port), timeout=20) for _ in range(20)]
    try:
        for index, client in enumerate(stalled):
            client.sendall(head if index % 2 else head[:20])
        for client in half_open:
            client.sendall(b"PRI * HTTP/2.0\r\n")
        assert over_rest(proxy).status_code == 200
        assert grpc_status(proxy, predict_request("m", image=np.ones((1, 4), np.float32)))[0] is grpc.StatusCode.OK
        assert stalled[1].recv(100).startswith(b"HTTP/1.1 504 ")  # an incomplete request is refused
    finally:
        for client in stalled + half_open:
            client.close()
    assert over_rest(proxy).status_code == 200


def test_64_clients_at_once_get_their_own_answers(proxy: Proxy) -> None:
    def one(index: int) -> tuple[int, list[float]]:
        rows = [[float(index), 0, 0, 0], [0, float(index), 0, 0]]
        return index, over_rest(proxy, {"instances": rows}).json()["predictions"]

    with ThreadPoolExecutor(64) as pool:
        answers = dict(pool.map(one, range(64)))
    weights = np.sin(np.arange(12, dtype=np.float32)).reshape(4, 3)
    for index, answer in answers.items():
        logits = index * weights[:2]
        expected = np.exp(logits - logits.max(-1, keepdims=True))
        np.testing.assert_allclose(answer, expected / expected.sum(-1, keepdims=True), rtol=1e-3, atol=1e-6)


@pytest.fixture
def silent() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server over REST that reads a request and never answers. It notes the end of the connection."""
    seen: dict[str, Any] = {"asked": threading.Event(), "ended": threading.Event()}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            seen["asked"].set()
            while self.rfile.readline():
                pass
            seen["ended"].set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()


def test_the_request_of_a_rest_client_that_disconnects_is_canceled(silent: tuple[str, dict[str, Any]]) -> None:
    address, seen = silent
    with Proxy(None, address, rest_port=0) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.rest_port), timeout=20) as client:
            client.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n")
            assert seen["asked"].wait(10)
            assert not seen["ended"].is_set()
        assert seen["ended"].wait(10)


def test_a_server_that_never_answers_causes_a_timeout(silent: tuple[str, dict[str, Any]]) -> None:
    with Proxy(None, silent[0], rest_port=0, rest_timeout_s=0.5) as proxy:
        answer = over_rest(proxy)
    assert (answer.status_code, answer.json()) == (
        504,
        {"error": "The server behind this proxy did not answer in time"},
    )


def test_requests_that_are_too_large_are_refused(make_proxy: Callable[..., Proxy]) -> None:
    with make_proxy(max_body_bytes=2000) as proxy:
        assert over_rest(proxy).status_code == 200
        large = json.dumps({"instances": [[0.5, 0.5, 0.5, 0.5]] * 200}).encode()
        url = f"{proxy.rest_url}/v1/models/m:predict"
        for body in (large, iter([large])):  # with a length, and in chunks
            try:
                answer = requests.post(url, data=body, timeout=30)
            except requests.ConnectionError:  # refused before the body was complete
                continue
            assert answer.status_code == 413
            assert "larger than 2000 bytes" in answer.json()["error"]
        code, _ = grpc_status(proxy, predict_request("m", image=np.ones((1000, 4), np.float32)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert over_rest(proxy).status_code == 200


def test_a_stop_lets_answers_end_and_writes_the_log(
    upstream: LocalServer, make_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    proxy = make_proxy(request_log=tmp_path)
    proxy.start()
    slow = predict_request("m", "count", steps=np.int64(100_000))
    with ThreadPoolExecutor(2) as pool:
        body = {"signature_name": "count", "inputs": 100_000}
        answers = [pool.submit(over_rest, proxy, body), pool.submit(grpc_status, proxy, slow)]
        eventually(lambda: requests_under_way(upstream) == 2)
        proxy.stop(grace_s=20)
        assert answers[0].result().json() == {"outputs": 100_000}
        assert answers[1].result()[0] is grpc.StatusCode.OK
    assert (proxy.request_log.written, proxy.request_log.dropped) == (2, 0)
    with pytest.raises(requests.ConnectionError):
        over_rest(proxy)
    proxy.stop()  # a second call is no error
    assert len(read_predictions(tmp_path)) == 2


def test_metrics_count_by_code_and_hold_no_client_names(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    with make_proxy(ops_port=0, request_log=tmp_path) as proxy:
        assert over_rest(proxy).status_code == 200
        assert over_rest(proxy, {}).status_code == 400
        grpc_status(proxy, predict_request("m", "nonsense"))
        eventually(lambda: proxy.request_log.written == 1)
        text = requests.get(proxy.ops_url + "/metrics", timeout=30, headers={"x-client-id": "alice"}).text
    for line in (
        'dynamarks_proxy_requests_total{code="200",interface="rest"} 1.0',
        'dynamarks_proxy_requests_total{code="400",interface="rest"} 1.0',
        'dynamarks_proxy_requests_total{code="FAILED_PRECONDITION",interface="grpc"} 1.0',
        'dynamarks_proxy_request_seconds_count{interface="rest"} 2.0',
        "dynamarks_proxy_log_written_total 1.0",
        "dynamarks_proxy_log_dropped_total 0.0",
    ):
        assert line in text.splitlines()
    assert "alice" not in text


def test_a_port_in_use_is_named(proxy: Proxy, upstream: LocalServer) -> None:
    with pytest.raises(ServingError, match=f"gRPC port {proxy.grpc_port} on 127.0.0.1 cannot be opened"):
        Proxy(upstream.grpc_address, grpc_port=proxy.grpc_port).start()
    with pytest.raises(ServingError, match="is running already"):
        proxy.start()


@pytest.mark.parametrize("address", ["localhost", ":8500", "http://localhost:8501", "localhost:0", "a:b"])
def test_invalid_addresses_are_refused(address: str) -> None:
    with pytest.raises(ArgumentError, match="is no address; accepted: HOST:PORT"):
        Proxy(address)


def test_the_command_names_missing_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, problem in (
        ([], "Give the server's gRPC address, its REST address, or both"),
        (["--upstream", "a:1", "--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (["--upstream", "a:1", "--client-ca", "x"], "--client-ca needs --tls-cert and --tls-key"),
        (["--upstream", "a:1", "--burst", "2"], "--burst needs --rate"),
        (["--upstream", "a:1", "--api-keys", str(tmp_path / "none")], "The key file .* cannot be read"),
    ):
        assert main(["proxy", *words]) == 2
        assert re.search(problem, capsys.readouterr().err)


def test_the_command_serves_until_it_is_terminated_also_when_the_disk_is_full(
    upstream: LocalServer, tmp_path: Path
) -> None:
    """The disk is full for files above 20 KB: for requests of 2,000 rows, which are 32,000 bytes."""
    words = [sys.executable, "-m", "dynamarks_tf", "proxy", "--upstream-rest", f"127.0.0.1:{upstream.rest_port}"]
    words += ["--rest-port", "0", "--log-dir", str(tmp_path / "logs")]
    words = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *words]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(60, process.kill)
        killer.start()
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        for rows in (5, 2000, 5, 2000):
            body = {"instances": [[1.0, 2.0, 3.0, 4.0]] * rows}
            answer = requests.post(f"{url}/v1/models/m:predict", json=body, timeout=30)
            assert (answer.status_code, len(answer.json()["predictions"])) == (200, rows)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        killer.cancel()
    assert process.returncode == 0
    assert out.endswith("stopping\nlogged 2 predictions, dropped 2\n")
    assert "2 requests dropped so far, the last one because writing failed: File too large" in err
    assert [len(logged.inputs["image"]) for logged in read_predictions(tmp_path / "logs")] == [5, 5]


def test_requests_that_are_too_large_together_are_refused(make_proxy: Callable[..., Proxy]) -> None:
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n"
    rows = predict_request("m", image=np.ones((20, 4), np.float32))
    with make_proxy(max_body_bytes=2000) as proxy:
        unfinished = [socket.create_connection(("127.0.0.1", proxy.rest_port), timeout=20) for _ in range(4)]
        for client in unfinished:
            client.sendall(head + b" " * 1999)
        eventually(lambda: over_rest(proxy).status_code == 503)
        assert grpc_status(proxy, rows)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert requests.get(f"{proxy.rest_url}/v1/models/m", timeout=30).status_code == 200
        for client in unfinished:
            client.close()
        eventually(lambda: over_rest(proxy).status_code == 200)
        assert grpc_status(proxy, rows)[0] is grpc.StatusCode.OK
