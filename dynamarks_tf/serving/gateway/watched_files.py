"""Reads API keys and certificates again when their files change, while the proxy runs."""

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
    """An object that was read from files, and can be read again."""

    @property
    def files(self) -> Sequence[Path]:
        """The files; empty if it does not come from files."""

    def reload(self) -> None:
        """Reads the files again. If it raises `ArgumentError`, nothing has changed."""


class WatchedFiles:
    """Checks regularly whether files have changed.

    Files that cannot be used, such as a certificate whose key has not been replaced yet, are reported and ignored. They
    are read again at their next change.

    Args:
        watched: the objects to read again, by their names in messages and metrics.
        metrics: counts the attempts.
    """

    def __init__(self, watched: Mapping[str, FromFiles], metrics: Metrics) -> None:
        self._watched = watched
        self._metrics = metrics
        self._seen = {what: _state(item.files) for what, item in watched.items()}
        for what in watched:
            metrics.expect_reloads(what)

    async def watch(self) -> None:
        """Checks the files until it is canceled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await asyncio.to_thread(self.look)  # a network folder can be slow

    def look(self) -> None:
        """Reads the files again that have changed since the last check."""
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
    """Values that differ once a file is written or replaced; `None` for a file that cannot be read."""
    found: list[tuple[int, ...] | None] = []
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return found
