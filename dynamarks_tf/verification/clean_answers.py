"""The probabilities that a clean owner model answers. It needs no key, so machines that must not know it can run it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ModelError
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.watermark.probabilities import probabilities_of, probability_problem

Array = npt.NDArray[Any]


def clean_answers(
    model: keras.Model, batch: Array, activation: str, *, from_logits: bool, role: str = "owner"
) -> Array:
    """The clean model's probabilities for a batch, float32 or float64 of shape `(n, ..., C)`.

    Args:
        model: the clean model.
        batch: inputs.
        activation: `"softmax"` or `"sigmoid"`. Sigmoids of L labels give `(n, ..., L, 2)`, or `(n, ..., 2)` if there is
            one.
        from_logits: whether the model answers logits.
        role: what the model is, for messages: `"owner"` or `"reference"`.

    Raises:
        ModelError: its outputs are no probability vectors.
    """
    outputs = KerasSuspect(model).predict(batch)
    if outputs.dtype not in (np.float32, np.float64):
        outputs = outputs.astype(np.float32)
    probabilities = probabilities_of(outputs, activation, from_logits=from_logits)
    if problem := probability_problem(probabilities):
        hint = "" if from_logits or role != "owner" else " If they are logits, say from_logits=True."
        raise ModelError(f"The outputs of the {role} model {model.name!r} are no probability vectors: {problem}.{hint}")
    return probabilities
