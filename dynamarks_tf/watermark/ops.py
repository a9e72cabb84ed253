"""Operations that the mark needs beside `keras.ops`, in the fastest form that each Keras backend has."""

from __future__ import annotations

import math
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


def two_largest(p: Tensor) -> tuple[Tensor, Tensor]:
    """The two largest of many probabilities, for TensorFlow: the larger one first, the first ones among equals.

    The largest of each block of classes are found first; then two blocks are looked into. So the whole batch is read
    once. As `first_largest` does, it compares the bits of the floats, as integers.

    Args:
        p: shape `(..., C)`.

    Returns:
        The probabilities and their classes (int32), both of shape `(..., 2)`.
    """
    import tensorflow as tf

    num_classes, size = p.shape[-1], _block_size(p.shape[-1])
    bits = tf.bitcast(p, tf.int64 if p.dtype == tf.float64 else tf.int32)
    flat = bits if len(p.shape) == 2 else tf.reshape(bits, [-1, num_classes])
    if num_classes % size:
        flat = tf.pad(flat, [[0, 0], [0, -num_classes % size]], constant_values=bits.dtype.min)
    num_blocks = flat.shape[-1] // size
    blocks = tf.reshape(flat, [-1, num_blocks, size])
    largest_of = tf.reduce_max(blocks, axis=-1)

    first = tf.argmax(largest_of, axis=-1, output_type=tf.int32)
    block = tf.gather(blocks, first, axis=1, batch_dims=1)
    place = tf.argmax(block, axis=-1, output_type=tf.int32)
    rest = tf.where(tf.range(size) == place[:, None], bits.dtype.min, block)
    without = tf.where(tf.range(num_blocks) == first[:, None], tf.reduce_max(rest, axis=-1, keepdims=True), largest_of)
    second = tf.argmax(without, axis=-1, output_type=tf.int32)
    other = tf.where((first == second)[:, None], rest, tf.gather(blocks, second, axis=1, batch_dims=1))
    places = tf.stack([place, tf.argmax(other, axis=-1, output_type=tf.int32)], axis=-1)

    classes = tf.stack([first, second], axis=-1) * size + places
    values = tf.stack([tf.reduce_max(largest_of, axis=-1), tf.reduce_max(without, axis=-1)], axis=-1)
    shape = tf.concat([tf.shape(p)[:-1], [2]], axis=0) if len(p.shape) != 2 else [-1, 2]
    return tf.reshape(tf.bitcast(values, p.dtype), shape), tf.reshape(classes, shape)


def _block_size(num_classes: int) -> int:
    """Of `two_largest`: a divisor of the number of classes near its root, or else the root itself."""
    root = math.isqrt(num_classes)
    even = [size for size in range(root // 2, 2 * root + 1) if num_classes % size == 0]
    return min(even, key=lambda size: abs(size - root)) if even else root


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


def add_at(values: Tensor, classes: Tensor, amounts: Tensor) -> Tensor:
    """Adds an amount to each of some classes.

    Args:
        values: shape `(..., C)`.
        classes: the classes, int32 of shape `(..., k)`.
        amounts: what each gets, shape `(..., k)`.
    """
    num_classes = values.shape[-1]
    if keras.backend.backend() != "tensorflow":
        added = one_hot(classes, num_classes, values.dtype) * ops.expand_dims(amounts, axis=-1)
        return values + ops.sum(added, axis=-2)
    import tensorflow as tf

    shape = tf.shape(values)
    rows = tf.reshape(tf.range(0, tf.size(values), num_classes), tf.concat([shape[:-1], [1]], axis=0))
    places = tf.expand_dims(rows + classes, axis=-1)
    return values + tf.reshape(tf.scatter_nd(places, amounts, tf.size(values)[None]), shape)


def zero_or_nan(p: Tensor) -> Tensor:
    """0 for each row, but NaN for one that holds a NaN or an infinity; shape `(..., 1)`.

    A sum is finite only if all its terms are; a maximum may pass over NaN, as XLA's does. The remainder of a whole
    number by 1 is 0, that of an infinity is NaN, and no optimizer takes it for a constant, as it would 0 * x.
    """
    return ops.mod(ops.floor(ops.sum(p, axis=-1, keepdims=True)), 1.0)
