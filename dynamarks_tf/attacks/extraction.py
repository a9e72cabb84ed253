"""Model extraction: query a prediction API, then train a surrogate on what it answers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf import progress
from dynamarks_tf.suspects import Suspect

Array = npt.NDArray[Any]


def query_api(api: Suspect, inputs: Array, *, batch_size: int = 256, verbose: bool = False) -> Array:
    """Collects the answers of a prediction API.

    Args:
        api: the victim's API, as any adapter in `dynamarks_tf.suspects`.
        inputs: unlabelled inputs of the thief, shape `(n, ...)`.
        batch_size: inputs in one request.
        verbose: whether to show progress.

    Returns:
        The answers, shape `(n, C)`.
    """
    starts = range(0, len(inputs), batch_size)
    shown = progress.track(starts, "querying the API", len(starts), enabled=verbose, unit="requests")
    return np.concatenate([api.predict(inputs[start : start + batch_size]) for start in shown])


def train_soft_label_surrogate(
    model: keras.Model,
    inputs: Array,
    answers: Array,
    *,
    epochs: int = 6,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    verbose: bool = False,
    description: str = "training the surrogate",
) -> keras.Model:
    """Trains a surrogate on soft labels: cross-entropy against the stolen probabilities.

    Args:
        model: an untrained classifier with a softmax output of shape `(n, C)`; it is trained in place.
        inputs: the inputs the thief sent, shape `(n, ...)`.
        answers: what the API answered, shape `(n, C)`.
        epochs: passes over the answers.
        batch_size: inputs in one step of training.
        learning_rate: of Adam.
        verbose: whether to show progress.
        description: what the progress line says.

    Returns:
        `model`.

    Reference:
        F. Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016;
        T. Orekondy et al., Knockoff Nets, CVPR 2019.
    """
    model.compile(keras.optimizers.Adam(learning_rate), "categorical_crossentropy", jit_compile=False)
    return fit(model, inputs, answers, epochs, batch_size, verbose=verbose, description=description)


def train_on_labels(
    model: keras.Model,
    inputs: Array,
    labels: Array,
    *,
    epochs: int = 6,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    verbose: bool = False,
    description: str = "training",
) -> keras.Model:
    """Trains a classifier on class indices: an owner model, or an innocent one that never saw an answer.

    Args:
        model: an untrained classifier with a softmax output of shape `(n, C)`; it is trained in place.
        inputs: shape `(n, ...)`.
        labels: class indices, shape `(n,)`.
        epochs: passes over the data.
        batch_size: inputs in one step of training.
        learning_rate: of Adam.
        verbose: whether to show progress.
        description: what the progress line says.

    Returns:
        `model`.
    """
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", jit_compile=False)
    return fit(model, inputs, labels, epochs, batch_size, verbose=verbose, description=description)


def fit(
    model: keras.Model,
    inputs: Array,
    targets: Array,
    epochs: int,
    batch_size: int,
    *,
    verbose: bool,
    description: str,
) -> keras.Model:
    """`model.fit` with this package's progress display."""
    steps = epochs * -(-len(inputs) // batch_size)
    with progress.Meter(description, steps, enabled=verbose, unit="steps") as meter:
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: meter.advance())
        model.fit(inputs, targets, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=[callback])
    return model
