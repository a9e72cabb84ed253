"""API keys and certificates are exchanged while the proxy runs: files that change are read again."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.serving.gateway.metrics import Metrics

LOG = logging.getLogger(__name__)

EVERY_S = 10.0


class FromFiles(Protocol):
    """What was read from files, and can be read from them again."""

    @property
    def files(self) -> Sequence[Path]:
        """The files; none if it was made otherwise."""

    def reload(self) -> None:
        """Reads the files again. With an `ArgumentError`, everything stays as it was."""


class WatchedFiles:
    """Looks now and then whether files have changed.

    What cannot be used, such as a certificate whose key has not been exchanged yet, is reported and leaves things as
    they were; the next change of the files is the next attempt.

    Args:
        watched: what came from files, by the words for it in messages and metrics.
        metrics: where attempts are counted.
    """

    def __init__(self, watched: Mapping[str, FromFiles], metrics: Metrics) -> None:
        self._watched = watched
        self._metrics = metrics
        self._seen = {what: _state(item.files) for what, item in watched.items()}
        for what in watched:
            metrics.expect_reloads(what)

    async def watch(self) -> None:
        """Looks until it is canceled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await asyncio.to_thread(self.look)  # a folder on the network can take its time

    def look(self) -> None:
        """Reads again what has changed since the last look."""
        for what, item in self._watched.items():
            state = _state(item.files)
            if state == self._seen[what]:
                continue
            self._seen[what] = state
            try:
                item.reload()
            except ArgumentError as error:
                LOG.error("the %s changed and stay as they were: %s", what, error)
                self._metrics.count_reload(what, "refused")
            else:
                LOG.warning("the %s changed and were read again", what)
                self._metrics.count_reload(what, "used")


def _state(files: Sequence[Path]) -> list[tuple[int, ...] | None]:
    """What differs once a file is written or replaced; `None` for one that cannot be had."""
    found: list[tuple[int, ...] | None] = []
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return found
