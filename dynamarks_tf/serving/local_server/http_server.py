"""The HTTP server under the REST interface: waitress, with a limit on bodies and an orderly stop."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import waitress
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.utilities import RequestEntityTooLarge

from dynamarks_tf.serving.protocol import json_tensor, ports

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

THREADS = 4 * (os.cpu_count() or 1)
LARGEST_BODY = 2**40  # bytes that are read, and dropped where requests may have fewer
MEMORY_BUFFER = 2**28  # bytes of a body that waitress keeps in memory rather than in a file
RECEIVE_SIZE = 2**18  # bytes
CONNECTIONS = 256  # open at the same time; for another one, that which has waited longest is closed
IDLE_S = 30  # that a connection may be silent
RECEIVE_S = 60  # that one request may take to arrive
_SPARE = 8  # connections


class HttpServer:
    """An HTTP server on its own threads.

    Args:
        application: answers the requests.
        host: the address to listen on.
        port: the port to listen on; any free one if 0.
        max_request_bytes: the largest size of a body; a larger one is answered with 413. No limit if `None`.

    Raises:
        ServingError: the port cannot be opened.
    """

    def __init__(
        self, application: WSGIApplication, *, host: str, port: int, max_request_bytes: int | None = None
    ) -> None:
        listener = ports.listen(host, port, "REST")
        logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns about each request that waits
        self._server = waitress.create_server(
            application,
            sockets=[listener],
            threads=THREADS,
            ident=None,
            connection_limit=CONNECTIONS,
            channel_timeout=IDLE_S,
            cleanup_interval=IDLE_S // 4,
            max_request_body_size=LARGEST_BODY,
            inbuf_overflow=MEMORY_BUFFER,
            outbuf_overflow=MEMORY_BUFFER,
            outbuf_high_watermark=LARGEST_BODY,  # otherwise clients that read no answers hold the threads
            recv_bytes=RECEIVE_SIZE,
        )
        self._server.channel_class = _channel_class(LARGEST_BODY if max_request_bytes is None else max_request_bytes)
        self.port: int = listener.getsockname()[1]
        self._stopping = threading.Event()
        self._grace_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="rest-server", daemon=True)
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Refuses new connections at once, and lets the requests under way end within `grace_s` seconds."""
        self._grace_s = grace_s
        self._stopping.set()
        self._server.pull_trigger()
        self._thread.join()
        wasyncore.close_all(self._server._map)  # at the end, because this closes the trigger as well

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._turn(timeout_s=1.0)
            self._close_waiting()
        wasyncore.dispatcher.close(self._server)  # the listening socket; connections stay
        deadline = time.monotonic() + self._grace_s
        while self._close_idle() and time.monotonic() < deadline:
            self._turn(timeout_s=0.05)
        self._server.task_dispatcher.shutdown(timeout=1)

    def _turn(self, *, timeout_s: float) -> None:
        """Receives and sends the data at hand, as one turn of waitress' own loop does."""
        wasyncore.loop(timeout=timeout_s, use_poll=True, map=self._server._map, count=1)

    def _close_waiting(self) -> None:
        """Closes connections whose request does not arrive, and where there are too many, those that wait longest."""
        now = time.monotonic()
        waiting = [channel for channel in self._server.active_channels.values() if not channel.requests]
        late = [channel for channel in waiting if channel.is_receiving and now - channel.since > RECEIVE_S]
        excess = len(self._server.active_channels) - len(late) - (CONNECTIONS - _SPARE)
        if excess > 0:
            others = [channel for channel in waiting if channel not in late]
            late += sorted(others, key=lambda channel: channel.since)[:excess]
        for channel in late:
            channel.handle_close()

    def _close_idle(self) -> bool:
        """Closes the connections without a request under way. Returns whether others are left."""
        channels = list(self._server.active_channels.values())
        busy = [channel for channel in channels if channel.requests or channel.total_outbufs_len]
        for channel in channels:
            if channel not in busy:
                channel.handle_close()
        return bool(busy)


def _channel_class(max_request_bytes: int) -> type[HTTPChannel]:
    """Makes the class of connections that answer 413 to larger bodies, and know since when they wait.

    Waitress' own limit closes the connection while the client is still sending. The client then sees a reset connection
    instead of the answer. Here the excess is read and dropped.
    """

    class Parser(HTTPRequestParser):
        def __init__(self, adjustments: Adjustments) -> None:
            super().__init__(adjustments)
            self._kept = _LimitedBuffer(max_request_bytes)

        def parse_header(self, header_plus: bytes) -> None:
            super().parse_header(header_plus)
            if self.body_rcv is not None:
                self.body_rcv.buf = self._kept

        def received(self, data: bytes) -> int:
            consumed: int = super().received(data)
            if self.completed and self._kept.dropped:
                self.error = _TooLarge(f"The request is larger than {max_request_bytes} bytes")
            return consumed

    class Channel(HTTPChannel):
        parser_class = Parser
        is_receiving = False

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.since = time.monotonic()  # when its request began to arrive, or it began to wait for one

        def received(self, data: bytes) -> bool:
            if not self.is_receiving:
                self.since = time.monotonic()
            taken: bool = super().received(data)
            self.is_receiving = self.request is not None
            return taken

        def service(self) -> None:
            super().service()
            if not self.is_receiving:
                self.since = time.monotonic()

    return Channel


class _LimitedBuffer(OverflowableBuffer):
    """Keeps a body up to a size limit, and nothing of a larger one."""

    def __init__(self, limit: int) -> None:
        super().__init__(MEMORY_BUFFER)
        self._limit = limit
        self.dropped = False

    def append(self, data: bytes) -> None:
        if self.dropped or len(self) + len(data) > self._limit:
            self.dropped = True
        else:
            super().append(data)


class _TooLarge(RequestEntityTooLarge):
    def to_response(self, ident: Any = None) -> tuple[str, list[tuple[str, str]], bytes]:
        body = json_tensor.error_body(self.body).encode()
        return f"{self.code} {self.reason}", [("Content-Type", "application/json")], body
