"""A surrogate as a quantized TensorFlow Lite model, as it would run on a phone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.export.tflite_conversion import QUANTIZATIONS, LiteModel, convert

Array = npt.NDArray[Any]

_REPRESENTATIVE = 200
_BATCH = 250


class QuantizedModel:
    """A classifier converted to TensorFlow Lite with quantized weights, called like a function.

    Args:
        model: a Keras classifier with one input of fixed shape.
        kind: `"float16"`: weights of half precision; `"int8"`: weights and activations of eight bits, with inputs and
            outputs left in float32.
        representative: inputs of shape `(n, ...)`; `"int8"` takes the range of activations from the first 200.

    Raises:
        ArgumentError: `kind` is unknown, or representative inputs are missing.

    Example:

    >>> QuantizedModel(surrogate, "int8", x_train)(images).shape
    (256, 10)
    """

    def __init__(self, model: keras.Model, kind: str, representative: Array | None = None) -> None:
        if kind not in QUANTIZATIONS:
            raise ArgumentError(f"`kind` of quantization is one of {', '.join(QUANTIZATIONS)}. Received: kind={kind!r}")
        self.content = convert(model, kind, None if representative is None else representative[:_REPRESENTATIVE])
        self._model = LiteModel(self.content)

    def __call__(self, inputs: Array) -> Array:
        """Answers inputs of shape `(n, ...)` with probabilities of shape `(n, C)`."""
        (name,) = self._model.inputs
        starts = range(0, len(inputs), _BATCH)
        batches = (inputs[start : start + _BATCH].astype(np.float32) for start in starts)
        return np.concatenate([self._model.answer({name: batch}) for batch in batches])
