"""Where the coins of an output stand in the key's tables: by its two best classes and the digits of its hash."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from dynamarks_tf import buckets
from dynamarks_tf.perturbation import BestTwo, look_up, one_hot

TABLED_CLASSES = 32  # so far a table of all pairs of classes is small: 1,024 rows

Tensor = Any

_DIGIT_WEIGHTS = np.array([[buckets.BASE] * 3, [1] * 3])  # of the two digits of the hash: the column, for three cells


class Cells(NamedTuple):
    """Places in flattened tables, int32 of shape `(..., 1)`, and what else follows from the two best classes.

    Attributes:
        amplitude: of the amplitude coin; and of the class to be raised, where it is a single one.
        tie: of the tie coin.
        other: of the class to be raised if the second best class wins a tie.
        order: +1 where the best class has the smaller index of the two, else -1; shape `(..., 1)`.
        direction: +1 at the best class, -1 at the second best, 0 elsewhere; shape `(..., C)`.
    """

    amplitude: Tensor
    tie: Tensor
    other: Tensor
    order: Tensor
    direction: Tensor


def find_cells(best: BestTwo, digits: Tensor, num_classes: int, group_of_class: Tensor | None) -> Cells:
    """Finds the cells of each output of a batch.

    Args:
        best: its two best classes.
        digits: the digits of its hash, shape `(..., 2)`; see `buckets.hash_digits`.
        num_classes: C.
        group_of_class: group of each class, int32 of shape `(C,)`; `None` if each has its own.
    """
    dtype = keras.backend.standardize_dtype(digits.dtype)
    columns = ops.matmul(digits, _DIGIT_WEIGHTS.astype(dtype))
    if num_classes <= TABLED_CLASSES:  # one look-up in place of 20 operations, each slow to start
        row = look_up(_pair_table(num_classes).astype(dtype), best.top * num_classes + best.second)
        first_cells, order, direction = ops.split(row, [3, 4], axis=-1)
        cells = ops.maximum(ops.cast(first_cells + columns, "int32"), 0)  # 0 for whatever comes of a NaN
        amplitude, tie, other = ops.split(cells, 3, axis=-1)
        return Cells(amplitude, tie, other, order, direction)
    columns = ops.split(ops.maximum(ops.cast(columns, "int32"), 0), 3, axis=-1)
    top, second = (ops.cast(ops.expand_dims(classes, axis=-1), "int32") for classes in (best.top, best.second))
    low, high = ops.minimum(top, second), ops.maximum(top, second)
    group = top if group_of_class is None else look_up(group_of_class, top)
    rows = (group, buckets.pair_group(low, high, group_of_class, num_classes, ops), second)
    amplitude, tie, other = (row * buckets.COLUMNS + column for row, column in zip(rows, columns, strict=True))
    order = ops.where(ops.equal(low, top), ops.ones((), dtype), -1.0)
    direction = one_hot(best.top, num_classes, dtype) - one_hot(best.second, num_classes, dtype)
    return Cells(amplitude, tie, other, order, direction)


def _pair_table(num_classes: int) -> npt.NDArray[np.float64]:
    """By best class x C + second best: the first cells of the rows of the tables, `order` and `direction`."""
    top, second = np.indices((num_classes, num_classes))
    low, high = np.minimum(top, second), np.maximum(top, second)
    pair = np.where(low < high, buckets.pair_group(low, high, None, num_classes, np), 0)
    first_cells = np.stack([top, pair, second], axis=-1) * buckets.COLUMNS
    each = np.eye(num_classes)
    table = np.concatenate([first_cells, np.sign(second - top)[..., None], each[top] - each[second]], axis=-1)
    return table.reshape(num_classes**2, -1)
