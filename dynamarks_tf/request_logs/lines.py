"""Files of text that hold one entry a line, which a server may still be appending to."""

from __future__ import annotations

from collections.abc import Iterator

from dynamarks_tf._support.storage import StoredFile
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import TruncatedError


def read_lines(file: StoredFile) -> Iterator[tuple[int, bytes]]:
    """Reads the lines of a file that are not empty.

    Args:
        file: the file.

    Yields:
        The offset of each line in bytes, and the line.

    Raises:
        LogError: a line is too long.
        StorageError: the file cannot be read.
    """
    offset = 0
    with file.open() as opened:
        while line := opened.readline(opened.largest_entry):
            if len(line) == opened.largest_entry:
                raise corrupt(file, offset, f"it has {len(line)} bytes or more")
            if not line.isspace():
                yield offset, line
            offset += len(line)


def parse_problem(file: StoredFile, offset: int, line: bytes, error: Exception) -> LogError:
    """Returns the error for a line that no parser takes: the last line may only be cut off.

    Args:
        file: the file.
        offset: where the line begins, in bytes.
        line: the line.
        error: the error of the parser.
    """
    if not line.endswith(b"\n"):
        return TruncatedError(f"{file}: the last line, at offset {offset}, is cut off and is skipped")
    return corrupt(file, offset, error)


def corrupt(file: StoredFile, offset: int, reason: object) -> LogError:
    """Returns the error for a line that is no entry."""
    return LogError(f"{file}: the line at offset {offset} is corrupt: {reason}")
