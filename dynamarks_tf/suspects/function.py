"""A function as a suspect, for all that the other adapters cannot reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.answer_forms import as_array
from dynamarks_tf.suspects.batches import closed, refusal

Array = npt.NDArray[Any]


class FunctionSuspect:
    """Any callable from a batch to answers.

    Args:
        function: takes inputs of shape `(n, ...)` and returns answers of shape `(n, C)`, as anything that
            `numpy.asarray` understands, or in one of the forms of `answer_forms`.
        description: its name in reports; by default that of the function.

    Example:
        >>> FunctionSuspect(lambda batch: torch_model(torch.from_numpy(batch)).softmax(-1).detach().numpy())
    """

    input_shape: tuple[int | None, ...] | None = None

    def __init__(self, function: Callable[[Array], Any], *, description: str | None = None) -> None:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self.description = description or f"function {name}"
        self._function: Callable[[Array], Any] | None = function

    def predict(self, batch: Array) -> Array:
        """Calls the function on one batch; an exception of the function is the cause of the `SuspectError`."""
        if self._function is None:
            raise closed(self.description)
        try:
            return as_array(self._function(batch), len(batch))
        except SuspectError:
            raise
        except Exception as error:
            raise refusal(self.description, batch, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Releases the function."""
        self._function = None
