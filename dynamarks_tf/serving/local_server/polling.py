"""Repeats an action on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dynamarks_tf import foreign_text

LOG = foreign_text.logger(__name__)


class Poller:
    """Calls `action` every `interval_s` seconds until it is stopped. Its exceptions are only logged.

    Args:
        action: the action to repeat.
        interval_s: seconds between the end of one call and the start of the next.
        name: the thread's name.
    """

    def __init__(self, action: Callable[[], None], *, interval_s: float, name: str) -> None:
        self._action = action
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Makes no more calls, and returns once a call under way has ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._action()
            except Exception:
                LOG.exception("%s", self._thread.name)
