"""Not asking faster than somebody allows."""

from __future__ import annotations

import time


class RateLimiter:
    """Spreads questions over time.

    Args:
        rate: queries a second; `None` for as fast as it goes.

    Example:
        >>> pace = RateLimiter(10)
        >>> pace.wait(10)  # at once
        >>> pace.wait(10)  # a second later
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def wait(self, count: int) -> None:
        """Waits until `count` more queries may be asked."""
        if self._rate is None:
            return
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        self._free_at = time.monotonic() + count / self._rate
