"""Tables of vectors or text with labels: CSV and Parquet files. Read up to a bound, and said so."""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts
from dynamarks_tf.datasets.image_data import HELD_OUT, ImageData, balanced_split
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

LABEL_NAMES = ("label", "labels", "y", "target")
MAX_ROWS = 200_000
MAX_BYTES = 2**30
SUFFIXES = (".csv", ".parquet")
_SHOWN = 40
_BATCH = 1024


def load_table(
    path: str | os.PathLike[str],
    *,
    held_out: float = HELD_OUT,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    max_bytes: int = MAX_BYTES,
) -> ImageData:
    """Loads vectors or text with labels from a CSV file in UTF-8 or a Parquet file.

    The label column is the one named `label`, `labels`, `y` or `target`, otherwise the last. All other columns are
    numbers, which make vectors, or there is one other column, of text. Labels are class indices; names are numbered
    in sorted order. A Parquet file takes `pyarrow`.

    Args:
        path: the file. The first line of a CSV file names its columns.
        held_out: share of each class that becomes the test set.
        seed: of that choice.
        max_rows: most rows that are read; the rest of the file is left, and the source says so.
        max_bytes: the same for the bytes of the cells.

    Raises:
        DatasetError: the file cannot be read, or a cell is missing or neither a number nor a text where one belongs.

    Example:
        >>> load_table("flowers.csv").describe()
        "flowers: 120 training and 30 test vectors of 4, 3 classes, from flowers.csv (labels: column 'species', ...)"
    """
    file = Path(path)
    rows = _parquet_rows(file) if file.suffix == ".parquet" else _csv_rows(file)
    try:
        names, kept, is_whole = _bounded(rows, max_rows, max_bytes)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} cannot be read as {file.suffix[1:].upper()} in UTF-8: {error}") from error
    if len(names) < 2 or len(kept) < 2:
        raise DatasetError(
            f"{file} has {len(names)} columns and {len(kept)} rows; expected a label and one or more other columns, "
            "and two or more rows."
        )
    label, said = _label_column(file, names)
    others = [index for index in range(len(names)) if index != label]
    columns = [_column(file, names[index], [row[index] for row in kept]) for index in others]
    numbers, named = _label_values(file, names[label], [row[label] for row in kept])
    described = [f"labels: column {names[label]!a:.{_SHOWN}}, {said}"]
    described += ["class names numbered in sorted order"] if named else []
    described += [] if is_whole else [f"only the first {len(kept):,} rows were read"]
    if len(columns) == 1 and columns[0].dtype == object:
        inputs = columns[0]
    else:
        for index, column in zip(others, columns, strict=True):
            if column.dtype == object:
                raise DatasetError(
                    f"{file}: column {names[index]!a:.{_SHOWN}} holds text beside other columns. Encode it as "
                    "numbers, as the model takes it, or leave it out. A table of texts has one column beside "
                    "the labels."
                )
        with np.errstate(over="ignore"):  # refused in the next line
            inputs = np.stack(columns, axis=1).astype(np.float32)
        if not np.isfinite(inputs).all():
            raise DatasetError(f"{file} holds numbers that float32 cannot hold. Scale them as the model takes them.")
    training, tested = balanced_split(numbers, held_out, seed)
    described.append(f"{held_out:.0%} of each class held out, seed {seed}")
    source = f"{file} ({'; '.join(described)})"
    return ImageData(file.stem, source, inputs[training], numbers[training], inputs[tested], numbers[tested], named)


