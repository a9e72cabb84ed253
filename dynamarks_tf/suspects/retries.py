"""When a served suspect is asked the same question again: the libraries' own retries, set to the errors that pass.

The first contact is never repeated, so that a wrong address shows at once. Nor is a question that took too long, or
that the server refused.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from urllib3 import BaseHTTPResponse
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import InvalidHeader, MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError
from urllib3.util import Retry

RETRIES = 4  # gRPC allows no more
FIRST_WAIT_S = 0.5  # doubled every time; urllib3 asks a second time without waiting
LONGEST_WAIT_S = 30.0

_BUSY = frozenset({429, 503})
_PASSING = (NewConnectionError, ProtocolError)  # refused; reset


class HttpRetries(Retry):
    """Repeats a POST after a refused or lost connection, and after status 429 and 503, as `Retry-After` says."""

    RETRY_AFTER_STATUS_CODES = _BUSY

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> HttpRetries:
        """Counts a failure; raises it if it is not to be repeated."""
        if isinstance(error, ReadTimeoutError):
            raise error
        if error is not None and not (method == "POST" and isinstance(error, _PASSING)):
            raise MaxRetryError(_pool, url, error) from error  # type: ignore[arg-type]
        left = super().increment(method, url, response, error, _pool, _stacktrace)
        if response is not None:
            response.close()  # urllib3 would read it to its end, which may never come, before it asks again
        return left

    def parse_retry_after(self, retry_after: str) -> float:
        """Seconds to wait, within reason; 0, which means the usual wait, if it cannot be read."""
        try:
            return min(super().parse_retry_after(retry_after), LONGEST_WAIT_S)
        except InvalidHeader:
            return 0.0


def http_retries() -> HttpRetries:
    """The policy for HTTP."""
    return HttpRetries(
        RETRIES,
        allowed_methods={"POST"},
        status_forcelist=_BUSY,
        backoff_factor=FIRST_WAIT_S,
        backoff_max=LONGEST_WAIT_S,
        backoff_jitter=FIRST_WAIT_S,
        raise_on_status=False,
        redirect=False,
    )


def grpc_options(service: str, method: str) -> list[tuple[str, Any]]:
    """The same for gRPC, as options of a channel; gRPC itself adds the jitter and heeds `grpc-retry-pushback-ms`."""
    policy = {
        "maxAttempts": RETRIES + 1,
        "initialBackoff": f"{FIRST_WAIT_S:.3f}s",
        "maxBackoff": f"{LONGEST_WAIT_S:.3f}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    config = {"methodConfig": [{"name": [{"service": service, "method": method}], "retryPolicy": policy}]}
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", 1),
        ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),  # larger calls are not repeated; 256 KiB otherwise
    ]
