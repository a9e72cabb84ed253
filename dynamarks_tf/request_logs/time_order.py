"""Merging files that cover the same period, such as those of two replicas, by the times of their records."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence

from dynamarks_tf.request_logs.entries import LogEntry

Open = Callable[[], Iterator[LogEntry]]


def start_time(records: Iterator[LogEntry]) -> float | None:
    """Returns the time of the first record that has one, `None` if none has."""
    return next((time for time in map(_time, records) if time is not None), None)


def merge(files: Sequence[Open], starts: Sequence[float | None]) -> Iterator[LogEntry]:
    """Yields the records of all files in the order of their times.

    A file is opened when the first of its times has come, so that of files that follow each other few are open at
    once; of each open file one record is in memory. A file's records keep their order, and one without a time follows
    the record before it at once. So does a file without any times follow the file before it. Of equal times, those of
    the file that comes first in `files` are first.

    Args:
        files: open a file each.
        starts: what `start_time` says of each file.
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
        time, number, record, rest = heap[0]
        if record is not None:
            yield record
        following = next(rest, None)
        if following is None:
            heapq.heappop(heap)
        else:
            next_time = _time(following)
            heapq.heapreplace(heap, (time if next_time is None else next_time, number, following, rest))


def _chained(files: list[Open]) -> Iterator[LogEntry]:
    for file in files:
        yield from file()


def _time(record: LogEntry) -> float | None:
    time = record.time
    return time if time is not None and -math.inf < time < math.inf else None  # JSON can say NaN
