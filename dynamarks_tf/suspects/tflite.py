"""A TFLite model as a suspect, run by LiteRT."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.tflite_file import check_tflite_file
from dynamarks_tf.suspects.base import load
from dynamarks_tf.suspects.batches import brief, closed, fit_shape, fit_type, refusal
from dynamarks_tf.suspects.signature import SuspectSignature, choose_name, choose_signature

Array = npt.NDArray[Any]

_ROUNDED = 1  # steps beyond the limits that rounding and calibration leave
_MOST_LOST = 0.1  # of a batch's values; four fifths of a drawing are background


class TFLiteSuspect:
    """A `.tflite` model with one input, run on the CPU by LiteRT or, where that is missing, by TensorFlow.

    Quantized inputs and outputs are converted by the scale and zero point that the model states. A model with a fixed
    batch size gets pieces of that size.

    Args:
        path: the `.tflite` file.
        description: its name in reports; by default the path.
        run_untrusted_code: whether to load it unchecked.
        signature: name of the signature to call. By default `serving_default`, otherwise the only one; a model without
            signatures is called by its tensors.
        output: name of the output to read. By default the one called `probabilities`, otherwise the only one.

    Raises:
        SuspectError: the file is refused or cannot be loaded, no runtime is installed, or it lacks signature or output.

    Example:
        >>> TFLiteSuspect("suspect.tflite").predict(images).shape
        (256, 10)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        description: str | None = None,
        run_untrusted_code: bool = False,
        signature: str | None = None,
        output: str | None = None,
    ) -> None:
        self.description = str(Path(path)) if description is None else description
        if not run_untrusted_code:
            check_tflite_file(Path(path), self.description)
        try:
            interpreter = _interpreter_class(self.description)(model_path=os.fspath(path))
            names = interpreter.get_signature_list()
            if names or signature is not None:
                run = interpreter.get_signature_runner(choose_name(self.description, names, signature))
                inputs, outputs = run.get_input_details(), run.get_output_details()
            else:
                run = _by_tensors(interpreter)
                inputs, outputs = (
                    {tensor["name"]: tensor for tensor in tensors}
                    for tensors in (interpreter.get_input_details(), interpreter.get_output_details())
                )
        except (RuntimeError, ValueError) as error:
            raise SuspectError(f"{self.description} cannot be loaded as a TFLite model: {brief(error)}") from error
        self._run: Callable[..., Mapping[str, Array]] | None = run
        shapes = {name: (_shape(tensor), _type(tensor)) for name, tensor in inputs.items()}
        self.signature: SuspectSignature = choose_signature(self.description, shapes, outputs, output)
        self._input, self._output = inputs[self.signature.input], outputs[self.signature.output]
        self.input_shape = self.signature.shape

    def predict(self, batch: Array) -> Array:
        """Answers one batch."""
        if self._run is None:
            raise closed(self.description)
        array = self._quantized(fit_shape(batch, self.input_shape, self.description))
        size = None if _shape(self._input)[:1] == (None,) else int(self._input["shape"][0])
        try:
            pieces = [self._answer(self._run, piece) for piece in _pieces(array, size)]
        except (RuntimeError, ValueError) as error:
            raise refusal(self.description, array, error) from error
        return np.concatenate(pieces)[: len(array)]

    def close(self) -> None:
        """Releases the model."""
        self._run = None

    def _answer(self, run: Callable[..., Mapping[str, Array]], piece: Array) -> Array:
        answer = np.array(
            run(**{self.signature.input: piece})[self.signature.output]
        )  # a copy: LiteRT reuses its buffers
        scale, zero_point = self._output["quantization"]
        return np.float32(scale) * (answer.astype(np.float32) - zero_point) if scale else answer

    def _quantized(self, array: Array) -> Array:
        """The batch in the input type of the model; whole numbers stay as they are if the model states no scale."""
        dtype = _type(self._input)
        scale, zero_point = self._input["quantization"]
        if not scale:
            return fit_type(array, dtype, self.description)
        if not np.isfinite(array).all():
            raise SuspectError(f"{self.description} takes {dtype}, and was given NaN or infinity.")
        limits = np.iinfo(dtype)
        steps: Array = np.round(array / scale) + zero_point
        lost = float(np.mean((steps < limits.min - _ROUNDED) | (steps > limits.max + _ROUNDED)))
        if lost > _MOST_LOST:
            low, high = (float(scale) * (limit - zero_point) for limit in (limits.min, limits.max))
            raise SuspectError(
                f"{self.description} takes quantized inputs from {low:.4g} to {high:.4g}; {lost:.0%} of the values "
                f"given are beyond (from {array.min():.4g} to {array.max():.4g}). Bring the queries to the range that "
                "the model was trained on, such as by a callable that scales them."
            )
        return np.clip(steps, limits.min, limits.max).astype(dtype)


def _interpreter_class(description: str) -> Any:
    try:
        return load("ai_edge_litert.interpreter", "tflite", description).Interpreter
    except SuspectError:
        import tensorflow as tf

        if not hasattr(tf.lite, "Interpreter"):
            raise
        return tf.lite.Interpreter


def _by_tensors(interpreter: Any) -> Callable[..., Mapping[str, Array]]:
    """A function like a signature runner, for a model without signatures."""

    def run(**inputs: Array) -> Mapping[str, Array]:
        indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_input_details()}
        for name, array in inputs.items():
            interpreter.resize_tensor_input(indices[name], array.shape)
        interpreter.allocate_tensors()
        for name, array in inputs.items():
            interpreter.set_tensor(indices[name], array)
        interpreter.invoke()
        return {tensor["name"]: interpreter.get_tensor(tensor["index"]) for tensor in interpreter.get_output_details()}

    return run


def _type(tensor: Mapping[str, Any]) -> np.dtype[Any]:
    """The type of a tensor; text is told as bytes of no width, and given as objects."""
    dtype = np.dtype(tensor["dtype"])
    return np.dtype(object) if dtype.kind in "SU" else dtype


def _shape(tensor: Mapping[str, Any]) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else int(size) for size in tensor["shape_signature"])


def _pieces(array: Array, size: int | None) -> list[Array]:
    """Cuts a batch into pieces of a model's batch size; the last piece is filled up with copies of its last row."""
    if size is None:
        return [array]
    missing = -len(array) % size
    filled = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
    return [filled[start : start + size] for start in range(0, len(filled), size)]
