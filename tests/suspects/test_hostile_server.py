"""Servers that would make `verify` wait forever, or fill its memory."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator

import pytest

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects import answer_sizes, as_suspect, json_client, retries
from dynamarks_tf.suspects.addresses import parse_rest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TRICKLES = {
    "headers": b"HTTP/1.1 200 OK\r\nX: ",
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\n",
    "until closed": HEAD + b"\r\n",
    "by length": HEAD + b"Content-Length: 1000000\r\n\r\n",
    "in chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n",
    "a chunk's length": HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
}
PATHS = ["/v1/models/clf", "/v2/models/clf"]


@contextlib.contextmanager
def sending(first: bytes, then: bytes, wait_s: float) -> Iterator[tuple[str, list[int]]]:
    """Answers every connection by `first`, and then by `then` again and again; counts the connections."""
    stopped = threading.Event()
    connections: list[int] = []

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(10)
            client.recv(65536)
            client.sendall(first)
            while not stopped.wait(wait_s):
                client.sendall(then)

    def serve() -> None:
        for number in itertools.count():
            client, _ = listener.accept()
            if stopped.is_set():
                client.close()
                return
            connections.append(number)
            threads.append(threading.Thread(target=answer, args=[client]))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
        finally:
            stopped.set()
            socket.create_connection(listener.getsockname()).close()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("trickle", TRICKLES)
@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_trickles_is_cut_off(path: str, trickle: str) -> None:
    then = TRICKLES[trickle] if trickle == "interim answers" else b"1"
    with (
        sending(TRICKLES[trickle], then, 0.05) as (url, connections),
        pytest.raises(SuspectError, match=r"did not answer within 0\.4 s\. Raise timeout_s"),
    ):
        as_suspect(url + path, timeout_s=0.4)
    assert len(connections) == 1


@pytest.mark.parametrize("path", PATHS)
def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(answer_sizes, "LARGEST_ANSWER", 2**20)
    with (
        sending(TRICKLES["until closed"], b" " * 2**16, 0.0) as (url, _),
        pytest.raises(SuspectError, match="more than 1048576 bytes"),
    ):
        as_suspect(url + path, timeout_s=30.0)


def test_an_endless_refusal_is_not_read_before_a_retry() -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\n\r\n"
    with sending(busy, b" ", 0.05) as (url, connections):
        client = json_client.JsonClient(parse_rest(url + PATHS[0]), timeout_s=2.0, api_key=None, port="the port")
        with pytest.raises(SuspectError, match="did not answer within 2 s"):
            client.ask(":predict", {})
        client.close()
    assert len(connections) == 1 + retries.RETRIES
