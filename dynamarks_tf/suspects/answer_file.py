"""A file of answers as a suspect: the other party wrote down its model's answers. Formats: docs/suspects.md."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import archives, tables
from dynamarks_tf._support.digests import query_digest
from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects.answer_forms import as_array, is_structured
from dynamarks_tf.suspects.base import not_installed
from dynamarks_tf.suspects.batches import brief, closed, refusal
from dynamarks_tf.suspects.queries import QuerySource

Array = npt.NDArray[Any]
Columns = dict[str, Any]  # by name, one value for each answer

ANSWERS, CLASSES, NUMBER, DIGEST = "answers", "classes", "query", "query_sha256"

_BATCH = 256


class AnswerFileSuspect:
    """A file of answers. Each is looked up by the digest of its input, so no answer is taken for that to another input.

    Args:
        path: a `.npz`, `.csv`, `.parquet` or `.jsonl` file.
        queries: all inputs that were answered. Answers without digests are in their order, or give their numbers. Each
            of these inputs must have an answer, and no second one that differs.

    Attributes:
        description: the path, for the report.
        input_shape: `None`: the file does not tell.
        classes: what the columns of the answers stand for, if the file tells.

    Raises:
        ArgumentError: `queries` is needed and not given.
        SuspectError: the file cannot be read, or its answers and the inputs do not go together.

    Example:
        >>> AnswerFileSuspect("answers.csv", ArrayQueries(images)).predict(images[:3]).shape
        (3, 10)
    """

    input_shape: tuple[int | None, ...] | None = None

    def __init__(self, path: str | os.PathLike[str], queries: QuerySource | None = None) -> None:
        self.description = str(Path(path))
        columns = _read(Path(path))
        numbers, digests = columns.pop(NUMBER, None), columns.pop(DIGEST, None)
        try:
            self._answers, self.classes = _answers(columns)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise SuspectError(f"{path} cannot be read as a file of answers: {brief(error)}") from error
        asked = None if queries is None else _digests(queries)
        if digests is None:
            digests = self._digests_by_number(numbers, asked)
        self._rows: dict[str, int] | None = self._by_digest([str(digest) for digest in digests])
        missing = [number for number, digest in enumerate(asked or ()) if digest not in self._rows]
        if missing:
            raise SuspectError(
                f"{path} does not answer all of the {len(asked or ())} queries: {len(missing)} are missing, the first "
                f"is number {missing[0]}, counted from 0. Give the queries that were answered, of the same type."
            )

    def predict(self, batch: Array) -> Array:
        """Looks up the answers to one batch."""
        if self._rows is None:
            raise closed(self.description)
        digests = [query_digest(batch[row : row + 1]) for row in range(len(batch))]
        unknown = next((row for row, digest in enumerate(digests) if digest not in self._rows), None)
        if unknown is not None:
            raise refusal(self.description, batch, f"row {unknown} of it is not among the inputs that were answered")
        return np.asarray(self._answers[[self._rows[digest] for digest in digests]])

    def close(self) -> None:
        """Releases the answers."""
        self._rows = None

    def _digests_by_number(self, numbers: Iterable[Any] | None, asked: list[str] | None) -> list[str]:
        """The digests of the inputs that the answers belong to, from their numbers or their order."""
        count = len(self._answers)
        if asked is None:
            raise ArgumentError(
                f"{self.description} holds its answers in the order or by the number of the queries. Give these "
                f"queries: queries=..., or add the column {DIGEST!r}."
            )
        if numbers is None:
            if count != len(asked):
                raise SuspectError(
                    f"{self.description} holds {count} answers, and there are {len(asked)} queries. Give exactly the "
                    f"queries that were answered, or number the answers in a column {NUMBER!r}."
                )
            return asked
        try:
            chosen = [int(str(number)) for number in numbers]
        except ValueError as error:
            raise SuspectError(f"{self.description}: {NUMBER!r} must hold whole numbers: {brief(error)}") from error
        for number in chosen:
            if not 0 <= number < len(asked):
                raise SuspectError(
                    f"{self.description} answers query {number}, and the {len(asked)} queries have the numbers 0 to "
                    f"{len(asked) - 1}."
                )
        if len(set(chosen)) < count:
            twice = next(number for number, times in collections.Counter(chosen).items() if times > 1)
            raise SuspectError(f"{self.description} answers query {twice} more than once. Keep one of the answers.")
        return [asked[number] for number in chosen]

    def _by_digest(self, digests: list[str]) -> dict[str, int]:
        """Row of the answer to each input."""
        if len(digests) != len(self._answers):
            raise SuspectError(f"{self.description} holds {len(self._answers)} answers to {len(digests)} queries.")
        rows: dict[str, int] = {}
        for row, digest in enumerate(digests):
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise SuspectError(
                    f"{self.description}: {digest!r} is not a SHA-256 digest of 64 lower-case hexadecimal digits."
                )
            first = rows.setdefault(digest, row)
            if not _same(self._answers[first], self._answers[row]):
                raise SuspectError(
                    f"{self.description} answers the same input differently in rows {first} and {row}, counted from 0. "
                    "Remove one of them from queries and answers."
                )
        return rows


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping):
        return bool(first == second)
    return bool(first.tobytes() == second.tobytes())


def _digests(queries: QuerySource) -> list[str]:
    return [query_digest(batch[row : row + 1]) for batch in queries.batches(_BATCH) for row in range(len(batch))]


def _answers(columns: Columns) -> tuple[Array, tuple[Any, ...] | None]:
    """Answers of shape `(n, C)` or `(n,)`, and what their columns stand for.

    Raises:
        ValueError: they have another shape.
    """
    classes = columns.pop(CLASSES, None)
    if ANSWERS not in columns:  # a column for each class
        if not columns:
            raise ValueError(f"there is no column {ANSWERS!r}, and none for a class")
        classes = list(columns)
        table = np.array([[float(value) for value in column] for column in columns.values()])
        return table.T.copy(), _numbers_if_possible(classes)
    if len(columns) > 1:
        others = ", ".join(sorted(set(columns) - {ANSWERS}))
        raise ValueError(f"it has {ANSWERS!r} and other columns ({others}); expected one or the other")
    values = columns[ANSWERS]
    answers = values if isinstance(values, np.ndarray) else as_array(values, len(values))
    if is_structured(answers) and classes is None:
        return answers, None
    if answers.dtype == object or answers.ndim not in (1, 2):
        raise ValueError(f"{ANSWERS!r} must hold one label, or equally many numbers, for each query")
    return answers, None if classes is None else _numbers_if_possible(list(classes))


def _numbers_if_possible(names: list[Any]) -> tuple[Any, ...]:
    texts = [str(name) for name in names]
    return tuple(int(text) for text in texts) if all(text.isdecimal() for text in texts) else tuple(texts)


# Readers: each returns columns by name.


def _read(path: Path) -> Columns:
    try:
        return READERS[path.suffix](path)
    except SuspectError:
        raise
    except Exception as error:  # what a damaged file raises depends on the damaged part
        raise SuspectError(f"{path} cannot be read as a file of answers: {brief(error)}") from error


def _read_npz(path: Path) -> Columns:
    with archives.Archive(path) as archive:
        columns: Columns = dict(archive.arrays(archives.NUMBERS + archives.TEXTS))
    if ANSWERS not in columns:
        raise ValueError(f"it holds the arrays {', '.join(columns) or '(none)'}; expected one called {ANSWERS!r}")
    return columns


def _read_csv(path: Path) -> Columns:
    rows = tables.within(tables.csv_rows(path), path)
    names = next(rows)
    if len(set(names)) < len(names):
        raise ValueError(f"its header names a column twice: {', '.join(names)}")
    columns: Columns = _by_column(names, rows)
    if ANSWERS in columns:
        columns[ANSWERS] = list(_numbers_if_possible(columns[ANSWERS]))
    return columns


def _read_parquet(path: Path) -> Columns:
    rows = tables.within(tables.parquet_rows(path), path)
    try:
        return _by_column(next(rows), rows)
    except ImportError as error:
        raise not_installed("pyarrow", "parquet", str(path)) from error


def _read_json_lines(path: Path) -> Columns:
    rows = list(tables.within(tables.json_rows(path), path))
    names = rows[0].keys() if rows else set()
    for number, row in enumerate(rows, 1):
        if row.keys() != names or not names:
            raise ValueError(f"object {number} does not have the same entries as the first: {', '.join(names)}")
    return {name: [row[name] for row in rows] for name in names}


def _by_column(names: list[str], rows: Iterable[list[Any]]) -> Columns:
    kept = list(rows)
    return {name: [row[index] for row in kept] for index, name in enumerate(names)}


READERS: dict[str, Callable[[Path], Columns]] = {
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
}
