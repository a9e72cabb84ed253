"""Operations that the mark needs beside `keras.ops`, in the fastest form that each Keras backend has."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


def largest(values: Tensor) -> Tensor:
    """Maximum over the classes, shape `(..., 1)`; also for an empty batch."""
    if keras.backend.backend() != "tensorflow":
        return ops.max(values, axis=-1, keepdims=True, initial=-np.inf)
    import tensorflow as tf

    return tf.reduce_max(values, axis=-1, keepdims=True)  # Keras would add an operation for `initial`


def first_largest(p: Tensor) -> Tensor:
    """Index of the largest probability, the first one among ties; int32 of shape `(...)` for p of shape `(..., C)`.

    Floats that are not negative are ordered like the integers with the same bits, and backends find the largest
    integer much faster, because `ops.argmax` tells -0.0 from 0.0 first.
    """
    bits = "int64" if keras.backend.standardize_dtype(p.dtype) == "float64" else "int32"
    return ops.argmax(ops.view(p, dtype=bits), axis=-1)


def first_largest_logit(logits: Tensor) -> Tensor:
    """Index of the largest logit, the first one among ties; int32 of shape `(...)`."""
    return ops.argmax(ops.equal(logits, largest(logits)), axis=-1)


def look_up(table: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """`ops.take` for indices that are never negative; to look for those costs a fifth of the time of the whole mark."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, index, axis=axis)
    import tensorflow as tf

    return tf.gather(ops.convert_to_tensor(table), index, axis=axis)


def look_up_pair(table: Tensor, classes: Tensor) -> Tensor:
    """Rows of a table of shape `(C, C, n)` by pairs of classes, int32 of shape `(..., 2)`."""
    if keras.backend.backend() != "tensorflow":
        num_classes, _, size = table.shape
        flat = ops.reshape(ops.convert_to_tensor(table), (num_classes**2, size))
        return ops.take(flat, classes[..., 0] * num_classes + classes[..., 1], axis=0)
    import tensorflow as tf

    return tf.gather_nd(table, classes)


def choose(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`ops.where` for three tensors of the same shape; TensorFlow is quicker if it need not compare their shapes."""
    if keras.backend.backend() != "tensorflow":
        return ops.where(condition, one, other)
    import tensorflow as tf

    return tf.raw_ops.Select(condition=condition, x=one, y=other)


def one_hot(index: Tensor, num_classes: int, dtype: str) -> Tensor:
    """1 at a class index and 0 elsewhere, shape `(..., C)`, for `index` of shape `(...)`.

    Multiplying by it is several times as fast as `ops.where` with a comparison of indices.
    """
    return ops.one_hot(index, num_classes, dtype=keras.backend.standardize_dtype(dtype))


def all_but(index: Tensor, num_classes: int, dtype: str) -> Tensor:
    """0 at a class index and 1 elsewhere, shape `(..., C)`, for `index` of shape `(...)`."""
    if keras.backend.backend() != "tensorflow":
        return 1.0 - one_hot(index, num_classes, dtype)
    import tensorflow as tf

    return tf.one_hot(index, num_classes, on_value=0.0, off_value=1.0, dtype=dtype)


def zero_or_nan(p: Tensor) -> Tensor:
    """0 for each row, but NaN for one that holds a NaN or an infinity; shape `(..., 1)`.

    A sum is finite only if all its terms are; a maximum may pass over NaN, as XLA's does. The remainder of a whole
    number by 1 is 0, that of an infinity is NaN, and no optimizer takes it for a constant, as it would 0 * x.
    """
    return ops.mod(ops.floor(ops.sum(p, axis=-1, keepdims=True)), 1.0)
