"""Reads a Parquet file of an unknown maker, in a process of its own: Arrow ends the process over some damaged files.

Run as a program, it writes the names of the columns and then each row as one line of JSON. The last line is
`{"end": ...}`, with the reason if the file is refused, otherwise with an empty text. Nothing of this package is used.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from typing import Any

BATCH = 1024  # rows
LARGEST_BATCH = 2**26  # bytes, about
MOST_COLUMNS = 2**17
MOST_MEMORY = 2**32  # bytes of addresses, of which Arrow reserves more than it uses
MOST_SECONDS = 600  # of the processor


def main(path: str, allowed: int) -> None:
    """Writes a file's rows to the standard output.

    Args:
        path: the file.
        allowed: how many bytes its values may take.
    """
    _limit()
    try:
        _write_rows(path, allowed)
    except MemoryError:
        _write({"end": "it takes too much memory"})
    except Exception as error:  # of Arrow, whose errors are of many types
        _write({"end": str(error) or type(error).__name__})
    else:
        _write({"end": ""})
    sys.stdout.flush()


def _limit() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # there are none on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def _write_rows(path: str, allowed: int) -> None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        rows = _batch_rows(table.metadata, allowed)
        _write(list(table.schema_arrow.names))
        for batch in table.iter_batches(rows, use_threads=False):
            if batch.nbytes > LARGEST_BATCH:
                raise ValueError(f"{len(batch):,} of its rows take {batch.nbytes:,} bytes")
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                _write(row)


def _batch_rows(metadata: Any, allowed: int) -> int:
    """How many rows to decode at once; runs of equal values and dictionaries can make much of a few bytes.

    Raises:
        ValueError: the file declares too much.
    """
    if metadata.num_columns > MOST_COLUMNS:
        raise ValueError(f"it has {metadata.num_columns:,} columns; at most {MOST_COLUMNS:,} are accepted")
    values = declared = largest = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            values += column.num_values
            declared += column.total_uncompressed_size
            if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") and column.has_dictionary_page:
                largest = max(largest, column.total_uncompressed_size)
    if 8 * values > allowed or declared > allowed:
        raise ValueError(f"it declares {values:,} values of {declared:,} bytes; at most {allowed:,} are accepted")
    return max(1, min(BATCH, LARGEST_BATCH // max(1, largest)))


def _write(line: Any) -> None:
    sys.stdout.write(json.dumps(line, default=_as_json))
    sys.stdout.write("\n")


def _as_json(value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
