"""Which failures of a server are retried, and how often. Real servers that fail on purpose."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc
from werkzeug.wrappers import Request, Response

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects import as_suspect, retries
from tests.helpers.grpc_services import Service, grpc_server
from tests.helpers.grpc_services import respond as respond_by_grpc
from tests.helpers.model_server import ModelServer, respond, serving
from tests.helpers.suspects import answers_of

Array = np.ndarray[Any, Any]

PATHS = {"REST": "/v1/models/clf", "Open Inference": "/v2/models/clf"}
ONE = np.ones((1, 8, 8, 1), np.float32)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return PATHS[request.param]


class Failing:
    """Fails the first `times` requests with a status."""

    def __init__(self, times: int, status: int = 503, **headers: str) -> None:
        self.times, self.status, self.headers = times, status, headers
        self.questions = 0

    def __call__(self, request: Request) -> Response | None:
        if request.method == "GET":
            return None
        self.questions += 1
        return respond({"error": "not now"}, self.status, **self.headers) if self.questions <= self.times else None


@contextlib.contextmanager
def model(failing: Any) -> Iterator[str]:
    application = ModelServer(
        lambda batch: {"probabilities": np.full((len(batch), 3), 0.25)}, {"probabilities": "FP32"}, before=failing
    )
    with serving(application) as url:
        yield url


def ask(url: str) -> Array:
    return answers_of(as_suspect(url, timeout_s=5.0), ONE)


@pytest.mark.parametrize("status", [429, 503])
def test_requests_to_a_busy_server_are_retried(path: str, status: int) -> None:
    failing = Failing(3, status)
    with model(failing) as url:
        assert ask(url + path).shape == (1, 3)
    assert failing.questions == 4


def test_a_server_that_stays_busy_is_given_up(path: str) -> None:
    failing = Failing(100, 429)
    with model(failing) as url, pytest.raises(SuspectError, match="HTTP status 429: not now. The server is busy"):
        ask(url + path)
    assert failing.questions == 1 + retries.RETRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 418, 422, 500, 501, 502, 504])
def test_other_refusals_are_final(path: str, status: int) -> None:
    failing = Failing(1, status, **{"Retry-After": "0"})
    with model(failing) as url, pytest.raises(SuspectError, match="not now"):
        ask(url + path)
    assert failing.questions == 1


@pytest.mark.parametrize(("header", "waited"), [("7", 7), ("86400", retries.LONGEST_WAIT_S), ("soon", None)])
def test_retry_after_is_obeyed_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, header: str, waited: float | None
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    with model(Failing(1, 429, **{"Retry-After": header})) as url:
        ask(url + PATHS["REST"])
    assert waits == ([] if waited is None else [waited])


def test_waits_grow_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for _ in range(5):
        waits: list[float] = []
        monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
        with model(Failing(4)) as url:
            ask(url + PATHS["REST"])
        runs.append(waits)
    smallest = [0.02, 0.04, 0.08]  # before that, urllib3 retries once at once
    for waits in runs:
        assert all(low <= wait <= low + retries.FIRST_WAIT_S for low, wait in zip(smallest, waits, strict=True))
    assert len({tuple(waits) for waits in runs}) > 1


def test_a_lost_connection_is_made_again(path: str) -> None:
    """The server hangs up twice without an answer."""
    with resetting(2, path) as url:
        assert ask(url).shape == (1, 3)


@contextlib.contextmanager
def resetting(times: int, path: str) -> Iterator[str]:
    """Passes connections on to a server, and cuts the first ones that bring a request."""
    with model(None) as upstream, socket.create_server(("127.0.0.1", 0)) as listener:
        target = ("127.0.0.1", int(upstream.rpartition(":")[2]))
        stopped = threading.Event()
        left = [times]

        def pass_on() -> None:
            while not stopped.is_set():
                client, _ = listener.accept()
                with client:
                    data = b""
                    client.settimeout(5)
                    while b"\r\n\r\n" not in data:
                        piece = client.recv(65536)
                        if not piece:
                            break
                        data += piece
                    if not data:
                        continue
                    if data.startswith(b"POST") and left[0]:
                        left[0] -= 1
                        continue
                    answer = forward(target, data, client)
                    client.sendall(answer)

        thread = threading.Thread(target=pass_on)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
        finally:
            stopped.set()
            with contextlib.suppress(OSError), socket.create_connection(listener.getsockname()):
                pass
            thread.join()


def forward(target: tuple[str, int], data: bytes, client: socket.socket) -> bytes:
    """Forwards one request and returns the whole answer; the connection is closed after it."""
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")), 0
    )
    while len(body) < length:
        body += client.recv(65536)
    head = head.replace(b"Connection: keep-alive", b"Connection: close")
    with socket.create_connection(target) as server:
        server.sendall(head + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: server.recv(65536), b""))


def test_a_wrong_address_shows_at_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first contact is not retried, whether it is refused or cut."""
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        with pytest.raises(SuspectError, match="cannot be reached"):
            as_suspect(f"http://127.0.0.1:{port}{path}", timeout_s=5.0)
        thread.join()
    with pytest.raises(SuspectError, match="cannot be reached .*refused"):
        as_suspect(f"http://127.0.0.1:{port}{path}", timeout_s=5.0)
    assert waits == []


