"""Progress for people: bars on a terminal, plain lines elsewhere. Everything goes to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from dynamarks_tf.foreign_text import LONGEST_LINE, shown

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """Shows the progress of a piece of work.

    Args:
        description: the work, such as "querying the API".
        total: number of steps, if known.
        enabled: whether to show anything.
        unit: name of a step, in the plural.

    Example:

    >>> with Meter("training", total=100) as meter:
    ...     meter.advance()
    """

    def __init__(
        self, description: str, total: int | None = None, *, enabled: bool = True, unit: str = "steps"
    ) -> None:
        self._description = shown(description)
        self._total = total
        self._unit = unit
        self._done = 0
        self._enabled = enabled
        self._bar: Any = None

    def __enter__(self) -> Meter:
        self._start = self._last = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(self._description, total=self._total)
        return self

    def advance(self) -> None:
        """Counts one step."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif self._enabled and time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES and self._done != self._total:
            self._last = time.monotonic()
            self._print(self._state())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._enabled and kind is None:
            self._print(f"done, {self._done} {self._unit} in {time.monotonic() - self._start:.1f} s")

    def _state(self) -> str:
        if self._total is None:
            return f"{self._done} {self._unit}"
        left = (time.monotonic() - self._start) / self._done * (self._total - self._done)
        return f"{self._done} of {self._total} {self._unit}, about {left:.0f} s left"

    def _print(self, text: str) -> None:
        print(f"{self._description}: {text}", file=sys.stderr, flush=True)


def note(text: str, *, enabled: bool = True) -> None:
    """Shows one line.

    Args:
        text: the line.
        enabled: whether to show anything.
    """
    if enabled:
        print(shown(text, LONGEST_LINE), file=sys.stderr, flush=True)


def track(
    items: Iterable[T], description: str, total: int | None = None, *, enabled: bool = True, unit: str = "batches"
) -> Iterator[T]:
    """Yields the items and shows the progress.

    Args:
        items: the items.
        description: the work, as for `Meter`.
        total: number of items, if known.
        enabled: whether to show anything.
        unit: name of an item, in the plural.
    """
    with Meter(description, total, enabled=enabled, unit=unit) as meter:
        for item in items:
            yield item
            meter.advance()


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<36}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
