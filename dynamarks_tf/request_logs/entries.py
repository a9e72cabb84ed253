"""What a log holds, whatever its format: files of entries, each one request with inputs, a client and a time."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeGuard

import numpy.typing as npt

from dynamarks_tf._support.storage import StoredFile
from dynamarks_tf.errors import LogError
from dynamarks_tf.foreign_text import escaped

Array = npt.NDArray[Any]


class TruncatedError(LogError):
    """The end of a file is missing, as after a crash; all entries before it are whole."""


class UnusableError(LogError):
    """An entry is whole, but is not a request with one array of inputs; the message names the problem."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogEntry(abc.ABC):
    """One request as it stands in a file; its inputs are decoded on demand.

    Attributes:
        file: the file.
        offset: where the entry begins, in bytes of the unpacked file (in an `.npz` file: the number of its first row).
        client: the name of the client, `None` if that was not recorded. Clients may choose it: control and format
            characters in it become escapes. So do those of `model`.
        time: seconds since 1970, `None` if that was not recorded.
        model: the name of the model that was asked, `None` if that was not recorded.
        version: the version of it that answered, `None` if that was not recorded.
    """

    file: StoredFile
    offset: int
    client: str | None = None
    time: float | None = None
    model: str | None = None
    version: int | None = None

    def __post_init__(self) -> None:
        for name in ("client", "model"):
            value = getattr(self, name)
            if value is not None and (plain := escaped(value)) != value:
                object.__setattr__(self, name, plain)

    @property
    def place(self) -> str:
        """Where the entry stands, for messages."""
        return f"{self.file}, offset {self.offset}"

    @abc.abstractmethod
    def inputs(self, name: str | None) -> Array:
        """Returns the inputs.

        Args:
            name: which input, if the model has several.

        Raises:
            UnusableError: there is none of that name, or there are several and `name` is `None`.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnreadableEntry(LogEntry):
    """A whole entry of which nothing is known, not even its client, because no parser takes it.

    Attributes:
        problem: what is wrong with it.
    """

    problem: str

    def inputs(self, name: str | None) -> Array:
        raise UnusableError(self.problem)


class LogFile(abc.ABC):
    """One file of a log, which can be read any number of times.

    Args:
        file: the file. It is read up to the size that it had when the log was opened, so that every pass yields the
            same.
    """

    def __init__(self, file: StoredFile) -> None:
        self.file = file

    @abc.abstractmethod
    def entries(self) -> Iterator[LogEntry]:
        """Reads the file from its first entry to its last.

        Raises:
            TruncatedError: the end of the file is missing.
            LogError: the file is damaged.
            StorageError: the file cannot be read or unpacked; a `CutOffError` where its end is missing.
        """

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the stored bytes, 64 hexadecimal digits.

        Raises:
            LogError: the file cannot be read.
        """
        try:
            return self.file.sha256()
        except OSError as error:
            raise LogError(str(error)) from error

    @functools.cached_property
    def start_time(self) -> float | None:
        """The first time in the file; `None` if it has none, or is damaged before it."""
        try:
            return first_time(entry.time for entry in self.entries())
        except (LogError, OSError):  # reported by the pass that comes to it
            return None


def first_time(times: Iterable[float | None]) -> float | None:
    """Returns the first time that is one, `None` if none is."""
    return next((time for time in times if is_time(time)), None)


def is_time(time: float | None) -> TypeGuard[float]:
    """Whether a time was recorded; JSON and arrays can also hold NaN and infinity."""
    return time is not None and -math.inf < time < math.inf


def input_name(names: Collection[str], wanted: str | None) -> str:
    """Returns the name of the wanted input, of the only one if `wanted` is `None`.

    Args:
        names: the names of a request's inputs.
        wanted: the name asked for.

    Raises:
        UnusableError: there is none of that name, or `wanted` is `None` and there is not exactly one.
    """
    if wanted is None and len(names) == 1:
        return next(iter(names))
    if wanted is None or wanted not in names:
        known = ", ".join(sorted(names)) or "none"
        raise UnusableError(f"its inputs are: {known}; {f'not {wanted!r}' if wanted else 'say which with input='}")
    return wanted
