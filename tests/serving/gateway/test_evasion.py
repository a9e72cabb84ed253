"""For any input, each answer is in the log, or counted as missing under the client's name."""

from __future__ import annotations

import gzip
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.serving.gateway import Proxy
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.logs import read_predictions

TARGET = b"/v1/models/m:predict"
BODY = json.dumps({"instances": [[0.1, 0.2, 0.3, 0.4]]}).encode()


def send(proxy: Proxy, target: bytes = TARGET, body: bytes = BODY, *headers: bytes) -> bytes:
    """Posts over a bare socket, as no library would. Returns the status."""
    lines = [
        b"POST " + target + b" HTTP/1.1",
        b"Host: proxy",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    with socket.create_connection(("127.0.0.1", proxy.rest_port), timeout=30) as client:
        client.sendall(b"\r\n".join([*lines, b"", body]))
        answer = b"".join(iter(lambda: client.recv(2**16), b""))
    return answer.split(b" ", 2)[1]


def test_a_client_whose_name_is_no_text_is_logged(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    with make_proxy(request_log=tmp_path) as proxy:
        assert send(proxy, TARGET, BODY, b"x-client-id: \xff\xfe") == b"200"
        assert send(proxy, TARGET, BODY, "x-client-id: Zoë".encode()) == b"200"
    assert (proxy.request_log.written, proxy.request_log.dropped) == (2, 0)
    assert [logged.client for logged in read_predictions(tmp_path)] == ["\\udcff\\udcfe", "Zoë"]


@pytest.fixture
def willing(upstream: LocalServer) -> Iterator[tuple[str, list[str]]]:
    """A server that answers every POST with 200 and a prediction, and the list of the requested paths."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(self.path)
            self.answer(b'{"predictions": [[0.5]]}')

        def do_GET(self) -> None:
            self.answer(requests.get(f"http://127.0.0.1:{upstream.rest_port}{self.path}", timeout=30).content)

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("ending", [b"?", b"#", b"#x", b"?x#y", b"?#"])
def test_a_path_that_would_change_on_the_way_is_refused(
    ending: bytes, willing: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, asked = willing
    with Proxy(None, address, rest_port=0, request_log=tmp_path) as proxy:
        assert send(proxy, TARGET + ending) == b"400"
    assert asked == []


@pytest.mark.parametrize("path", ["m:predict?x=1", "m:PREDICT/", "m%3Apredict", "a/b:predict", ":predict"])
def test_an_answer_that_may_be_a_prediction_is_counted_even_if_it_cannot_be_logged(
    path: str, willing: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, asked = willing
    with Proxy(None, address, rest_port=0, request_log=tmp_path) as proxy:
        assert send(proxy, f"/v1/models/{path}".encode()) == b"200"
    assert asked == [f"/v1/models/{path}"]
    assert (proxy.request_log.written, proxy.request_log.dropped) == (0, 1)


def test_a_body_is_read_as_the_upstream_server_reads_it(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """Headers that `Connection` names end at the proxy, and so do their statements about the body."""
    with make_proxy(request_log=tmp_path) as proxy:
        assert send(proxy, TARGET, BODY, b"Content-Encoding: gzip", b"Connection: content-encoding") == b"200"
        assert send(proxy, TARGET, gzip.compress(BODY), b"Content-Encoding: gzip") == b"200"
    assert (proxy.request_log.written, proxy.request_log.dropped) == (2, 0)


def test_the_largest_requests_are_logged(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    with make_proxy(request_log=tmp_path, max_body_bytes=40 * 2**20) as proxy:
        padded = BODY + b" " * (40 * 2**20 - len(BODY))
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda body: send(proxy, TARGET, body), [padded, padded])) == [b"200", b"200"]
    assert (proxy.request_log.written, proxy.request_log.dropped) == (2, 0)


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (BODY[:-1] + b', "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", [], "do not fit the model's signature"),
        (b'{"instances": [["hidden"]]}', [], "do not fit the model's signature"),
        (gzip.compress(BODY + b" " * 300_000), [b"Content-Encoding: gzip"], "larger than 200000 bytes"),
        (BODY, [b"Content-Encoding: gzip"], "no gzip"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_logged_unchanged_with_the_client(
    body: bytes,
    headers: list[bytes],
    reason: str,
    willing: tuple[str, list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Proxy(None, willing[0], rest_port=0, request_log=tmp_path, max_body_bytes=200_000) as proxy:
        assert send(proxy, TARGET, body, "x-client-id: Zoë".encode(), *headers) == b"200"
    assert (proxy.request_log.written, proxy.request_log.dropped) == (0, 1)
    assert "written undecoded" in caplog.text
    assert reason in caplog.text
    assert r"asked by the client 'Zo\xeb'" in caplog.text
    assert "hidden" not in caplog.text
    log = open_log(tmp_path, model="m")
    assert log.clients() == {"Zoë": 1}
    with pytest.raises(LogError, match="No request in .* can be used. The first: .* could not be decoded when"):
        next(log.batches(9))
    with pytest.raises(LogError, match="could not be decoded when"):
        next(open_log(tmp_path, input="image").batches(9))
    (entry,) = read_predictions(tmp_path)
    assert entry.request.inputs["undecoded REST body"].string_val == [body]


@pytest.mark.parametrize("line", [b"Authorization: Bearer TOPSECRET\x01", b"x-api-key: TOPSECRET\x00", b"TOPSECRET"])
def test_a_broken_header_does_not_show_its_key_in_the_log(
    line: bytes, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "dynamarks_tf")
    caplog.set_level("DEBUG", "aiohttp")
    assert send(proxy, TARGET, BODY, line) == b"400"
    assert "TOPSECRET" not in caplog.text
    assert "Error handling request from 127.0.0.1: " in caplog.text
