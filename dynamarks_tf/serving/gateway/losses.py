"""How many copies of predictions were lost on their way from Envoy to the log.

Envoy counts what it hands to its connection; with the collector dead, that goes nowhere. So the collector compares
Envoy's count with its own. Copies that are on their way are no loss: a count of Envoy at one moment is compared, some
seconds later, with the copies of requests that had ended by then. The result is exact as soon as one comparison falls
into a moment in which no request ends, and smaller before. A copy that comes later still, as to a collector under load,
is taken out of it again.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections import deque
from pathlib import Path

from dynamarks_tf._support.files import PRIVATE_FILE

SETTLED_S = 3.0  # after which a copy has arrived, if it arrives; Envoy sends them every 0.2 s
LATEST_S = 0.05  # between the end of a request and Envoy's count of it, at most
STALLED_S = 2.0  # between two samples; if it takes longer, this process did not run, and nothing can be said

# Written; dropped after they arrived; lost with earlier Envoys. Of this Envoy: settled; lost; its last count.
_FORM = struct.Struct("<6Q")


class Losses:
    """Counts that survive the end of the process: they stand in a file that is mapped into memory.

    Args:
        path: the file. It lives as long as Envoy's own counters: a new one is made where Envoy starts anew.
    """

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
        try:
            os.ftruncate(handle, _FORM.size)
            self._memory = mmap.mmap(handle, _FORM.size)
        finally:
            os.close(handle)
        self._lock = threading.Lock()
        self._written, self._dropped, self._earlier, self._settled, self._lost, self._sent = _counts(self._memory[:])
        self._waiting = 0  # copies that have arrived and are not settled
        self._recent: deque[float] = deque()  # when the requests of copies ended that came within the last seconds
        self._samples: deque[tuple[float, int]] = deque()
        self._last = 0.0
        self._compared = 0.0  # the copies of requests that ended by then are missing if they have not arrived

    @property
    def written(self) -> int:
        """Predictions in the log."""
        return self._written

    @property
    def dropped(self) -> int:
        """Predictions that are not in it, wherever they were lost."""
        return self._dropped + self._earlier + self._lost

    def arrive(self, ended: float) -> None:
        """Counts a copy that has arrived; the time is when its request ended."""
        with self._lock:
            self._waiting += 1
            self._recent.append(ended)
            if ended <= self._compared:
                self._lost = max(0, self._lost - 1)

    def settle(self, written: bool) -> None:
        """Counts a copy that is in the log from now on, or was dropped."""
        with self._lock:
            self._waiting -= 1
            self._settled += 1
            if written:
                self._written += 1
            else:
                self._dropped += 1
            self._save()

    def skip(self) -> None:
        """Takes back the count of a copy that is no prediction."""
        with self._lock:
            self._waiting -= 1
            self._settled += 1
            self._save()

    def sample(self, now: float, sent: int) -> None:
        """Takes a count of Envoy: copies sent or dropped there, at some time before `now`."""
        with self._lock:
            if now > self._last + STALLED_S:
                self._samples.clear()
            if sent < self._sent:  # another Envoy: what came after the last count of the old one may be from either
                self._earlier += self._lost
                self._lost, self._settled = 0, sum(ended > self._last for ended in self._recent) - self._waiting
                self._samples.clear()
            self._last, self._sent = now, sent
            self._samples.append((now, sent))
            while self._samples and self._samples[0][0] < now - SETTLED_S:
                then, count = self._samples.popleft()
                self._compared = then + LATEST_S
                later = sum(ended > self._compared for ended in self._recent)
                self._lost = max(self._lost, count - (self._settled + self._waiting - later))
            while self._recent and self._recent[0] < now - 4 * SETTLED_S:
                self._recent.popleft()
            self._save()

    def _save(self) -> None:
        counts = self._written, self._dropped, self._earlier, max(0, self._settled), self._lost, self._sent
        _FORM.pack_into(self._memory, 0, *counts)


def read(path: Path) -> tuple[int, int]:
    """Returns how many predictions a collector wrote and how many were lost, by its file; (0, 0) if there is none."""
    try:
        written, dropped, earlier, _, lost, _ = _counts(path.read_bytes())
    except (OSError, struct.error):
        return 0, 0
    return written, dropped + earlier + lost


def _counts(data: bytes) -> tuple[int, int, int, int, int, int]:
    written, dropped, earlier, settled, lost, sent = map(int, _FORM.unpack(data))
    return written, dropped, earlier, settled, lost, sent
