"""What the process of a suspect may use: memory, processor time, file size, open files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

_OPEN_FILES = 256
_SHARE_OF_MEMORY = 0.75


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one process.

    Attributes:
        memory: bytes that it may take for data, beyond those that it starts with.
        file_size: bytes of the largest file that it may write.
        seconds: how long it may take to load, and for each batch.
    """

    memory: int
    file_size: int
    seconds: float

    def apply(self) -> None:
        """Puts limits on this process, for good; memory files and core dumps included.

        Address space has no limit: TensorFlow reserves much of it and uses little.
        """
        import resource

        for kind, most in (
            (resource.RLIMIT_DATA, _data_in_use() + self.memory),
            (resource.RLIMIT_FSIZE, self.file_size),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
            (resource.RLIMIT_CORE, 0),
        ):
            _lower(resource, kind, most)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # the first to go, if the machine runs out of memory

    def start_clock(self) -> None:
        """Limits the processor time until the next call, in case that nobody is left to watch the deadline."""
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + self.seconds * (os.cpu_count() or 1)) + 2
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))


def usable_memory() -> int:
    """Bytes that one suspect may take: three quarters of the machine's memory."""
    return int(_SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _lower(resource: Any, kind: int, most: int) -> None:
    """Lowers a limit, never raises it."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):  # a system that knows no such limit
        resource.setrlimit(kind, (most, most))


def _data_in_use() -> int:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 0
