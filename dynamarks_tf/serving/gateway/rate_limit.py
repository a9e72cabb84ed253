"""A limit on the rate of each client's requests."""

from __future__ import annotations

import time
from collections.abc import Callable

from dynamarks_tf.errors import ArgumentError

MOST_CLIENTS = 100_000  # remembered at once; the one with the oldest last request is forgotten


class RateLimiter:
    """A token bucket for each client: it holds up to `burst` requests and gains `rate` per second.

    Args:
        rate: requests per second that a client may sustain.
        burst: requests that a client may send at once after a pause; `rate`, but at least 1, if not given.
        clock: returns the time in seconds.

    Raises:
        ArgumentError: a number is too small.
    """

    def __init__(self, rate: float, burst: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        burst = max(1.0, rate) if burst is None else burst
        if not rate > 0 or not burst >= 1:
            raise ArgumentError(f"`rate` must be above 0 and `burst` at least 1. Received: rate={rate}, burst={burst}")
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._full_at: dict[str, float] = {}  # when each bucket will be full again; the last used is the last

    def take(self, client: str) -> float:
        """Takes one request from a client's bucket.

        Returns:
            0 if there was one, otherwise the seconds until there is one.
        """
        now = self._clock()
        full_at = max(self._full_at.get(client, now), now) + 1 / self._rate
        wait = full_at - now - self._burst / self._rate
        if wait > 1e-9:
            return wait
        self._full_at.pop(client, None)
        self._full_at[client] = full_at
        if len(self._full_at) > MOST_CLIENTS:
            del self._full_at[next(iter(self._full_at))]
        return 0.0
