"""What verification needs of a suspect: one method that answers a batch."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

Array = npt.NDArray[Any]


@runtime_checkable
class Suspect(Protocol):
    """A model put to the test, wherever it runs.

    A suspect that knows what the columns of its answers stand for says so by another attribute, `classes`: a tuple of
    the owner's class indices, or of names. `verify` puts the columns into the owner's order by it.

    Attributes:
        description: what was tested, for the report: a file name, an address. Never holds credentials.
        input_shape: shape of one input without the batch axis, `None` for unknown axes; `None` when not known.
    """

    description: str
    input_shape: tuple[int | None, ...] | None

    def predict(self, batch: Array) -> Array:
        """Answers one batch.

        Args:
            batch: inputs, shape `(n, ...)`, as the owner model takes them.

        Returns:
            The answers as the suspect gives them, normally probabilities of shape `(n, C)`. Nothing is checked or
            repaired here: that is the work of `verify`, the same for every kind of suspect.

        Raises:
            SuspectError: the suspect could not be asked, with what to do about it.
        """
        ...

    def close(self) -> None:
        """Releases connections and memory. May be called twice."""
        ...
