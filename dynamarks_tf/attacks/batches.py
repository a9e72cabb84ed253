"""Batches of an attacker's data, for Keras' loops of training and prediction.

Keras puts arrays into a `tf.data` pipeline that tunes itself. At the end of each pass TensorFlow 2.21 waits for the
thread that tunes: until 2.6 s, 5.1 s, 10.2 s ... after the pass began. These pipelines do not tune, and nothing waits.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.input_kind import input_kind

Array = npt.NDArray[Any]

_AHEAD = 2


def as_batch(inputs: Array) -> Any:
    """Inputs in the form that Keras takes: text as a tensor, as Keras takes no array of objects."""
    if input_kind(inputs) != "text":
        return inputs
    import tensorflow as tf

    return tf.constant(inputs.tolist(), tf.string)


def batches(*arrays: Any, batch_size: int, shuffled: bool = False) -> Any:
    """A dataset for `fit` or `predict`.

    Args:
        *arrays: inputs, and targets if it is for training, each of shape `(n, ...)`.
        batch_size: inputs in one batch; the last one may be smaller.
        shuffled: whether each pass has an order of its own, drawn with TensorFlow's global seed.

    Returns:
        A `tf.data.Dataset` of batches; of tuples, if there are several arrays.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        tensors = [tf.convert_to_tensor(_single(as_batch(array))) for array in arrays]
        order = tf.data.Dataset.range(len(arrays[0]))
        if shuffled:
            order = order.shuffle(max(1, len(arrays[0])))
        chosen = order.batch(batch_size).map(lambda rows: tuple(tf.gather(tensor, rows) for tensor in tensors))
    options = tf.data.Options()
    options.autotune.enabled = False
    return chosen.prefetch(_AHEAD).with_options(options)


def predicted(model: keras.Model, inputs: Array, *, batch_size: int = 256) -> Array:
    """A model's answers to all inputs, shape `(n, C)`."""
    return np.asarray(model.predict(batches(inputs, batch_size=batch_size), verbose=0))


def _single(array: Any) -> Any:
    """Floats in Keras' precision, as Keras casts arrays."""
    is_float = isinstance(array, np.ndarray) and array.dtype.kind == "f"
    return array.astype(keras.config.floatx(), copy=False) if is_float else array
