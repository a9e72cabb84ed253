"""Times without a request: the longest pauses of a file, and those of a whole log that its own rhythm does not explain.

A pause of a log is a time in which none of its files, of any replica, holds a request. It is reported if

1. it is long (`SHORTEST`), and the log goes on for at least as long before it and after it, so that bursts of requests
   far apart, such as trials before a launch, are no gap;
2. every other pause of the week before and the week after is far shorter: `FACTOR` times. Two weeks hold each day of
   the week, so a service that sleeps on nights and weekends is no gap. Yet a missing day is one where nights are quiet
   for up to 8 hours: with the nights beside it, it lasts 4 times as long. Where the log does not reach a week to both
   sides, its rhythm is unknown, and the factor is `FACTOR_UNKNOWN`.

Replicas are taken together: they come and go with the load, so that one alone stops or pauses means nothing.
"""

from __future__ import annotations

import bisect
import datetime
import heapq
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

HOUR = 3600.0
SHORTEST = 6 * HOUR  # of a pause that is reported
AROUND = 7 * 24 * HOUR  # before a pause and after it, where the log's rhythm is looked for
FACTOR = 4.0  # as long as any other pause there: a holiday of 10 days beside weekends of 62 hours is not
FACTOR_UNKNOWN = 20.0  # in place of it, in a log that does not reach as far
MOST_KEPT = 32  # pauses of a file, the longest
_SHORTEST_KEPT = SHORTEST / FACTOR_UNKNOWN  # what is shorter decides nothing
_SHOWN = 3

Span = tuple[float, float]


class Times(NamedTuple):
    """When requests were logged to a file.

    Attributes:
        first: the first time.
        last: the last time.
        pauses: the longest pauses between successive requests, at most `MOST_KEPT`, in the order of time.
    """

    first: float
    last: float
    pauses: tuple[Span, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether the times are finite and in order, and no more than can be kept."""
        times = [self.first, *itertools.chain(*self.pauses), self.last]
        in_order = all(one <= other for one, other in itertools.pairwise(times))  # not with NaN
        return in_order and abs(self.first) + abs(self.last) < float("inf") and len(self.pauses) <= MOST_KEPT

    @property
    def longest_left_out(self) -> float:
        """No pause in the file that is not kept is longer."""
        return min(map(_length, self.pauses)) if len(self.pauses) == MOST_KEPT else _SHORTEST_KEPT

    def busy(self) -> Iterable[Span]:
        """From when to when there were requests."""
        edges = [self.first, *itertools.chain(*self.pauses), self.last]
        return zip(edges[::2], edges[1::2], strict=True)


class LongestPauses:
    """Collects the `Times` of a file in constant memory."""

    def __init__(self) -> None:
        self._ends: Span | None = None
        self._kept: list[tuple[float, Span]] = []

    def add(self, time: float) -> None:
        """Adds the time of a request; one that is no later than those before it changes nothing."""
        if self._ends is None:
            self._ends = time, time
        first, last = self._ends
        if time <= last:
            return
        self._ends = first, time
        if time - last > _SHORTEST_KEPT:
            pause = time - last, (last, time)
            if len(self._kept) < MOST_KEPT:
                heapq.heappush(self._kept, pause)
            else:
                heapq.heappushpop(self._kept, pause)

    def times(self) -> Times | None:
        """What was found; `None` if there was no time."""
        return self._ends and Times(*self._ends, tuple(sorted(pause for _, pause in self._kept)))


def gaps_told(files: Sequence[tuple[str, Times | None]]) -> str:
    """Says which times a log seems to lack.

    Args:
        files: name and times of each file that holds requests. If one records no times, nothing can be said.

    Returns:
        A warning; empty if there is nothing to warn of.
    """
    known = [(name, times) for name, times in files if times is not None]
    if len(known) < len(files):
        return ""
    found = list(_gaps([times for _, times in known]))
    if not found:
        return ""
    shown = "; ".join(
        f"from {_moment(start)} to {_moment(end)} ({(end - start) / HOUR:.0f} hours, {_where((start, end), known)})"
        for start, end in found[:_SHOWN]
    )
    more = f"; and in {len(found) - _SHOWN} more pauses" if len(found) > _SHOWN else ""
    return (
        f"The log seems incomplete. It holds no request {shown}{more}. All other pauses in the weeks before and after "
        "are far shorter. Evidence assumes a whole log: where requests are missing, a later query can count as the "
        "first. Were requests answered in that time, give their files too. If there were none, nothing is wrong."
    )


def _gaps(files: Sequence[Times]) -> Iterable[Span]:
    """The pauses of the whole log that are to be reported."""
    busy = sorted(span for times in files for span in times.busy())
    if not busy:
        return
    left_out = max(times.longest_left_out for times in files)
    first, last = busy[0]
    pauses: list[Span] = []
    for start, end in busy:
        if start - last > _SHORTEST_KEPT:
            pauses.append((last, start))
        last = max(last, end)
    starts, ends = zip(*pauses, strict=True) if pauses else ((), ())
    for number, (start, end) in enumerate(pauses):
        length = end - start
        if length < SHORTEST or min(start - first, last - end) < length:
            continue
        around = max(AROUND, length)
        is_known = start - first >= AROUND and last - end >= AROUND
        near = pauses[bisect.bisect_right(ends, start - around) : number]
        near += pauses[number + 1 : bisect.bisect_left(starts, end + around)]
        longest = max([left_out, *map(_length, near)])
        if length > (FACTOR if is_known else FACTOR_UNKNOWN) * longest:
            yield start, end


def _where(gap: Span, files: Sequence[tuple[str, Times]]) -> str:
    """Between which files a gap lies, or in which."""
    before = next(name for name, times in files if gap[0] in (end for _, end in times.busy()))
    after = next(name for name, times in files if gap[1] in (start for start, _ in times.busy()))
    return f"in {before}" if before == after else f"between {before} and {after}"


def _length(span: Span) -> float:
    return span[1] - span[0]


def _moment(time: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(time, datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):  # no year of a calendar
        return f"{time:.0f} s after 1970"
