"""The signature by which a served model is called: one input, one output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.batches import Shape, brief, fit_shape, fit_type, several_inputs

Array = npt.NDArray[Any]

PROBABILITIES = "probabilities"
DEFAULT_SIGNATURE = "serving_default"

_USUAL_OUTPUTS = (PROBABILITIES, "output_probability", "predict_proba")  # Keras here, scikit-learn as ONNX, MLServer
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
    """How to call a served model.

    Attributes:
        description: description of the suspect, for messages.
        input: alias of the input.
        shape: shape of one input without the batch axis; `None` if unknown.
        dtype: type of the input; `object` for text.
        output: alias of the output that is read.
        outputs: aliases of all outputs.
    """

    description: str
    input: str
    shape: Shape | None
    dtype: np.dtype[Any]
    output: str
    outputs: tuple[str, ...]

    def fit(self, batch: npt.ArrayLike) -> Array:
        """Checks the shape of a batch and converts it to the type to send.

        Raises:
            SuspectError: shape or values do not fit the signature.
        """
        return fit_type(fit_shape(batch, self.shape, self.description), self.dtype, self.description)


def choose_name(description: str, signatures: Iterable[str], name: str | None) -> str:
    """Picks a signature.

    Args:
        description: description of the suspect.
        signatures: the names of the model's signatures.
        name: the one to call. `None`: the only one, or `serving_default` if there are several.

    Raises:
        SuspectError: there is none of that name, or it is not clear which to call.
    """
    names = sorted(each for each in signatures if not each.startswith("__"))  # TensorFlow's own start so
    chosen = names[0] if name is None and len(names) == 1 else name or DEFAULT_SIGNATURE
    if chosen not in names:
        advice = " Name one: signature=... (--signature)." if names else ""
        raise SuspectError(f"{description} has no signature {chosen!r}; it has: {', '.join(names) or 'none'}.{advice}")
    return chosen


def choose_signature(
    description: str,
    inputs: Mapping[str, tuple[tuple[int | None, ...] | None, np.dtype[Any]]],
    outputs: Iterable[str],
    output: str | None,
) -> SuspectSignature:
    """Picks input and output of a signature.

    Args:
        description: description of the suspect.
        inputs: by alias, shape with the batch axis (`None` if the rank is unknown) and type.
        outputs: aliases of the outputs.
        output: the alias to read. `None`: the only one, or the one called `probabilities`, `output_probability` or
            `predict_proba` if there are several.

    Returns:
        The signature.

    Raises:
        SuspectError: there are several inputs, or it is not clear which output to read.
    """
    if len(inputs) != 1:
        raise several_inputs(description, inputs)
    ((name, (shape, dtype)),) = inputs.items()
    names = tuple(sorted(outputs))
    return SuspectSignature(
        description, name, shape[1:] if shape else None, dtype, choose_output(description, names, output), names
    )


def choose_output(description: str, outputs: Iterable[str], output: str | None) -> str:
    """Picks an output of a signature.

    Args:
        description: description of the suspect.
        outputs: aliases of the outputs.
        output: the alias to read. `None`: as for `choose_signature`.

    Raises:
        SuspectError: it is not clear which output to read.
    """
    names = sorted(outputs)
    usual = names if len(names) == 1 else [name for name in _USUAL_OUTPUTS if name in names]
    chosen = output if output is not None or not usual else usual[0]
    if chosen not in names:
        problem = "it is not clear which to read" if output is None else f"none is called {output!r}"
        raise SuspectError(
            f"{description} has the outputs {brief(', '.join(names))}; {problem}. Name one: output=... (--output)."
        )
    return chosen


def numpy_type(name: str, description: str) -> np.dtype[Any]:
    """The NumPy type of a TensorFlow type, from its name, such as DT_FLOAT.

    Raises:
        SuspectError: the type has no counterpart in NumPy.
    """
    if name not in _NUMPY_TYPES:
        raise SuspectError(f"{description} takes inputs of type {name}; accepted are {', '.join(_NUMPY_TYPES)}.")
    return np.dtype(_NUMPY_TYPES[name])
