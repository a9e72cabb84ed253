"""Tables of vectors or text with labels: CSV and Parquet files. Read up to a bound, and said so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import tables, texts
from dynamarks_tf.datasets.image_data import HELD_OUT, ImageData, balanced_split
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

LABEL_NAMES = ("label", "labels", "y", "target")
MAX_ROWS = 200_000
MAX_BYTES = 2**30
SUFFIXES = (".csv", ".parquet")
_MOST_COLUMNS = 10_000
_SHOWN = 40


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
        max_bytes: the same for the memory that the cells take.

    Raises:
        DatasetError: the file cannot be read, or a cell is missing or neither a number nor a text where one belongs.

    Example:
        >>> load_table("flowers.csv").describe()
        "flowers: 120 training and 30 test vectors of 4, 3 classes, from flowers.csv (labels: column 'species', ...)"
    """
    file = Path(path)
    try:
        rows = _parquet_rows(file) if file.suffix == ".parquet" else _csv_rows(file)
        names, kept, is_whole = _bounded(rows, max_rows, max_bytes)
    except (OSError, tables.TableError) as error:
        kind = "a Parquet file" if file.suffix == ".parquet" else "CSV in UTF-8"
        raise DatasetError(f"{file} cannot be read as {kind}: {error}") from error
    if not 2 <= len(names) <= _MOST_COLUMNS or len(kept) < 2:
        raise DatasetError(
            f"{file} has {len(names):,} columns and {len(kept):,} rows; expected labels and one or more other columns, "
            f"{_MOST_COLUMNS:,} at most, and two or more rows."
        )
    label = _label_column(file, names)
    columns = [_Column(file, name, list(cells)) for name, cells in zip(names, zip(*kept, strict=True), strict=True)]
    labels, class_names = columns.pop(label).as_labels()
    if len(columns) == 1 and not columns[0].is_numeric:
        inputs = columns[0].as_text()
    else:
        inputs = np.stack([column.as_numbers() for column in columns], axis=1)
    training, tested = balanced_split(labels, held_out, seed)
    described = [f"labels: column {_quoted(names[label])}"]
    described += ["class names numbered in sorted order"] if class_names else []
    described += [] if is_whole else [f"only the first {len(kept):,} rows were read"]
    described += [f"{held_out:.0%} of each class held out, seed {seed}"]
    source = f"{file} ({'; '.join(described)})"
    return ImageData(file.stem, source, inputs[training], labels[training], inputs[tested], labels[tested], class_names)


class _Column:
    """The cells of one column, each of them there, and what they can be taken for."""

    def __init__(self, file: Path, name: str, cells: list[Any]) -> None:
        self._what, self._cells = f"{file}: column {_quoted(name)}", cells
        empty = next((row for row, cell in enumerate(cells, 1) if cell is None or cell != cell or cell == ""), None)
        if empty is not None:
            raise DatasetError(
                f"{self._what} has no value in row {empty}. Fill it as for the model, or leave the row out."
            )
        self._odd = [row for row, cell in enumerate(cells) if not _is_number(cell)]

    @property
    def is_numeric(self) -> bool:
        """Whether more than half of the cells are numbers; the others are mistakes then."""
        return 2 * len(self._odd) < len(self._cells)

    def as_numbers(self) -> Array:
        """The column as float32."""
        if self._odd:
            row = self._odd[0]
            raise DatasetError(
                f"{self._what} holds {_quoted(self._cells[row])} in row {row + 1}; expected numbers. Encode it as the "
                "model takes it, or leave it out. Only a table of texts has text: one column beside the labels."
            )
        with np.errstate(over="ignore"):  # refused in the next line
            numbers = np.array([float(cell) for cell in self._cells]).astype(np.float32)
        if not np.isfinite(numbers).all():
            raise DatasetError(f"{self._what} holds numbers too large for float32. Scale them as the model takes them.")
        return numbers

    def as_text(self) -> Array:
        """The column as `bytes` objects in UTF-8."""
        try:
            found = texts.as_bytes(np.fromiter(self._cells, object, len(self._cells)))
            texts.decoded(found)
        except ValueError as error:
            raise DatasetError(f"{self._what} cannot be read as text: {error}.") from error
        return found

    def as_labels(self) -> tuple[Array, tuple[str, ...]]:
        """Class indices, and the names of the classes if the labels are names."""
        names: tuple[str, ...] = ()
        if self.is_numeric:
            numbers = np.array([float(cell) if _is_number(cell) else -1 for cell in self._cells])
            wrong = np.flatnonzero((numbers < 0) | (numbers >= MAX_ROWS) | (numbers % 1 != 0))
            if len(wrong):
                raise DatasetError(
                    f"{self._what} holds {_quoted(self._cells[wrong[0]])} in row {wrong[0] + 1}; expected class "
                    f"indices from 0, or names. Labels stand in a column named {' or '.join(LABEL_NAMES)}, otherwise "
                    "in the last."
                )
            labels = numbers.astype(np.int64)
        else:
            values = texts.decoded(self.as_text()).tolist()
            names = tuple(sorted(set(values)))
            positions = {name: position for position, name in enumerate(names)}
            labels = np.array([positions[value] for value in values])
        if labels.min() == labels.max():
            raise DatasetError(f"{self._what} holds the same label in each row; expected two or more classes.")
        return labels, names


def _csv_rows(file: Path) -> Iterator[list[Any]]:
    rows = tables.csv_rows(file)
    header = next(rows)
    if header and all(_is_number(name) for name in header):
        raise DatasetError(f"{file} starts with numbers; its first line must name the columns, such as a,b,label.")
    yield header
    yield from rows


def _parquet_rows(file: Path) -> Iterator[list[Any]]:
    try:
        yield from tables.parquet_rows(file)
    except ImportError as error:
        raise DatasetError(
            f"{file} is a Parquet file, which takes pyarrow: pip install 'dynamarks_tf[parquet]'. Or use CSV."
        ) from error


def _bounded(rows: Iterator[list[Any]], max_rows: int, max_bytes: int) -> tuple[list[str], list[list[Any]], bool]:
    """The names of the columns, the first rows, and whether these are all."""
    names = [str(name) for name in next(rows, [])]
    kept: list[list[Any]] = []
    size = 0
    for row in rows:
        size += tables.size_of(row)
        if len(kept) == max_rows or size > max_bytes or len(names) > _MOST_COLUMNS:
            return names, kept, False
        kept.append(row)
    return names, kept, True


def _label_column(file: Path, names: list[str]) -> int:
    found = [index for index, name in enumerate(names) if name.strip().lower() in LABEL_NAMES]
    if len(found) > 1:
        several = ", ".join(_quoted(names[index]) for index in found[:5])
        raise DatasetError(f"{file} has several columns that could hold the labels: {several}. Leave one.")
    return found[0] if found else len(names) - 1


def _is_number(cell: Any) -> bool:
    if isinstance(cell, bytes):
        return False
    try:
        return bool(np.isfinite(float(cell)))
    except (TypeError, ValueError, OverflowError):
        return False


def _quoted(value: Any) -> str:
    """Foreign text for a message: short, in ASCII."""
    return ascii(str(value)[:_SHOWN])
