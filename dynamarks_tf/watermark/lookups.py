"""Where the coins of an output stand in the layer's table: by its two best classes and the digits of its hash.

The table is flat, so that one look-up gets all that an output needs. It holds rows of 4,096 columns: those of the
amplitude code, of the tie code, and those of the classes to be raised, as far as the mark has them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from dynamarks_tf.watermark import keyed_hash
from dynamarks_tf.watermark.params import MarkParams
from dynamarks_tf.watermark.perturbation import BestTwo, look_up, look_up_pair, one_hot

TABLED_CLASSES = 32  # so far a table of all pairs of classes is small: 1,024 rows

Tensor = Any


class LookUp(NamedTuple):
    """One of the numbers that are looked up for each output.

    Attributes:
        name: what it is.
        by: what names its row: the `group` of the best class, the `pair` of the two best, the class that is `best`, or
            the `second` best.
        first_row: the row of the table at which its own rows begin.
    """

    name: str
    by: str
    first_row: int


def rows_of_coins(num_classes: int, params: MarkParams) -> dict[str, int]:
    """The parts of the table, in their order, and how many rows each has."""
    rows = {}
    if params.amplitudes:
        rows["amplitude"] = keyed_hash.num_class_groups(num_classes)
    if params.tie_margin:
        rows["tie"] = keyed_hash.num_pair_groups(num_classes)
    if params.is_focused(num_classes):
        rows["focus"] = num_classes
    return rows


def look_ups(num_classes: int, params: MarkParams) -> tuple[LookUp, ...]:
    """What is looked up for each output; the class that is raised also for the case that the second best wins a tie."""
    found, first_row = [], 0
    for name, rows in rows_of_coins(num_classes, params).items():
        found.append(LookUp(name, {"amplitude": "group", "tie": "pair", "focus": "best"}[name], first_row))
        if name == "focus" and params.tie_margin:
            found.append(LookUp("focus of second", "second", first_row))
        first_row += rows
    return tuple(found)


class Cells(NamedTuple):
    """Places in the flattened table, and what else follows from the two best classes.

    Attributes:
        places: one for each look-up, int32 of shape `(..., n)`.
        order: +1 where the best class has the smaller index of the two, else -1; shape `(..., 1)`.
        direction: +1 at the best class, -1 at the second best, 0 elsewhere; shape `(..., C)`.
    """

    places: Tensor
    order: Tensor
    direction: Tensor


def find_cells(
    best: BestTwo, digits: Tensor, num_classes: int, group_of_class: Tensor | None, look_ups: tuple[LookUp, ...]
) -> Cells:
    """Finds the cells of each output of a batch.

    Args:
        best: its two best classes.
        digits: the digits of its hash, shape `(..., 2)`; see `keyed_hash.hash_digits`.
        num_classes: C.
        group_of_class: group of each class, int32 of shape `(C,)`; `None` if each has its own.
        look_ups: what is looked up.
    """
    dtype = keras.backend.standardize_dtype(digits.dtype)
    size = len(look_ups)
    columns = ops.matmul(digits, np.array([[keyed_hash.BASE] * size, [1] * size], dtype))
    if num_classes <= TABLED_CLASSES:  # one look-up in place of 20 operations, each slow to start
        row = look_up_pair(_pair_table(num_classes, look_ups).astype(dtype), best.classes)
        first_cells, order, direction = ops.split(row, [size, size + 1], axis=-1)
        places = ops.maximum(ops.cast(first_cells + columns, "int32"), 0)  # 0 for whatever comes of a NaN
        return Cells(places, order, direction)
    top, second = ops.split(ops.cast(best.classes, "int32"), 2, axis=-1)
    low, high = ops.minimum(top, second), ops.maximum(top, second)
    rows = {
        "group": lambda: top if group_of_class is None else look_up(group_of_class, top),
        "pair": lambda: keyed_hash.pair_group(low, high, group_of_class, num_classes, ops),
        "best": lambda: top,
        "second": lambda: second,
    }
    found = ops.concatenate([rows[each.by]() for each in look_ups], axis=-1)
    first_cells = (found + np.array([each.first_row for each in look_ups], np.int32)) * keyed_hash.COLUMNS
    places = first_cells + ops.maximum(ops.cast(columns, "int32"), 0)
    order = ops.cast(ops.sign(second - top), dtype)
    direction = one_hot(best.top, num_classes, dtype) - one_hot(best.second, num_classes, dtype)
    return Cells(places, order, direction)


def _pair_table(num_classes: int, look_ups: tuple[LookUp, ...]) -> npt.NDArray[np.float64]:
    """By best and second best class: the first cells of the rows of the table, `order` and `direction`."""
    top, second = np.indices((num_classes, num_classes))
    low, high = np.minimum(top, second), np.maximum(top, second)
    pair = np.where(low < high, keyed_hash.pair_group(low, high, None, num_classes, np), 0)
    rows = {"group": top, "pair": pair, "best": top, "second": second}
    first_cells = [(each.first_row + rows[each.by]) * keyed_hash.COLUMNS for each in look_ups]
    each = np.eye(num_classes)
    return np.concatenate([np.stack([*first_cells, np.sign(second - top)], axis=-1), each[top] - each[second]], axis=-1)
