"""Waits until another thread or process has done its work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

PATIENCE_S = 30.0


def eventually(condition: Callable[[], Any]) -> None:
    """Returns once the condition holds; fails if that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {PATIENCE_S:g} s"
        time.sleep(0.02)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[None]:
    """Returns a list that grows with each call of a method, once the call has ended."""
    method = getattr(owner, name)
    ended: list[None] = []

    def counted(*arguments: Any) -> Any:
        result = method(*arguments)
        ended.append(None)
        return result

    monkeypatch.setattr(owner, name, counted)
    return ended
