"""Rows of CSV, Parquet and JSON-lines files of unknown makers, read one by one and up to bounds."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dynamarks_tf._support import bounds, parquet_child, strict_json
from dynamarks_tf._support.own_files import open_regular

LONGEST_LINE = 2**24  # characters
_MOST_COLUMNS = 2**17
_SHARED = 2  # characters: Python keeps one object for each shorter text


class TableError(ValueError):
    """A table is damaged, or holds more than is accepted."""


def csv_rows(path: Path) -> Iterator[list[str]]:
    """Yields the names of the columns, then the cells of each row that is not empty.

    Raises:
        TableError: the file is no CSV in UTF-8, or a row has more or fewer cells than there are names.
        OSError: it cannot be read.
    """
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as stream:
        try:
            reader = csv.reader(_lines(stream), strict=True)
            header = next(reader, [])
            if len(header) > _MOST_COLUMNS:
                raise TableError(f"it has {len(header):,} columns; at most {_MOST_COLUMNS:,} are accepted")
            yield header
            for number, row in enumerate(filter(None, reader), 1):
                if len(row) != len(header):
                    raise TableError(f"row {number} has {len(row)} cells, and its first line names {len(header)}")
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(bounds.reason(error)) from error


def parquet_rows(path: Path) -> Iterator[list[Any]]:
    """Yields the names of the columns, then the values of each row, read by a process of its own.

    Raises:
        ImportError: pyarrow is not installed.
        TableError: the file is no Parquet file, or unpacks to more than `bounds.allowed` says of its size.
        OSError: it cannot be read.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError("pyarrow")
    open_regular(path).close()
    allowed = bounds.allowed(path.stat().st_size)
    command = [sys.executable, str(Path(parquet_child.__file__)), str(path.absolute()), str(allowed)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as child:
        assert child.stdout is not None
        try:
            for line in _lines(child.stdout):
                row = json.loads(line, object_hook=_from_json)
                if isinstance(row, dict):
                    if row["end"]:
                        raise TableError(bounds.reason(ValueError(row["end"])))
                    return
                yield row
        finally:
            child.kill()
    raise TableError("the Parquet library gave up on it, or it took too much memory or time")


def json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the object in each line that is not empty.

    Raises:
        TableError: a line is no JSON object, or holds too many values.
        OSError: it cannot be read.
    """
    with io.TextIOWrapper(open_regular(path), encoding="utf-8") as stream:
        try:
            for number, line in enumerate(_lines(stream), 1):
                if line.isspace():
                    continue
                row = strict_json.parse(line, numbers_only=False)
                if not isinstance(row, dict):
                    raise TableError(f"line {number} is no JSON object")
                yield row
        except TableError:
            raise
        except (ValueError, RecursionError) as error:
            raise TableError(bounds.reason(error)) from error


def within(rows: Iterable[Any], path: Path) -> Iterator[Any]:
    """Yields rows while they take no more memory than `bounds.allowed` says of their file.

    Raises:
        TableError: they take more.
    """
    allowed = bounds.allowed(path.stat().st_size)
    for row in rows:
        allowed -= size_of(row)
        if allowed < 0:
            raise TableError(f"its rows take too much memory for a file of {path.stat().st_size:,} bytes")
        yield row


def size_of(value: Any) -> int:
    """About how many bytes of memory a value takes; of a container, with all that it holds."""
    if isinstance(value, str):
        return 8 if len(value) < _SHARED else 8 + sys.getsizeof(value)
    if isinstance(value, Mapping):
        return sys.getsizeof(value) + sum(size_of(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return sys.getsizeof(value) + sum(map(size_of, value)) - 8 * len(value)
    return 8 + sys.getsizeof(value)


def _lines(stream: IO[str]) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise TableError(f"it has a line of {LONGEST_LINE:,} or more characters, too long for a table")
        yield line


def _from_json(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else value
