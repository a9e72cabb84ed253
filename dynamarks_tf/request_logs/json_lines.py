"""Request logs as text, one JSON object a line:

    {"inputs": [[0.1, 0.2], [0.3, 0.4]], "outputs": [[0.9, 0.1], [0.2, 0.8]], "client": "alice", "time": 1767323045.5}

- `inputs` (required): the rows that were asked, always with the batch axis, as in `instances` of the REST interface.
  An object from input name to rows for a model with several inputs.
- `outputs`: the answers, as many rows; an object from output name to rows for a model with several outputs.
- `client`: who asked, a string.
- `time`: when, in seconds since 1970.
- `model`: the name of the model that was asked.
- `version`: the version of it that answered, a whole number.

Missing fields and `null` mean: not recorded. Others are ignored, and so are empty lines.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import Array, LogEntry, TruncatedError, UnusableError

BUFFER = 2**20  # bytes


def read(path: Path, size: int, *, dtype: str = "float32") -> Iterator[LogEntry]:
    """Reads a file of JSON lines.

    Args:
        path: the file.
        size: how many bytes of it to read.
        dtype: the type of the inputs, which JSON does not tell; answers are float32.

    Raises:
        TruncatedError: the last line is not whole.
        LogError: a line is no JSON object, or a field is of the wrong type.
    """
    offset = 0
    with path.open("rb", buffering=BUFFER) as file:
        while offset < size:
            line = file.readline(size - offset)
            try:
                fields = _parse(line)
            except (ValueError, RecursionError) as error:
                raise _broken(path, offset, line, error) from error
            if fields is not None:
                yield JsonRecord(
                    path,
                    offset,
                    client=fields.get("client"),
                    time=fields.get("time"),
                    model=fields.get("model"),
                    version=fields.get("version"),
                    fields=fields,
                    dtype=dtype,
                )
            offset += len(line)


@dataclasses.dataclass(frozen=True)
class JsonRecord(LogEntry):
    """One line.

    Attributes:
        fields: the JSON object.
        dtype: the type of the inputs.
    """

    fields: dict[str, Any]
    dtype: str

    def inputs(self, name: str | None) -> Array:
        return self._array("inputs", name, self.dtype)

    def answers(self, name: str | None) -> Array:
        return self._array("outputs", name, "float32")

    def _array(self, field: str, name: str | None, dtype: str) -> Array:
        rows = self.fields.get(field)
        if rows is None:
            raise UnusableError(f'it has no "{field}"')
        if isinstance(rows, dict):
            if name is None and len(rows) == 1:
                (name,) = rows
            if name not in rows:
                wanted = f"not {name!r}" if name else f"say which with {field[:-1]}="
                raise UnusableError(f"its {field} are: {', '.join(sorted(rows)) or 'none'}; {wanted}")
            rows = rows[name]
        try:
            return np.array(rows, dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise UnusableError(f'its "{field}" are no array of {dtype}: {error}') from error


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns the fields of a line, `None` if it is empty.

    Raises:
        ValueError: the line is something else.
    """
    if not line.strip():
        return None
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    for name, kinds in (("client", str), ("model", str), ("version", int), ("time", (int, float))):
        value = fields.get(name)
        if not isinstance(value, (kinds, type(None))) or isinstance(value, bool):
            raise ValueError(f'"{name}" is {value!r}')
    return fields


def _broken(path: Path, offset: int, line: bytes, error: Exception) -> LogError:
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) and not line.endswith(b"\n"):
        return TruncatedError(f"{path}: the last line, at offset {offset}, is cut off and is skipped")
    return LogError(f"{path}: the line at offset {offset} is corrupt: {error}")
