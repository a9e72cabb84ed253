"""Request logs as text, one JSON object a line:

    {"inputs": [[0.1, 0.2], [0.3, 0.4]], "client": "alice", "time": 1767323045.5, "model": "clf", "version": 3}

- `inputs` (required): the rows that were asked, always with the batch axis, as in `instances` of the REST interface.
  An object from input name to rows for a model with several inputs. Text is a string, bytes are {"b64": "..."}.
- `client`: the client's name, a string.
- `time`: when, in seconds since 1970.
- `model`: the name of the model that was asked.
- `version`: the version of it that answered, a whole number.

Missing fields and `null` mean: not recorded. Other fields, such as the answers, are ignored, and so are empty lines.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterator
from typing import Any

from dynamarks_tf._support.storage import StoredFile
from dynamarks_tf.request_logs.entries import Array, LogEntry, LogFile, UnusableError, input_name
from dynamarks_tf.request_logs.json_text import is_base64, to_array
from dynamarks_tf.request_logs.lines import parse, read_lines, unreadable

_KINDS: dict[str, tuple[type, ...]] = {"client": (str,), "model": (str,), "version": (int,), "time": (int, float)}


class JsonLinesFile(LogFile):
    """A file of JSON lines.

    Args:
        file: the file.
        dtype: the type of the inputs, which JSON does not state.
    """

    def __init__(self, file: StoredFile, dtype: str = "float32") -> None:
        super().__init__(file)
        self._dtype = dtype

    def entries(self) -> Iterator[LogEntry]:
        """Reads the file.

        Raises:
            TruncatedError: the last line is not whole.
        """
        for offset, line in read_lines(self.file):
            try:
                yield self._entry(offset, line)
            except ValueError as error:
                yield unreadable(self.file, offset, line, error)

    def _entry(self, offset: int, line: bytes | None) -> JsonEntry:
        """The entry in a line.

        Raises:
            ValueError: it is no JSON object, or a field is of the wrong type.
        """
        fields = parse(line, is_strict=True)
        for name, kinds in _KINDS.items():
            value = fields.get(name)
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise ValueError(f'"{name}" is {reprlib.repr(value)}')
        return JsonEntry(
            file=self.file,
            offset=offset,
            client=fields.get("client") or None,
            time=_seconds(fields.get("time")),
            model=fields.get("model"),
            version=fields.get("version"),
            rows=fields.get("inputs"),
            dtype=self._dtype,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonEntry(LogEntry):
    """One line.

    Attributes:
        rows: the value of `inputs`.
        dtype: the type of the inputs.
    """

    rows: Any
    dtype: str

    def inputs(self, name: str | None) -> Array:
        if self.rows is None:
            raise UnusableError('it has no "inputs"')
        rows = self.rows[input_name(self.rows, name)] if _is_named(self.rows) else self.rows
        try:
            return to_array(rows, self.dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise UnusableError(f'its "inputs" are no array of {self.dtype}: {error}') from error


def _seconds(time: float | None) -> float | None:
    """A time as a float.

    Raises:
        ValueError: it is a whole number too large for one.
    """
    try:
        return None if time is None else float(time)
    except OverflowError:
        raise ValueError('"time" is too large') from None


def _is_named(rows: Any) -> bool:
    return isinstance(rows, dict) and not is_base64(rows)
