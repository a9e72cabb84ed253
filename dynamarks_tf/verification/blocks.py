"""The blocks in which a sequential test asks: small ones first, so that it can stop early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.digests import query_digest
from dynamarks_tf.case.transcript_chain import Block

Array = npt.NDArray[Any]

SMALLEST = 10
_ONE_IN = 10


def block_ends(count: int, num_fresh: int, largest: int, before: Sequence[int] = ()) -> tuple[int, ...]:
    """After how many queries each block ends: each is a tenth of those before it, but at least 10.

    Args:
        count: number of all queries.
        num_fresh: how many of them are fresh and come first; no block holds both kinds.
        largest: size of a block, at most.
        before: ends of the blocks that an earlier test asked.
    """
    ends = [*before]
    done = ends[-1] if ends else 0
    while done < count:
        size = min(max(SMALLEST, done // _ONE_IN), largest)
        done = min(done + size, num_fresh if done < num_fresh else count)
        ends.append(done)
    return tuple(ends)


def in_blocks(batches: Iterable[Array], ends: Sequence[int]) -> Iterator[Array]:
    """Yields the rows of some batches in blocks that end where they are told to."""
    rows, done = list[Array](), 0
    remaining = iter(batches)
    for start, stop in zip((0, *ends), ends, strict=False):
        while done < stop:
            batch = next(remaining)
            rows.append(batch)
            done += len(batch)
        held = rows[0] if len(rows) == 1 else np.concatenate(rows)
        yield held[: stop - start]
        rows = [held[stop - start :]] if done > stop else []


def blocks_of(batches: Iterable[Array], ends: Sequence[int]) -> tuple[Block, ...]:
    """Size and digest of each block."""
    return tuple(Block(len(block), query_digest(block)) for block in in_blocks(batches, ends))
