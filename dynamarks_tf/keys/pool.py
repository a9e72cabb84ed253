"""What a statement says about a pool of inputs that queries will be drawn from, and which texts can decide the draw."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from dynamarks_tf.errors import ArgumentError

DRAWN_FOR_EACH = 20
MOST_INPUTS = 10_000_000
LONGEST_TEXT = 500


@dataclasses.dataclass(frozen=True)
class CommittedPool:
    """What a statement says about a pool of inputs. Whatever a draw depends on is in it, except for the beacon.

    Args:
        sha256: digest of the inputs: type, shape, bytes, order.
        size: number of inputs.
        num_queries: how many will be asked.
        num_drawn: how many will be drawn, from which those are chosen; at most half of the pool.

    Raises:
        ArgumentError: a number is outside its range.
    """

    sha256: str
    size: int
    num_queries: int
    num_drawn: int

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, str) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ArgumentError("The digest of a pool must be 64 hexadecimal digits.")
        numbers = (self.num_queries, self.num_drawn, self.size)
        if not all(type(number) is int for number in numbers) or not 1 <= self.num_queries <= self.num_drawn:
            raise ArgumentError(
                "The number of queries must be a whole number, at least 1 and at most the number of inputs drawn. "
                f"Received: {self.num_queries!r} queries of {self.num_drawn!r} drawn."
            )
        if not 2 * self.num_drawn <= self.size <= MOST_INPUTS:
            raise ArgumentError(
                f"A pool must hold at least twice the inputs drawn, and at most {MOST_INPUTS:,}. Received: a pool of "
                f"{self.size!r}, of which {self.num_drawn!r} are drawn for {self.num_queries!r} queries. Give a larger "
                "pool, fewer queries (--max-queries), or a smaller draw (--draw)."
            )


def is_public_text(value: Any) -> bool:
    """Whether this can be a beacon, or say where one comes from: one line without blanks at its ends."""
    return isinstance(value, str) and 1 <= len(value) <= LONGEST_TEXT and value.isprintable() and value == value.strip()
