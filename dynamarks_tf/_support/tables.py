"""Rows of CSV, Parquet and JSON-lines files of unknown makers, read one by one and up to bounds."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from dynamarks_tf._support import bounds
from dynamarks_tf._support.json_bounds import check_json

LONGEST_LINE = 2**24  # characters
_MOST_COLUMNS = 2**17
_BATCH = 1024  # rows
_LARGEST_BATCH = 2**26  # bytes, about
_SHARED = 2  # characters: Python keeps one object for each shorter text


class TableError(ValueError):
    """A table is damaged, or holds more than is accepted."""


def csv_rows(path: Path) -> Iterator[list[str]]:
    """Yields the names of the columns, then the cells of each row that is not empty.

    Raises:
        TableError: the file is no CSV in UTF-8, or a row has more or fewer cells than there are names.
        OSError: it cannot be read.
    """
    with open(path, encoding="utf-8-sig", newline="") as stream:
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
    """Yields the names of the columns, then the values of each row.

    Raises:
        ImportError: pyarrow is not installed.
        TableError: the file is no Parquet file, or unpacks to more than `bounds.allowed` says of its size.
        OSError: it cannot be read.
    """
    _, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    try:
        with parquet.ParquetFile(path) as table:
            batch_rows = _batch_rows(table.metadata, path.stat().st_size)
            yield list(table.schema_arrow.names)
            for batch in table.iter_batches(batch_rows, use_threads=False):
                if batch.nbytes > _LARGEST_BATCH:
                    raise TableError(f"{len(batch):,} of its rows take {batch.nbytes:,} bytes")
                yield from (list(row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except (TableError, GeneratorExit):
        raise
    except Exception as error:  # of Arrow, whose errors are of many types
        raise TableError(bounds.reason(error)) from error


def json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the object in each line that is not empty.

    Raises:
        TableError: a line is no JSON object, or holds too many values.
        OSError: it cannot be read.
    """
    with open(path, encoding="utf-8") as stream:
        try:
            for number, line in enumerate(_lines(stream), 1):
                if line.isspace():
                    continue
                check_json(line)
                row = json.loads(line)
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


def _lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise TableError(f"it has a line of {LONGEST_LINE:,} or more characters, too long for a table")
        yield line


def _batch_rows(metadata: Any, size: int) -> int:
    """How many rows to decode at once; runs of equal values and dictionaries can make much of a few bytes.

    Raises:
        TableError: the file declares too much.
    """
    if metadata.num_columns > _MOST_COLUMNS:
        raise TableError(f"it has {metadata.num_columns:,} columns; at most {_MOST_COLUMNS:,} are accepted")
    allowed = bounds.allowed(size)
    values = declared = largest = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            values += column.num_values
            declared += column.total_uncompressed_size
            if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") and column.has_dictionary_page:
                largest = max(largest, column.total_uncompressed_size)
    if 8 * values > allowed or declared > allowed:
        raise TableError(
            f"it declares {values:,} values of {declared:,} bytes; a file of {size:,} bytes may take {allowed:,}"
        )
    return max(1, min(_BATCH, _LARGEST_BATCH // max(1, largest)))
