"""Waiting for the end of a command that serves."""

from __future__ import annotations

import signal
from collections.abc import Callable

import click


def wait_until_stopped(wait: Callable[[], None]) -> None:
    """Says how to stop, and returns when `wait` does, or on Ctrl-C or SIGTERM: nothing logged is lost by either."""
    click.echo("stop with Ctrl-C")
    at_termination = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        wait()
    except KeyboardInterrupt:
        click.echo("stopping")
    finally:
        signal.signal(signal.SIGTERM, at_termination)
