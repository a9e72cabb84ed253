"""Model extraction: query a prediction API, then train a surrogate on its answers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf.attacks.batches import batches
from dynamarks_tf.suspects import Suspect

Array = npt.NDArray[Any]

_VALIDATION_SHARE = 0.1
_PATIENCE = 2


def query_api(api: Suspect, inputs: Array, *, batch_size: int = 256, verbose: bool = False) -> Array:
    """Collects the answers of a prediction API.

    Args:
        api: the victim's API, as any adapter in `dynamarks_tf.suspects`.
        inputs: unlabeled inputs of the attacker, shape `(n, ...)`.
        batch_size: inputs in one request.
        verbose: whether to show progress.

    Returns:
        The answers, shape `(n, C)`.
    """
    starts = range(0, len(inputs), batch_size)
    shown = progress.track(starts, "querying the API", len(starts), enabled=verbose, unit="requests")
    return np.concatenate([api.predict(inputs[start : start + batch_size]) for start in shown])


def train_classifier(
    model: keras.Model,
    inputs: Array,
    targets: Array,
    *,
    epochs: int = 6,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    early_stopping: bool = False,
    verbose: bool = False,
    description: str = "training the surrogate",
) -> keras.Model:
    """Trains a classifier on soft labels or on hard ones, by cross-entropy.

    Stolen answers make it a surrogate. True labels make it an owner model, or an independent model.

    Args:
        model: a classifier with a softmax output of shape `(n, C)`; it is trained in place.
        inputs: training inputs, shape `(n, ...)`.
        targets: soft labels, probabilities of shape `(n, C)`; or hard labels, class indices of shape `(n,)`.
        epochs: passes over the data.
        batch_size: inputs in one step of training.
        learning_rate: of Adam.
        early_stopping: whether to hold a tenth of the data back. Training stops when the loss on it has not fallen for
            two epochs, and the weights of the best epoch are kept.
        verbose: whether to show progress.
        description: text of the progress line.

    Returns:
        `model`.

    Reference:
        F. Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016;
        T. Orekondy et al., Knockoff Nets, CVPR 2019.
    """
    loss = "sparse_categorical_crossentropy" if targets.ndim == 1 else "categorical_crossentropy"
    model.compile(keras.optimizers.Adam(learning_rate), loss, jit_compile=_jit_compile())
    held_out = int(len(inputs) * _VALIDATION_SHARE) if early_stopping else 0
    kept = len(inputs) - held_out
    steps = epochs * -(-kept // batch_size)
    with progress.Meter(description, steps, enabled=verbose, unit="steps") as meter:
        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: meter.advance())]
        if held_out:
            callbacks.append(keras.callbacks.EarlyStopping(patience=_PATIENCE, restore_best_weights=True))
        model.fit(
            batches(inputs[:kept], targets[:kept], batch_size=batch_size, shuffled=True),
            epochs=epochs,
            shuffle=False,  # the batches are
            verbose=0,
            callbacks=callbacks,
            validation_data=batches(inputs[kept:], targets[kept:], batch_size=batch_size) if held_out else None,
        )
    return model


def _jit_compile() -> bool | str:
    """Keras' choice with a GPU; otherwise no XLA, which trains convolutions up to six times slower on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False
