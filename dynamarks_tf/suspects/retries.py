"""When a request to a served suspect is retried: the libraries' own retries, limited to transient errors.

The first contact is never retried, so that a wrong address shows at once. Nor is a request that timed out, or that the
server refused.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from urllib3 import BaseHTTPResponse
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import InvalidHeader, MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError
from urllib3.util import Retry

RETRIES = 4  # the most that gRPC allows
FIRST_WAIT_S = 0.5  # doubled every time; the first retry of urllib3 does not wait
LONGEST_WAIT_S = 30.0

_BUSY = frozenset({429, 503})
_TRANSIENT = (NewConnectionError, ProtocolError)  # refused; reset


class HttpRetries(Retry):
    """Retries a POST after a refused or lost connection, and after status 429 and 503, as `Retry-After` demands."""

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
        """Counts a failure; raises it if it must not be retried."""
        if isinstance(error, ReadTimeoutError):
            raise error
        if error is not None and not (method == "POST" and isinstance(error, _TRANSIENT)):
            raise MaxRetryError(_pool, url, error) from error  # type: ignore[arg-type]
        left = super().increment(method, url, response, error, _pool, _stacktrace)
        if response is not None:
            response.close()  # otherwise urllib3 reads it to its end, which may never come, before it retries
        return left

    def parse_retry_after(self, retry_after: str) -> float:
        """Seconds to wait, at most `LONGEST_WAIT_S`; 0, which means the usual wait, if the header is malformed."""
        try:
            return min(super().parse_retry_after(retry_after), LONGEST_WAIT_S)
        except InvalidHeader:
            return 0.0


def http_retries() -> HttpRetries:
    """The retry policy for HTTP."""
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
    """The retry policy for gRPC, as channel options; gRPC itself adds jitter and obeys `grpc-retry-pushback-ms`."""
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
        ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),  # larger calls are not retried; the default is 256 KiB
    ]
