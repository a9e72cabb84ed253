"""Refusals of model files, and the sizes that are accepted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dynamarks_tf import foreign_text
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.batches import brief

WAY_OUT = (
    "If you trust the file, allow what it does: run_untrusted_code=True (--run-untrusted-code). It runs in a process "
    "of its own all the same."
)

_LONGEST_NAME = 100
_MOST_EXPANSION = 20  # of a file's bytes; pruned weights shrink to a tenth
SMALL_WEIGHTS, SMALL_ACTIVATION = 64 << 20, 256 << 20  # bytes that are never refused


def shown(name: object) -> str:
    """A name from a file as printable ASCII, shortened."""
    return foreign_text.shown(ascii(str(name)[: 2 * _LONGEST_NAME])[1:-1], _LONGEST_NAME)


class RefusedError(SuspectError):
    """A model file holds what is not accepted.

    Args:
        reason: what it is, in sentences.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} {WAY_OUT}")
        self.reason = reason


def refused(description: str, reason: str) -> RefusedError:
    """Makes the error for a file that holds what is not accepted."""
    return RefusedError(f"{description} is refused: {reason}")


@contextlib.contextmanager
def reading(description: str, kind: str) -> Iterator[None]:
    """Turns what reading a damaged file raises, which depends on the damaged part, into an error of this package."""
    try:
        yield
    except SuspectError:
        raise
    except Exception as error:
        raise unreadable(description, kind, error) from error


def unreadable(description: str, kind: str, reason: object) -> SuspectError:
    """Makes the error for a file that cannot be read."""
    return SuspectError(f"{description} cannot be loaded as {kind}: {brief(reason)}")


def check_declared(description: str, declared: int, stored: int, what: str, *, small: int = SMALL_WEIGHTS) -> None:
    """Checks the size that a file declares against the one that it has.

    Args:
        description: description of the suspect.
        declared: bytes in memory, by the file's own word.
        stored: bytes on disk.
        what: what is so large, for the message.
        small: bytes that are accepted from the smallest file.

    Raises:
        SuspectError: they are out of proportion.
    """
    if declared > max(small, _MOST_EXPANSION * stored):
        raise refused(
            description,
            f"{what} would take {declared / 1e6:,.0f} MB in memory, and its files have {stored / 1e6:,.1f} MB. "
            f"Accepted are {_MOST_EXPANSION} times the size of the files, or {small / 1e6:.0f} MB.",
        )


def inside(folder: Path, name: str) -> bool:
    """Whether a relative name stays in a folder, without links."""
    if not name or "\0" in name or os.path.isabs(name) or ".." in Path(name).parts:
        return False
    steps = [folder.joinpath(*Path(name).parts[: count + 1]) for count in range(len(Path(name).parts))]
    return not any(step.is_symlink() for step in steps)
