"""What a thief does to a surrogate to wash a mark out of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy.typing as npt

from dynamarks_tf.attacks.extraction import train_on_labels

Array = npt.NDArray[Any]


def fine_tune(
    model: keras.Model,
    inputs: Array,
    labels: Array,
    *,
    epochs: int = 5,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    verbose: bool = False,
) -> keras.Model:
    """Trains every layer of a surrogate further, on true labels.

    Args:
        model: the surrogate; it is trained in place.
        inputs: the thief's labelled inputs, shape `(n, ...)`.
        labels: their true class indices, shape `(n,)`.
        epochs: passes over them.
        batch_size: inputs in one step.
        learning_rate: of Adam; the default is what the surrogate was trained with.
        verbose: whether to show progress.

    Returns:
        `model`.

    Reference:
        Fine-tune all layers (FTAL): Y. Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018,
        section 5.3.
    """
    return train_on_labels(
        model,
        inputs,
        labels,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        verbose=verbose,
        description="fine-tuning",
    )
