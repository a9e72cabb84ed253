"""Whatever a client sends, an answer it gets is in the log, or counted as missing there under its name."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

from dynamarks_tf.proxy import Proxy
from dynamarks_tf.request_logs import open_log

TARGET = b"/v1/models/m:predict"
BODY = json.dumps({"instances": [[0.1, 0.2, 0.3, 0.4]]}).encode()


def send(proxy: Proxy, target: bytes = TARGET, body: bytes = BODY, *headers: bytes) -> bytes:
    """Posts over a bare socket, as no library would; returns the status."""
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
    assert [request.client for request in open_log(tmp_path).requests()] == ["\\udcff\\udcfe", "Zoë"]
