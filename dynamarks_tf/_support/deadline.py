"""A time limit on a whole answer over HTTP.

The limits of the HTTP libraries restart with every byte, so an answer that trickles would never end.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Retry


class Deadline:
    """Cuts the connection when an answer is not complete in time; serves one request at a time.

    Args:
        seconds: how long one answer may take, counted from the end of the request.

    Attributes:
        has_passed: whether the last answer was cut off.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        self.has_passed = False

    def start(self, connection: socket.socket) -> None:
        """Restarts the clock, for the answer over this connection."""
        self.stop()
        self.has_passed = False
        self._timer = threading.Timer(self._seconds, self._cut, [connection])
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Stops the clock: the answer is complete, or no longer expected."""
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self, connection: socket.socket) -> None:
        self.has_passed = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(
                connection, socket.SHUT_RDWR
            )  # wakes the reader; past TLS, which would wait for the server

    def adapter(self, retries: Retry) -> HTTPAdapter:
        """An adapter that makes a session of `requests` keep the deadline, with a new start for each retry."""
        return _Adapter(self, retries)


class _Adapter(HTTPAdapter):
    def __init__(self, deadline: Deadline, retries: Retry) -> None:
        self._deadline = deadline
        super().__init__(max_retries=retries)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not issubclass(pool.ConnectionCls, _Timed):
            pool.ConnectionCls = _TIMED[type(pool)]
            pool.conn_kw["deadline"] = self._deadline
        return pool


class _Timed(HTTPConnection):
    """A connection that starts the deadline when it has sent a request."""

    def __init__(self, *args: Any, deadline: Deadline, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = deadline

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)
        self._deadline.start(self.sock)

    def getresponse(self) -> Any:
        try:
            return super().getresponse()
        except Exception as error:
            if self._deadline.has_passed:  # otherwise it looks like a lost connection, and is retried
                raise TimeoutError("the answer took too long") from error
            raise


class _TimedTls(_Timed, HTTPSConnection):
    pass


_TIMED = {HTTPConnectionPool: _Timed, HTTPSConnectionPool: _TimedTls}
