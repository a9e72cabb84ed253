"""The last hidden layer of an owner's model, which some baselines read and change."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf.suspects.keras_model import KerasSuspect

Array = npt.NDArray[Any]


class HiddenLayer:
    """A classifier in two parts: up to the input of its last layer, and that layer.

    Args:
        model: a model whose last layer is dense, with a softmax.
    """

    def __init__(self, model: keras.Model) -> None:
        last = model.layers[-1]
        self._features = KerasSuspect(keras.Model(model.inputs[0], last.input))
        self._kernel, self._bias = (np.asarray(weight, np.float32) for weight in last.get_weights())

    def features(self, inputs: Array, batch_size: int = 256) -> Array:
        """Values of the last hidden layer, float32 of shape `(n, d)`."""
        starts = range(0, len(inputs), batch_size)
        return np.concatenate([self._features.predict(inputs[start : start + batch_size]) for start in starts])

    def logits(self, features: Array) -> Array:
        """Logits of such values, shape `(n, C)`."""
        return np.asarray(features @ self._kernel + self._bias)

    def probabilities(self, features: Array) -> Array:
        """Answers to such values, shape `(n, C)`."""
        return softmax(self.logits(features))


def softmax(logits: Array) -> Array:
    """Probabilities of logits, shape `(n, C)`."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)
