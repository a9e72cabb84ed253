"""Removal attacks on a surrogate: changes of its weights, and further training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf.attacks.batches import as_batch, predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.errors import ArgumentError

Array = npt.NDArray[Any]

_FOR_STATISTICS, _BATCH = 6400, 128


def copied(model: keras.Model) -> keras.Model:
    """A copy of a model with weights of its own, so that an attack does not change the original."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def fine_tune(
    model: keras.Model,
    inputs: Array,
    labels: Array,
    *,
    layers: str = "all",
    epochs: int = 5,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    verbose: bool = False,
) -> keras.Model:
    """Trains a surrogate further, on true labels.

    Args:
        model: the surrogate; it is trained in place.
        inputs: the attacker's labeled inputs, shape `(n, ...)`.
        labels: their true class indices, shape `(n,)`.
        layers: `"all"`, or `"last"`: the last layer that has weights.
        epochs: passes over them.
        batch_size: inputs in one step.
        learning_rate: of Adam; the default is that of `train_classifier`.
        verbose: whether to show progress.

    Returns:
        `model`.

    Raises:
        ArgumentError: `layers` is neither.

    Reference:
        Fine-tune all layers (FTAL) and last layer (FTLL): Y. Adi et al., Turning Your Weakness Into a Strength, USENIX
        Security 2018, section 5.3.
    """
    if layers not in ("all", "last"):
        raise ArgumentError(f"`layers` is 'all' or 'last'. Received: layers={layers!r}")
    frozen = [] if layers == "all" else [layer for layer in model.layers if layer is not _last_trainable(model)]
    was_trainable = [layer.trainable for layer in frozen]
    for layer in frozen:
        layer.trainable = False
    try:
        return train_classifier(
            model,
            inputs,
            labels,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            verbose=verbose,
            description="fine-tuning",
        )
    finally:
        for layer, value in zip(frozen, was_trainable, strict=True):
            layer.trainable = value


def replace_head(model: keras.Model, inputs: Array, labels: Array, *, seed: int = 0, **training: Any) -> keras.Model:
    """Draws new weights for the last layer and trains that layer alone, on true labels: transfer to another head.

    Args:
        model: the surrogate; it is changed in place.
        inputs: the attacker's labeled inputs, shape `(n, ...)`.
        labels: their true class indices, shape `(n,)`.
        seed: seed of the new weights.
        **training: further arguments of `fine_tune`.

    Returns:
        `model`.

    Reference:
        Re-train last layer (RTLL): Y. Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018, section
        5.3.
    """
    head = _last_trainable(model)
    kernel = head.trainable_weights[0]
    kernel.assign(keras.initializers.GlorotUniform(seed=seed)(tuple(kernel.shape)))
    for bias in head.trainable_weights[1:]:
        bias.assign(np.zeros(tuple(bias.shape)))
    return fine_tune(model, inputs, labels, layers="last", **training)


def prune(model: keras.Model, share: float) -> keras.Model:
    """Sets a share of the smallest weights of each kernel to zero: magnitude pruning.

    Args:
        model: the surrogate; it is changed in place.
        share: of each kernel's weights, in [0, 1). Biases, normalization and depthwise kernels are not pruned, as in
            TensorFlow Model Optimization.

    Returns:
        `model`.

    Raises:
        ArgumentError: `share` is outside [0, 1).

    Reference:
        S. Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015.
    """
    if not 0 <= share < 1:
        raise ArgumentError(f"`share` of weights to prune is a number from 0 to below 1. Received: share={share!r}")
    for kernel in _kernels(model):
        if "depthwise" in kernel.path:
            continue
        values = keras.ops.convert_to_numpy(kernel)
        smallest_kept = np.quantile(np.abs(values), share)
        kernel.assign(np.where(np.abs(values) >= smallest_kept, values, 0))
    return model


def add_weight_noise(model: keras.Model, strength: float, *, seed: int = 0) -> keras.Model:
    """Adds Gaussian noise to each kernel.

    Args:
        model: the surrogate; it is changed in place.
        strength: standard deviation of the noise, in units of the kernel's own.
        seed: seed of the noise.

    Returns:
        `model`.

    Reference:
        N. Lukas et al., SoK: How Robust is Image Classification Deep Neural Network Watermarking?, IEEE S&P 2022
        (weight shifting).
    """
    rng = np.random.default_rng(seed)
    for kernel in _kernels(model):
        values = keras.ops.convert_to_numpy(kernel)
        kernel.assign(values + rng.normal(0, strength * float(values.std()), values.shape))
    return model


def average_weights(model: keras.Model, other: keras.Model, inputs: Array, share: float = 0.5) -> keras.Model:
    """Averages the weights of two models of one architecture, best of one initialization: model merging.

    Args:
        model: the surrogate; it is changed in place.
        other: the other model.
        inputs: unlabeled inputs, shape `(n, ...)`, from which the statistics of normalization are taken anew.
        share: of the other model.

    Returns:
        `model`.

    Reference:
        M. Wortsman et al., Model Soups, ICML 2022. New statistics: K. Jordan et al., REPAIR, ICLR 2023.
    """
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    model.set_weights([(1 - share) * mine + share * theirs for mine, theirs in pairs])
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers):
        for start in range(0, min(len(inputs), _FOR_STATISTICS), _BATCH):
            model(as_batch(inputs[start : start + _BATCH]), training=True)
    return model


def distill(student: keras.Model, teacher: keras.Model, inputs: Array, *, labels: bool, **training: Any) -> keras.Model:
    """Trains a second surrogate on the answers of the first one.

    Args:
        student: an untrained classifier; it is trained in place.
        teacher: the first surrogate.
        inputs: unlabeled inputs, shape `(n, ...)`.
        labels: whether the student learns the teacher's best class only, not its probabilities.
        **training: further arguments of `train_classifier`.

    Returns:
        `student`.

    Reference:
        G. Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531); as removal attack: N.
        Papernot et al., Distillation as a Defense to Adversarial Perturbations, IEEE S&P 2016.
    """
    answers = predicted(teacher, inputs)
    return train_classifier(student, inputs, answers.argmax(axis=1) if labels else answers, **training)


def _last_trainable(model: keras.Model) -> keras.Layer:
    return next(layer for layer in reversed(model.layers) if layer.trainable_weights)


def _kernels(model: keras.Model) -> list[Any]:
    """The trainable weights that are matrices or filters."""
    return [weight for weight in model.trainable_weights if len(weight.shape) > 1]