def _csv_rows(file: Path) -> Iterator[list[Any]]:
    with open(file, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        header = next(reader, [])
        if header and all(_is_number(name) for name in header):
            raise DatasetError(f"{file} starts with numbers; its first line must name the columns, such as a,b,label.")
        yield header
        for number, row in enumerate(reader, 1):
            if row and len(row) != len(header):
                raise DatasetError(f"{file}: row {number} has {len(row)} cells; its first line names {len(header)}.")
            if row:
                yield row


def _parquet_rows(file: Path) -> Iterator[list[Any]]:
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise DatasetError(
            f"{file} is a Parquet file, which takes pyarrow: pip install 'dynamarks_tf[parquet]'. Or use CSV."
        ) from error
    try:
        with parquet.ParquetFile(file) as table:
            yield list(table.schema_arrow.names)
            for batch in table.iter_batches(_BATCH):
                yield from (list(row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except (OSError, arrow.ArrowException) as error:
        raise DatasetError(f"{file} cannot be read as a Parquet file: {str(error)[:200]!a}") from error


def _bounded(rows: Iterator[list[Any]], max_rows: int, max_bytes: int) -> tuple[list[str], list[list[Any]], bool]:
    """The names of the columns, the first rows, and whether these are all."""
    names = [str(name) for name in next(rows, [])]
    kept: list[list[Any]] = []
    size = 0
    for row in rows:
        size += sum(len(cell) if isinstance(cell, (str, bytes)) else 8 for cell in row)
        if len(kept) == max_rows or size > max_bytes:
            return names, kept, False
        kept.append(row)
    return names, kept, True


def _label_column(file: Path, names: list[str]) -> tuple[int, str]:
    found = [index for index, name in enumerate(names) if name.strip().lower() in LABEL_NAMES]
    if len(found) > 1:
        raise DatasetError(
            f"{file} has several columns that could hold the labels: {', '.join(repr(names[i]) for i in found)}. Leave "
            "one."
        )
    return (found[0], "by its name") if found else (len(names) - 1, "the last")


def _column(file: Path, name: str, cells: list[Any]) -> Array:
    """A column as float64, or as `bytes` objects if it holds text."""
    empty = next((row for row, cell in enumerate(cells) if cell is None or cell != cell or cell == ""), None)
    if empty is not None:
        raise DatasetError(
            f"{file}: row {empty + 1} has no value in column {name!a:.{_SHOWN}}. Fill it as for the model, or "
            "leave the row out."
        )
    if all(_is_number(cell) for cell in cells):
        return np.array([float(cell) for cell in cells])
    try:
        return texts.as_bytes(np.array(cells, object))
    except ValueError as error:
        odd = next(cell for cell in cells if not isinstance(cell, (str, bytes)))
        raise DatasetError(
            f"{file}: column {name!a:.{_SHOWN}} holds {odd!a:.{_SHOWN}}; expected only numbers, or only text."
        ) from error


def _label_values(file: Path, name: str, cells: list[Any]) -> tuple[Array, tuple[str, ...]]:
    """Class indices, and the names of the classes if the labels are names."""
    column = _column(file, name, cells)
    if column.dtype == object:
        classes, positions = np.unique([str(text) for text in texts.decoded(column)], return_inverse=True)
        return positions.reshape(-1).astype(np.int64), tuple(str(each) for each in classes)
    return _class_indices(column, f"{file}: column {name!a:.{_SHOWN}}"), ()


def _class_indices(labels: Array, what: str) -> Array:
    """Class indices as int64 of shape `(n,)`.

    Raises:
        DatasetError: they are no whole numbers from 0 on, or one is absurdly large.
    """
    flat = labels.reshape(-1)
    if flat.dtype.kind not in "iufb" or not (flat == np.floor(flat)).all() or flat.min() < 0 or flat.max() >= MAX_ROWS:
        odd = next((each for each in flat.tolist() if not (_is_number(each) and 0 <= each == int(each))), flat.max())
        raise DatasetError(f"{what} holds labels such as {odd!a:.{_SHOWN}}; expected class indices from 0, or names.")
    return np.asarray(flat.astype(np.int64))


def _is_number(cell: Any) -> bool:
    if isinstance(cell, bytes):
        return False
    try:
        return bool(np.isfinite(float(cell)))
    except (TypeError, ValueError, OverflowError):
        return False
