"""What a request log holds, whatever its format: requests with inputs, answers, a client and a time."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dynamarks_tf.errors import LogError

Array = npt.NDArray[Any]


class TruncatedError(LogError):
    """The last record of a file ends in the middle, as after a crash; all records before it are whole."""


class UnusableError(LogError):
    """A record is whole, but is not a request with one array of inputs; the message says what it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class LoggedRequest:
    """One request, decoded.

    Attributes:
        inputs: the inputs, shape `(n, ...)`.
        answers: the answers as they were given, shape `(n, C)` for probabilities; `None` if they were not asked for.
        client: who asked, `None` if that was not recorded.
        time: seconds since 1970, `None` if that was not recorded.
        model: the name of the model that was asked, `None` if that was not recorded.
        version: the version of it that answered, `None` if that was not recorded.
    """

    inputs: Array
    answers: Array | None = None
    client: str | None = None
    time: float | None = None
    model: str | None = None
    version: int | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, start: int, stop: int) -> LoggedRequest:
        """Returns a part of the request, without copying."""
        if start <= 0 and stop >= len(self):
            return self
        answers = None if self.answers is None else self.answers[start:stop]
        return dataclasses.replace(self, inputs=self.inputs[start:stop], answers=answers)


@dataclasses.dataclass(frozen=True, eq=False)
class LoggedBatch:
    """Rows of consecutive requests.

    Attributes:
        inputs: shape `(n, ...)`.
        answers: shape `(n, C)` for probabilities.
    """

    inputs: Array
    answers: Array


@dataclasses.dataclass(frozen=True)
class LogEntry(abc.ABC):
    """One request as it stands in a file; inputs and answers are decoded on demand.

    Attributes:
        path: the file.
        offset: where in the file the record begins, in bytes (in an `.npz` file: the number of its first row).
        client: who asked, `None` if that was not recorded.
        time: seconds since 1970, `None` if that was not recorded.
        model: the name of the model that was asked, `None` if that was not recorded.
        version: the version of it that answered, `None` if that was not recorded.
    """

    path: Path
    offset: int
    client: str | None
    time: float | None
    model: str | None
    version: int | None

    @property
    def place(self) -> str:
        """Where the record stands, for messages."""
        return f"{self.path}, offset {self.offset}"

    @abc.abstractmethod
    def inputs(self, name: str | None) -> Array:
        """Returns the inputs.

        Args:
            name: which input, if the model has several.

        Raises:
            UnusableError: there is none of that name, or there are several and `name` is `None`.
        """

    @abc.abstractmethod
    def answers(self, name: str | None) -> Array:
        """Returns the answers.

        Args:
            name: which output, if the model has several.

        Raises:
            UnusableError: there is none of that name, or there are several and `name` is `None`.
        """


@dataclasses.dataclass(frozen=True)
class UnreadableRecord(LogEntry):
    """A whole record of which nothing is known, not even who asked: a client can send what no reader takes.

    Attributes:
        problem: what is wrong with it.
    """

    problem: str

    def inputs(self, name: str | None) -> Array:
        raise UnusableError(self.problem)

    def answers(self, name: str | None) -> Array:
        raise UnusableError(self.problem)


def unreadable(path: Path, offset: int, problem: str) -> UnreadableRecord:
    """Makes such a record."""
    return UnreadableRecord(path, offset, client=None, time=None, model=None, version=None, problem=problem)
