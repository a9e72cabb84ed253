"""Files of text that hold one entry a line, which a server may still be appending to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import TruncatedError

BUFFER = 2**20  # bytes


def read_lines(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Reads the lines of a file that are not empty.

    Args:
        path: the file.
        size: how many bytes of it to read.

    Yields:
        The offset of each line in bytes, and the line.

    Raises:
        TruncatedError: the file is shorter than `size`.
    """
    offset = 0
    with path.open("rb", buffering=BUFFER) as file:
        while offset < size:
            line = file.readline(size - offset)
            if not line:
                raise TruncatedError(f"{path}: the file ends at offset {offset}; {size} bytes were expected")
            if not line.isspace():
                yield offset, line
            offset += len(line)


def parse_problem(path: Path, offset: int, line: bytes, error: Exception) -> LogError:
    """Returns the error for a line that no parser takes: the last line may only be cut off.

    Args:
        path: the file.
        offset: where the line begins, in bytes.
        line: the line.
        error: the error of the parser.
    """
    if not line.endswith(b"\n"):
        return TruncatedError(f"{path}: the last line, at offset {offset}, is cut off and is skipped")
    return corrupt(path, offset, error)


def corrupt(path: Path, offset: int, reason: object) -> LogError:
    """Returns the error for a line that is no entry."""
    return LogError(f"{path}: the line at offset {offset} is corrupt: {reason}")
