"""A limit to what the requests being answered take of the memory, together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from dynamarks_tf.serving.protocol.status import Code, StatusError


class OverloadError(StatusError):
    """The requests being answered take as much memory as they may."""

    def __init__(self) -> None:
        super().__init__(Code.RESOURCE_EXHAUSTED, "Too much is being answered at the moment. Ask again soon.")


class InFlight:
    """Counts the bytes of the requests that are being received and answered. Used by one thread.

    Args:
        most: how many there may be at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0

    def take(self, size: int) -> None:
        """Counts some bytes, until they are given back.

        Raises:
            OverloadError: there are too many.
        """
        if self._size + size > self._most:
            raise OverloadError
        self._size += size

    def give_back(self, size: int) -> None:
        """Counts some bytes no more."""
        self._size -= size

    @contextlib.contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that counts some bytes of one request, until the end of the block.

        It raises `OverloadError` if there are too many.
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
