"""The signature by which a served model is asked: one input, one output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.batches import Shape, fit_shape, fit_type, several_inputs

Array = npt.NDArray[Any]

PROBABILITIES = "probabilities"

_NUMPY_TYPES = {
    "DT_HALF": "float16",
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_INT8": "int8",
    "DT_INT16": "int16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_UINT16": "uint16",
    "DT_UINT32": "uint32",
    "DT_UINT64": "uint64",
    "DT_BOOL": "bool",
    "DT_STRING": "object",
}


@dataclass(frozen=True)
class SuspectSignature:
    """How to ask a served model.

    Attributes:
        who: description of the suspect, for messages.
        input: alias of the input.
        shape: of one input without the batch axis; `None` if not known.
        dtype: type of the input; `object` for text.
        output: alias of the output that is read.
        outputs: aliases of all outputs.
    """

    who: str
    input: str
    shape: Shape | None
    dtype: np.dtype[Any]
    output: str
    outputs: tuple[str, ...]

    def fit(self, batch: npt.ArrayLike) -> Array:
        """Checks the shape of a batch and brings it into the type to send.

        Raises:
            SuspectError: shape or values do not fit.
        """
        return fit_type(fit_shape(batch, self.shape, self.who), self.dtype, self.who)


def pick(who: str, signatures: Mapping[str, Any], name: str) -> Any:
    """Takes a signature by its name.

    Raises:
        SuspectError: there is none of that name.
    """
    if name not in signatures:
        raise SuspectError(f"{who} has no signature {name!r}; it has: {', '.join(sorted(signatures)) or 'none'}.")
    return signatures[name]


def choose_signature(
    who: str,
    inputs: Mapping[str, tuple[tuple[int | None, ...] | None, np.dtype[Any]]],
    outputs: Iterable[str],
    output: str | None,
) -> SuspectSignature:
    """Picks input and output of a signature.

    Args:
        who: description of the suspect.
        inputs: by alias, shape with the batch axis (`None` if the rank is unknown) and type.
        outputs: aliases of the outputs.
        output: the alias to read. `None`: the one called `probabilities`, else the only one.

    Returns:
        The signature.

    Raises:
        SuspectError: there are several inputs, or it is not clear which output to read.
    """
    if len(inputs) != 1:
        raise several_inputs(who, inputs)
    ((name, (shape, dtype)),) = inputs.items()
    names = tuple(sorted(outputs))
    default = PROBABILITIES if PROBABILITIES in names else names[0] if len(names) == 1 else None
    chosen = default if output is None else output
    if chosen not in names:
        problem = "it is not clear which to read" if output is None else f"none is called {output!r}"
        raise SuspectError(f"{who} has the outputs {', '.join(names)}; {problem}. Name one: output=...")
    return SuspectSignature(who, name, shape[1:] if shape else None, dtype, chosen, names)


def numpy_type(name: str, who: str) -> np.dtype[Any]:
    """Translates the name of a TensorFlow type, such as DT_FLOAT.

    Raises:
        SuspectError: the type has no counterpart in NumPy.
    """
    if name not in _NUMPY_TYPES:
        raise SuspectError(f"{who} takes inputs of type {name}; accepted are {', '.join(_NUMPY_TYPES)}.")
    return np.dtype(_NUMPY_TYPES[name])