def test_a_request_that_timed_out_is_not_retried(path: str) -> None:
    done, questions = threading.Event(), []

    def slow(request: Request) -> Response | None:
        if request.method == "POST":
            questions.append(1)
            done.wait(5)
        return None

    with model(slow) as url:
        suspect = as_suspect(url + path, timeout_s=0.3)
        with pytest.raises(SuspectError, match="did not answer within"):
            suspect.predict(ONE)
        done.set()
    assert len(questions) == 1


# gRPC


class Unsteady(Service):
    """Refuses the first requests with a status."""

    def __init__(self, times: int, code: grpc.StatusCode) -> None:
        super().__init__(self.answer)
        self.times, self.code = times, code
        self.questions = 0

    def answer(self, call: Any) -> Any:
        self.questions += 1
        if self.questions <= self.times:
            call[1].abort(self.code, "not now")
        return respond_by_grpc([[1.0]])(call)


def ask_by_grpc(service: Any, rows: int = 3) -> Array:
    with grpc_server(service) as port:
        suspect = as_suspect(f"grpc://127.0.0.1:{port}/clf", timeout_s=5.0)
        return answers_of(suspect, np.ones((rows, 2), np.float32))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
@pytest.mark.parametrize("rows", [3, 200_000])  # the latter: more than gRPC keeps for a retry by default
def test_grpc_requests_to_a_busy_server_are_retried(code: grpc.StatusCode, rows: int) -> None:
    service = Unsteady(3, code)
    np.testing.assert_array_equal(ask_by_grpc(service, rows), [[1.0]])
    assert service.questions == 4


def test_grpc_server_that_stays_busy_is_given_up() -> None:
    service = Unsteady(100, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(SuspectError, match=r"cannot be reached \(UNAVAILABLE: not now\)"):
        ask_by_grpc(service)
    assert service.questions == 1 + retries.RETRIES


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code.name not in ("OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED")],
)
def test_grpc_other_refusals_are_final(code: grpc.StatusCode) -> None:
    service = Unsteady(1, code)
    with pytest.raises(SuspectError, match="not now"):
        ask_by_grpc(service)
    assert service.questions == 1


def test_grpc_requests_to_a_server_that_comes_back_are_retried() -> None:
    """The server is down at the first try, and up again before the last."""
    service = Service(respond_by_grpc([[1.0]]))
    first = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, first)
    port = first.add_insecure_port("127.0.0.1:0")
    first.start()
    suspect = as_suspect(f"grpc://127.0.0.1:{port}/clf", timeout_s=10.0)
    first.stop(0).wait()
    second = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, second)
    second.add_insecure_port(f"127.0.0.1:{port}")
    timer = threading.Timer(0.01, second.start)
    timer.start()
    np.testing.assert_array_equal(answers_of(suspect, np.ones((1, 2), np.float32)), [[1.0]])
    timer.join()
    second.stop(0).wait()
