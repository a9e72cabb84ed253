"""A few made-up inputs for any Keras model, and what it answers to them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

Array = npt.NDArray[Any]

ROWS = 8
_SIZES = (8, 16, 32, 64, 128, 224, 256, 1)  # for axes of unknown length, until the model takes them
_SCALES = (1, 255)
_TEXTS = ("a", "the quick brown fox", "not a good film", "1 2 3", "", "good", "an answer to this", "x y")


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """What a model answers to noise.

    Attributes:
        inputs: batches in the structure that the model takes: noise between 0 and 1, then between 0 and 255.
        answers: for each batch the outputs, flat, float32 or float64 of shape `(rows, ...)`.
        problem: what kept the model from answering, if nothing could be asked; one line.
    """

    inputs: tuple[Any, ...] = ()
    answers: tuple[tuple[Array, ...], ...] = ()
    problem: str | None = None

    def of_output(self, index: int = 0) -> Array:
        """All answers of one output, one row after another."""
        return np.concatenate([outputs[index] for outputs in self.answers])


def probe_model(model: keras.Model) -> Probe:
    """Asks a model for answers to made-up inputs, with every axis that is unknown set to something small.

    Text is asked for text inputs, and whole numbers below the size of the smallest embedding for whole numbers.

    Args:
        model: a built Keras model.
    """
    problem = "nothing is known of its inputs"
    for size in _SIZES if _has_unknown_axes(model) else _SIZES[:1]:
        inputs, answers = [], []
        for scale in _SCALES:
            batch = _batch(model, size, scale)
            try:
                answers.append(answer(model, batch))
            except Exception as error:  # each backend and layer has its own errors
                problem = _brief(error)
                continue
            inputs.append(batch)
        if answers:
            return Probe(tuple(inputs), tuple(answers))
    return Probe(problem=problem)


def answer(model: Callable[..., Any], batch: Any) -> tuple[Array, ...]:
    """The outputs of a model for one batch at inference, flat, as float32 or float64."""
    outputs = [ops.convert_to_numpy(one) for one in keras.tree.flatten(model(batch, training=False))]
    return tuple(one if one.dtype == np.float64 else np.asarray(one, np.float32) for one in outputs)


def _has_unknown_axes(model: keras.Model) -> bool:
    return any(None in tensor.shape[1:] for tensor in model.inputs)


def _batch(model: keras.Model, size: int, scale: int) -> Any:
    limit = min(_sizes_of_embeddings(model), default=scale + 1)
    generator = np.random.default_rng(0)
    arrays = [_noise(tensor, size, min(scale, limit - 1) or 1, limit, generator) for tensor in model.inputs]
    if isinstance(model, keras.Sequential):
        return arrays[0]
    return keras.tree.pack_sequence_as(model.input, arrays)


def _noise(tensor: Any, size: int, scale: int, limit: int, generator: np.random.Generator) -> Any:
    shape = (ROWS, *(size if axis is None else axis for axis in tensor.shape[1:]))
    if tensor.dtype == "string":
        texts = itertools.islice(itertools.cycle(_TEXTS), int(np.prod(shape)))
        return _text_tensor(np.array(list(texts), dtype=object).reshape(shape))
    if tensor.dtype == "bool" or "int" in tensor.dtype:
        numbers = generator.integers(0, min(scale + 1, limit), shape)
        return ops.convert_to_tensor(numbers, dtype=tensor.dtype)
    return ops.convert_to_tensor(scale * generator.random(shape), dtype=tensor.dtype)


def _text_tensor(texts: Array) -> Any:
    import tensorflow as tf

    return tf.constant(texts)


def _sizes_of_embeddings(model: keras.Model) -> Iterator[int]:
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Embedding):
            yield int(layer.input_dim)


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
