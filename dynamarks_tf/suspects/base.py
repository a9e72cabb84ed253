"""The interface that `verify` needs of a suspect: one method that answers a batch."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from dynamarks_tf.errors import SuspectError

Array = npt.NDArray[Any]


@runtime_checkable
class Suspect(Protocol):
    """A model under test, wherever it runs.

    A suspect that knows what the columns of its answers stand for has one more attribute, `classes`: a tuple of the
    owner's class indices, or of names. `verify` uses it to put the columns into the owner's order.

    Attributes:
        description: what was tested, for the report: a file name, an address. Never holds credentials.
        input_shape: shape of one input without the batch axis, `None` for unknown axes; `None` if unknown.
    """

    description: str
    input_shape: tuple[int | None, ...] | None

    def predict(self, batch: Array) -> Array:
        """Answers one batch.

        Args:
            batch: inputs, shape `(n, ...)`, as the owner model takes them.

        Returns:
            The answers as the suspect gives them, normally probabilities of shape `(n, C)`. They are neither checked
            nor repaired here: `verify` does that in the same way for every kind of suspect.

        Raises:
            SuspectError: the suspect could not answer; the message tells what to do about it.
        """
        ...

    def close(self) -> None:
        """Releases connections and memory. May be called twice."""
        ...


def load(module: str, extra: str, description: str) -> Any:
    """Imports a heavy runtime that comes with an extra.

    Args:
        module: its full name.
        extra: the extra of this package that brings it.
        description: description of the suspect.

    Raises:
        SuspectError: it is not installed; the message tells how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise not_installed(module.partition(".")[0], extra, description) from error


def not_installed(package: str, extra: str, description: str) -> SuspectError:
    """Makes the error for a suspect that needs a package of an extra."""
    return SuspectError(
        f"{description} needs the package {package}, which is not installed: pip install 'dynamarks_tf[{extra}]'"
    )
