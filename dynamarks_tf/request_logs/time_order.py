"""Merging files that cover the same period, such as those of two replicas, by the times of their entries."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence

from dynamarks_tf.request_logs.entries import LogEntry, is_time

Open = Callable[[], Iterator[LogEntry]]


def merge(files: Sequence[Open], starts: Sequence[float | None]) -> Iterator[LogEntry]:
    """Yields the entries of all files in the order of their times.

    A file is opened when the first of its times has come, so that of files that follow each other few are open at
    once; of each open file one entry is in memory. A file's entries keep their order, and an entry without a time
    follows the one before it at once. Likewise, a file without any times follows the file before it. Of entries with
    equal times, those of the file that comes first in `files` are first.

    Args:
        files: open a file each.
        starts: the `start_time` of each file.
    """
    chains: list[list[Open]] = []  # files to be read one after the other: one with times, then those without
    heap: list[tuple[float, int, LogEntry | None, Iterator[LogEntry]]] = []  # the number is unique: no ties after it
    for file, start in zip(files, starts, strict=True):
        if start is None and chains:
            chains[-1].append(file)
            continue
        chain = [file]
        heap.append((-math.inf if start is None else start, len(chains), None, _chained(chain)))
        chains.append(chain)
    heapq.heapify(heap)
    while heap:
        time, number, entry, rest = heap[0]
        if entry is not None:
            yield entry
        following = next(rest, None)
        if following is None:
            heapq.heappop(heap)
        else:
            next_time = following.time if is_time(following.time) else time
            heapq.heapreplace(heap, (next_time, number, following, rest))


def _chained(files: list[Open]) -> Iterator[LogEntry]:
    for file in files:
        yield from file()
