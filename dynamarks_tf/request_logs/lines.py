"""Files of text that hold one entry a line, which a server may still be appending to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamarks_tf._support import strict_json
from dynamarks_tf._support.json_bounds import check_json
from dynamarks_tf._support.storage import OpenFile, StoredFile
from dynamarks_tf.request_logs import rapid_json
from dynamarks_tf.request_logs.entries import TruncatedError, UnreadableEntry

LONGEST_LINE = 2**28  # bytes
MOST_VALUES = 2**23  # of JSON in a line


def read_lines(file: StoredFile) -> Iterator[tuple[int, bytes | None]]:
    """Reads the lines of a file that are not empty.

    Args:
        file: the file.

    Yields:
        The offset of each line in bytes, and the line; `None` in place of one that is too long.

    Raises:
        StorageError: the file cannot be read.
    """
    offset = 0
    with file.open() as opened:
        while line := opened.readline(longest_line(opened)):
            length = len(line)
            if length == longest_line(opened) and not line.endswith(b"\n"):
                line = b""
                length += _skipped(opened)
                yield offset, None
            elif not line.isspace():
                yield offset, line
            offset += length


def longest_line(opened: OpenFile) -> int:
    """How many bytes of a line are read."""
    return min(LONGEST_LINE, opened.largest_entry)


def parse(line: bytes | None, *, is_strict: bool = False) -> dict[str, Any]:
    """Parses a line.

    Args:
        line: the line; `None` if it is too long.
        is_strict: whether it must be UTF-8 and hold no member twice. Otherwise it is read as model servers read it.

    Raises:
        ValueError: it is no JSON object, is too long, holds too many values or is nested too deep.
    """
    if line is None:
        raise ValueError("it is too long")
    fields = strict_json.parse(line, numbers_only=False, most_values=MOST_VALUES) if is_strict else load(line)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields


def load(data: str | bytes, *, is_whole: bool = True) -> Any:
    """Parses JSON, as `parse` does a line.

    Args:
        data: the text.
        is_whole: whether more text after the first value is an error; to model servers it is none.

    Raises:
        ValueError: it is no JSON, holds too many values or is nested too deep.
    """
    text = data.decode("utf-8-sig", "surrogateescape") if isinstance(data, bytes) else data
    check_json(text, MOST_VALUES)
    try:
        return rapid_json.decode(text, is_whole=is_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def unreadable(file: StoredFile, offset: int, line: bytes | None, error: ValueError) -> UnreadableEntry:
    """Returns the entry for a line that cannot be read.

    Args:
        file: the file.
        offset: where the line begins, in bytes.
        line: the line.
        error: what is wrong with it.

    Raises:
        TruncatedError: it is the last line, and only cut off.
    """
    if line is not None and not line.endswith(b"\n"):
        raise TruncatedError(f"{file}: the last line, at offset {offset}, is cut off and is skipped") from error
    return UnreadableEntry(file=file, offset=offset, problem=f"its line cannot be read: {error}")


def _skipped(opened: OpenFile) -> int:
    """Reads up to the end of the line; returns how many bytes that took."""
    count = 0
    while part := opened.readline(2**20):
        count += len(part)
        if part.endswith(b"\n"):
            break
    return count
