"""HTTP over local sockets: Envoy's administration, and a page of the collector's metrics."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamarks_tf._support.files import PRIVATE_FILE

TIMEOUT_S = 5.0
GRACE_S = 10.0  # for what is being answered at the end
COPIES_S = 3.0
SENT = "grpc_access_log.logs_(written|dropped)$"  # Envoy's counters of copies


class _LocalConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class Admin:
    """Envoy's administration.

    Args:
        path: its socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def request(self, method: str, target: str) -> str:
        """Returns the text of an answer.

        Raises:
            OSError: there is no answer, or one that reports an error.
        """
        connection = _LocalConnection(self._path)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except http.client.HTTPException as error:
            raise OSError(f"Envoy's administration gave no proper answer: {type(error).__name__}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"Envoy's administration answered {answer.status}")
        return text

    def total(self, names: str) -> int:
        """Returns the sum of counters and gauges whose names match a regular expression.

        Raises:
            OSError: there is no answer.
        """
        lines = self.request("GET", f"/stats?filter={names}").splitlines()
        return sum(int(line.rpartition(": ")[2]) for line in lines if line.rpartition(": ")[2].isdecimal())

    def drain(self, grace_s: float, arrived: Callable[[], int] | None) -> None:
        """Has Envoy refuse new connections, and waits until what is under way has ended, for `grace_s` seconds at most.

        Args:
            grace_s: how long requests may take.
            arrived: returns how many copies of predictions have ended up in the log or as losses; Envoy sends the last
                ones within `COPIES_S`.
        """
        with contextlib.suppress(OSError):  # Envoy has ended already
            self.request("POST", "/healthcheck/fail")
            self.request("POST", "/drain_listeners")
            wait_for(lambda: not self.total("http.clients.downstream_rq_active$"), grace_s)
            if arrived is not None:
                sent = self.total(SENT)
                wait_for(lambda: arrived() >= sent, COPIES_S)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits until a condition holds; returns whether it does in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def serve_page(path: Path, content: Callable[[], bytes]) -> None:
    """Answers every GET on a local socket with a text, from a thread of its own, until the process ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = content()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def address_string(self) -> str:
            return "local"

    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    server = _Server(os.fspath(path), Handler)
    os.chmod(path, PRIVATE_FILE)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
