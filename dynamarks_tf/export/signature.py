"""The names, shapes and types under which a Keras model is served."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError, ModelError

PROBABILITIES = "probabilities"
LOGITS = "logits"

# Names that Keras counts up within a process: they differ between two exports of the same script.
_AUTOMATIC_NAME = re.compile(r"(input_layer|keras_tensor)(_\d+)?")
_HALF_TYPES = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True)
class ServedInput:
    """One input of a served model.

    Attributes:
        alias: the name by which clients send it.
        shape: its shape; the first axis, the batch, is always unknown.
        dtype: the type the model computes with.
    """

    alias: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def served_dtype(self) -> str:
        """The type that clients send: half types travel as float32, because REST cannot carry them."""
        return "float32" if self.dtype in _HALF_TYPES else self.dtype

    @property
    def numpy_dtype(self) -> npt.DTypeLike:
        """The NumPy type of what clients send; text is an array of objects."""
        return np.dtype(object if self.dtype == "string" else self.served_dtype)


@dataclass(frozen=True)
class ServedInputs:
    """All inputs of a served model, and the structure in which the model takes them.

    Attributes:
        flat: the inputs, in the order of `keras.tree.flatten(structure)`.
        structure: the argument of the model's call: a single leaf, a list or a dict.
    """

    flat: tuple[ServedInput, ...]
    structure: Any

    def pack(self, tensors: list[Any]) -> Any:
        """Arranges flat tensors, one for each input, as the model takes them."""
        import keras

        return keras.tree.pack_sequence_as(self.structure, tensors)

    def arrays(self, given: npt.ArrayLike | Mapping[str, npt.ArrayLike], purpose: str) -> dict[str, npt.NDArray[Any]]:
        """Converts inputs to the served types.

        Args:
            given: inputs of shape `(n, ...)`, or a dict of them by alias.
            purpose: purpose of the inputs, for the messages.

        Returns:
            The inputs by alias.

        Raises:
            ArgumentError: names or shapes are not those that the model takes.
        """
        aliases = [spec.alias for spec in self.flat]
        by_alias = given if isinstance(given, Mapping) else {aliases[0]: given}
        if set(by_alias) != set(aliases):
            raise ArgumentError(f"The {purpose} inputs are {sorted(by_alias)}, the model takes {sorted(aliases)}.")
        arrays = {spec.alias: np.asarray(by_alias[spec.alias], spec.numpy_dtype) for spec in self.flat}
        for spec in self.flat:
            shape = arrays[spec.alias].shape
            if len(shape) != len(spec.shape) or any(
                axis not in (None, size) for axis, size in zip(spec.shape, shape, strict=True)
            ):
                raise ArgumentError(
                    f"The {purpose} input {spec.alias!r} has shape {shape}, the model takes {spec.shape}."
                )
        return arrays


def served_inputs(model: Any) -> ServedInputs:
    """Reads the inputs of a built Keras model.

    An input keeps its name, or its key where the model takes a dict. A name that Keras made up (`input_layer_3`,
    `keras_tensor_7`) becomes `inputs`, or `inputs_1`, `inputs_2`, ... in a model with several inputs, so that two
    exports of one model have the same names. Characters other than letters, digits and `_` become `_`.

    Args:
        model: a Sequential, functional or subclassed `keras.Model`.

    Returns:
        The inputs with their structure.

    Raises:
        ModelError: the shape of the inputs is not known, because the model was never built or called.
    """
    import keras

    structure = _input_structure(model)
    tensors = keras.tree.flatten(structure)
    names = list(structure) if isinstance(structure, dict) else [tensor.name for tensor in tensors]
    if isinstance(structure, dict):
        names.sort()  # as keras.tree.flatten orders the values
    inputs = (
        ServedInput(alias, (None, *tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))
        for alias, tensor in zip(_aliases(names), tensors, strict=True)
    )
    return ServedInputs(tuple(inputs), structure)


def output_alias(model: Any) -> str:
    """Names the output: `logits` where the last layer has `from_logits` set, otherwise `probabilities`."""
    last = model
    while getattr(last, "layers", None):
        last = last.layers[-1]
    return LOGITS if getattr(last, "from_logits", False) else PROBABILITIES


def only_output(answer: Any) -> Any:
    """Returns the only tensor of a model's answer.

    Raises:
        ModelError: there are several.
    """
    import keras

    outputs = keras.tree.flatten(answer)
    if len(outputs) != 1:
        raise ModelError(f"The model has {len(outputs)} outputs; a classifier to be served has one.")
    return outputs[0]


def _input_structure(model: Any) -> Any:
    """Returns the symbolic inputs of a model, arranged as the model takes them."""
    import keras

    if isinstance(model, keras.Sequential) and model.built:
        return model.inputs[0]
    if getattr(model, "inputs", None):
        return model.input
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if isinstance(shape, (list, tuple)) and all(axis is None or isinstance(axis, int) for axis in shape):
        return keras.KerasTensor((None, *shape[1:]), dtype=model.input_dtype)
    raise ModelError(
        f"The shape of the inputs of the model {model.name!r} is not known. Call the model once on a batch; wrap a "
        "subclassed model with several inputs in a functional one: keras.Model(inputs, model(inputs))."
    )


def _aliases(names: list[str]) -> list[str]:
    """Makes the names stable between exports and unique."""
    alone = len(names) == 1
    aliases = [
        ("inputs" if alone else f"inputs_{number}") if _AUTOMATIC_NAME.fullmatch(name) else re.sub(r"\W", "_", name)
        for number, name in enumerate(names, start=1)
    ]
    repeated = len(set(aliases)) < len(aliases)
    return [f"{alias}_{number}" for number, alias in enumerate(aliases, start=1)] if repeated else aliases
