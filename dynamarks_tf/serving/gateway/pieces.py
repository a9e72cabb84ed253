"""Collects a body as it arrives, and joins it only once."""

from __future__ import annotations

SMALL_BYTES = 4096  # smaller pieces are joined at once: each would take more memory than it holds

Piece = bytes | memoryview


class Pieces:
    """Collects the pieces of a body."""

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview | bytearray] = []
        self.size = 0

    def add(self, piece: Piece) -> None:
        """Appends a piece."""
        self.size += len(piece)
        if len(piece) >= SMALL_BYTES:
            self._parts.append(piece)
        elif self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += piece
        elif piece:
            self._parts.append(bytearray(piece))

    def start(self, count: int) -> bytes:
        """Returns the first `count` bytes, or all if there are fewer."""
        found = b""
        for part in self._parts:
            found += part[: count - len(found)]
            if len(found) == count:
                break
        return found

    def take(self) -> bytes:
        """Returns the body, and empties this collection."""
        parts, self._parts, self.size = self._parts, [], 0
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)
