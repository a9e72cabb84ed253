"""A limit to the memory that all requests under way use together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from dynamarks_tf.serving.protocol.status import Code, StatusError


class OverloadError(StatusError):
    """The requests under way use all the memory that they may."""

    def __init__(self) -> None:
        super().__init__(Code.RESOURCE_EXHAUSTED, "Too many requests are under way at the moment. Try again soon.")


class InFlight:
    """Counts the bytes of the requests that are being received and answered. Used by one thread.

    Args:
        most: the largest number of bytes at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0

    def take(self, size: int) -> None:
        """Counts bytes until they are given back.

        Raises:
            OverloadError: there would be too many.
        """
        if self._size + size > self._most:
            raise OverloadError
        self._size += size

    def give_back(self, size: int) -> None:
        """Ends the count of these bytes."""
        self._size -= size

    @contextlib.contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that counts bytes of one request until the end of the block.

        The function raises `OverloadError` if there would be too many.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            self.take(size)
            held += size

        try:
            yield take
        finally:
            self.give_back(held)
