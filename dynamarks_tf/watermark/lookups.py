"""The layer's tables: what they hold, and where an output finds what the key says about it.

The table `entries` is flat, so that one look-up gets all that an output needs. It holds rows of 4,096 entries, one for
each value of the keyed hash: those of the amplitude channel, of the tie channel, and the target classes, as far as the
mark has them. Which row an output reads follows from its two best classes, which entry of the row from its hash.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from dynamarks_tf.watermark import keyed_hash
from dynamarks_tf.watermark.codebook import Codebook
from dynamarks_tf.watermark.ops import look_up, look_up_pair
from dynamarks_tf.watermark.params import MarkParams

TABLED_CLASSES = 32  # at most; a table of all pairs of them has 1,024 rows
_BLANK_COUNT = -1

Array = npt.NDArray[Any]
Tensor = Any


def tables_from(codebook: Codebook, params: MarkParams) -> dict[str, Array]:
    """The tables of a layer: what inference needs of a codebook, laid out for speed.

    Args:
        codebook: the expanded key.
        params: settings of the mark.

    Returns:
        The tables by name, as `table_shapes` lists them.
    """
    class_signs = codebook.class_signs.copy()
    shapes = table_shapes(codebook.num_classes, params, codebook.keyed_hash.num_labels)
    if "row_of_class" not in shapes:
        np.fill_diagonal(class_signs, 0)
    hashing = codebook.keyed_hash
    tables: dict[str, Any] = {
        "class_signs": class_signs,
        "favored_counts": codebook.favored_counts(),
        **{field.name: getattr(hashing, field.name) for field in dataclasses.fields(hashing)},
    }
    if "entries" in shapes:
        tables["entries"] = _entries(codebook, params)
    return {name: tables[name] for name in shapes}


def blank_tables(num_classes: int, params: MarkParams, num_labels: int = 1) -> dict[str, Array]:
    """The tables of a layer that is still to be loaded, with which it marks nothing."""
    shapes = table_shapes(num_classes, params, num_labels)
    blank: dict[str, Array] = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    blank["favored_counts"] = np.full(num_classes, _BLANK_COUNT, np.int32)
    if "entries" in blank and params.has_target_class(num_classes):
        itself = np.repeat(np.arange(num_classes, dtype=np.int8), keyed_hash.HASH_SIZE)
        blank["entries"][-len(itself) :] = itself
    return blank


def are_blank(tables: Mapping[str, Array]) -> bool:
    """Whether these are tables that `blank_tables` made."""
    return bool(np.any(tables["favored_counts"] == _BLANK_COUNT))


def table_shapes(num_classes: int, params: MarkParams, num_labels: int = 1) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of each table that a layer with these settings needs, in the order of its weights."""
    rows, columns = params.table_shape(num_classes)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {"favored_counts": ((num_classes,), np.int32)}
    if num_classes == keyed_hash.TWO_CLASSES:
        if num_labels > 1:
            shapes["group_of_label"] = ((num_labels,), np.int32)
        entries = sum(_rows(num_classes, params, num_labels).values()) * keyed_hash.HASH_SIZE
        return {**shapes, "offsets": ((num_classes,), np.float32), "entries": ((entries,), np.int8)}
    if not params.has_target_class(num_classes):
        shapes["class_signs"] = ((rows, columns), np.int8)
    if (rows, columns) != (num_classes, num_classes):  # classes share rows or columns
        shapes["row_of_class"] = ((num_classes,), np.int32)
    if columns != num_classes:
        shapes["column_of_class"] = ((num_classes,), np.int32)
    if params.amplitudes or params.tie_margin:
        hashed = min(num_classes, keyed_hash.HASHED_CLASSES)
        shapes |= {"offsets": ((hashed,), np.float32), "multipliers": ((hashed, 2), np.float32)}
        if hashed < num_classes:
            shapes["hashed_classes"] = ((hashed,), np.int32)
        if num_classes > keyed_hash.num_class_groups(num_classes):
            shapes["group_of_class"] = ((num_classes,), np.int32)
        entries = sum(_rows(num_classes, params).values()) * keyed_hash.HASH_SIZE
        shapes["entries"] = ((entries,), np.int8)
    return shapes


class Found(NamedTuple):
    """What was looked up for a batch.

    Attributes:
        values: by name, shape `(..., 1)` each, as far as the mark has them: `amplitude` and `tie`, secret signs -1 or
            +1; `target`, the target class; `target of second`, the one if the second best class wins a tie.
        order: +1 where the best class has the smaller index of the two best, else -1; shape `(..., 1)`.
        direction: +1 at the best class, -1 at the second best, 0 elsewhere; shape `(..., C)`. `None` with many classes.
    """

    values: dict[str, Tensor]
    order: Tensor
    direction: Tensor | None


def find(
    best_classes: Tensor, halves: Tensor, num_classes: int, tables: Mapping[str, Tensor], params: MarkParams
) -> Found:
    """Looks up what the key says about each output of a batch.

    Args:
        best_classes: its two best classes, int32 of shape `(..., 2)`.
        halves: the halves of its keyed hash, floats of shape `(..., 2)`; see `keyed_hash.hash_halves`.
        num_classes: C.
        tables: the layer's tables.
        params: settings of the mark.
    """
    dtype = keras.backend.standardize_dtype(halves.dtype)
    look_ups = _look_ups(num_classes, params)
    size = len(look_ups)
    hashes = ops.matmul(halves, np.array([[keyed_hash.HALF_SIZE] * size, [1] * size], dtype))
    if num_classes <= TABLED_CLASSES:  # one look-up in place of 20 operations, each slow to start
        row = look_up_pair(_pair_table(num_classes, look_ups).astype(dtype), best_classes)
        first_entries, order, direction = ops.split(row, [size, size + 1], axis=-1)
        places = ops.maximum(ops.cast(first_entries + hashes, "int32"), 0)  # 0 for whatever comes of a NaN
    else:
        top, second = ops.split(ops.cast(best_classes, "int32"), 2, axis=-1)
        first_entries = _first_entries(top, second, num_classes, tables.get("group_of_class"), look_ups)
        places = first_entries + ops.maximum(ops.cast(hashes, "int32"), 0)
        order = ops.cast(ops.sign(second - top), dtype)
        direction = None
    values = ops.split(ops.cast(look_up(tables["entries"], places), dtype), size, axis=-1)
    return Found({each.name: value for each, value in zip(look_ups, values, strict=True)}, order, direction)


def find_of_two(best_classes: Tensor, p: Tensor, tables: Mapping[str, Tensor], params: MarkParams) -> Found:
    """`find` for outputs of two classes, of which each is the other's only target class.

    Args:
        best_classes: the two classes, the better one first, int32 of shape `(..., 2)`.
        p: probabilities, shape `(..., 2)`; with L labels, `(..., L, 2)`.
        tables: the layer's tables.
        params: settings of the mark.
    """
    dtype = keras.backend.standardize_dtype(p.dtype)
    offsets = ops.cast(tables["offsets"], dtype)
    top = ops.cast(best_classes[..., :1], "int32")
    group: Any = ops.expand_dims(tables["group_of_label"], axis=-1) if "group_of_label" in tables else 0
    num_labels = tables["group_of_label"].shape[0] if "group_of_label" in tables else 1
    rows, first_row = _rows(keyed_hash.TWO_CLASSES, params, num_labels), 0
    places = []
    for name, size in rows.items():
        if name == "amplitude":
            row, hashes = 2 * group + top, keyed_hash.hash_of_two(p, offsets[0], ops)
        else:
            row, hashes = group + ops.zeros_like(top), keyed_hash.tie_hash_of_two(p, offsets[1], ops)
        place = ops.maximum(ops.cast(ops.expand_dims(hashes, axis=-1), "int32"), 0)  # 0 for whatever comes of a NaN
        places.append((row + first_row) * keyed_hash.HASH_SIZE + place)
        first_row += size
    found = ops.split(ops.cast(look_up(tables["entries"], ops.concatenate(places, axis=-1)), dtype), len(rows), axis=-1)
    values = dict(zip(rows, found, strict=True))
    is_second = ops.cast(top, dtype)
    values.setdefault("amplitude", ops.zeros_like(is_second))  # without the channel, ties alone are moved
    order = 1.0 - 2.0 * is_second
    targets = {"target": 1.0 - is_second, "target of second": is_second}
    return Found({**values, **targets}, order, ops.concatenate([order, -order], axis=-1))


class _LookUp(NamedTuple):
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


def _rows(num_classes: int, params: MarkParams, num_labels: int = 1) -> dict[str, int]:
    """The parts of the table of entries, in their order, and how many rows each has."""
    rows = {}
    if params.amplitudes:
        rows["amplitude"] = keyed_hash.num_class_groups(num_classes, num_labels)
    if params.tie_margin:
        rows["tie"] = keyed_hash.num_pair_groups(num_classes, num_labels)
    if params.has_target_class(num_classes):
        rows["target"] = num_classes
    return rows


@functools.lru_cache(maxsize=64)
def _look_ups(num_classes: int, params: MarkParams) -> tuple[_LookUp, ...]:
    """What is looked up for each output; the target class also for the case that the second best wins a tie."""
    found, first_row = [], 0
    for name, rows in _rows(num_classes, params).items():
        found.append(_LookUp(name, {"amplitude": "group", "tie": "pair", "target": "best"}[name], first_row))
        if name == "target" and params.tie_margin:
            found.append(_LookUp("target of second", "second", first_row))
        first_row += rows
    return tuple(found)


def _first_entries(
    top: Tensor, second: Tensor, num_classes: int, group_of_class: Tensor | None, look_ups: tuple[_LookUp, ...]
) -> Tensor:
    low, high = ops.minimum(top, second), ops.maximum(top, second)
    rows = {
        "group": lambda: top if group_of_class is None else look_up(group_of_class, top),
        "pair": lambda: keyed_hash.pair_group(low, high, group_of_class, num_classes, ops),
        "best": lambda: top,
        "second": lambda: second,
    }
    found = ops.concatenate([rows[each.by]() for each in look_ups], axis=-1)
    return (found + np.array([each.first_row for each in look_ups], np.int32)) * keyed_hash.HASH_SIZE


@functools.lru_cache(maxsize=64)
def _pair_table(num_classes: int, look_ups: tuple[_LookUp, ...]) -> npt.NDArray[np.float64]:
    """By best and second best class: the first entries of the rows of the table, `order` and `direction`."""
    top, second = np.indices((num_classes, num_classes))
    low, high = np.minimum(top, second), np.maximum(top, second)
    pair = np.where(low < high, keyed_hash.pair_group(low, high, None, num_classes, np), 0)
    rows = {"group": top, "pair": pair, "best": top, "second": second}
    first_entries = [(each.first_row + rows[each.by]) * keyed_hash.HASH_SIZE for each in look_ups]
    each = np.eye(num_classes)
    direction = each[top] - each[second]
    return np.concatenate([np.stack([*first_entries, np.sign(second - top)], axis=-1), direction], axis=-1)


def _entries(codebook: Codebook, params: MarkParams) -> Array:
    """Secret signs of amplitude and tie channel, -1 or +1, and the target classes, as `_rows` has them."""
    parts = {
        "amplitude": lambda: codebook.amplitude_signs,
        "tie": lambda: codebook.tie_signs,
        "target": lambda: _or_itself(codebook.target_classes),
    }
    rows = _rows(codebook.num_classes, params, codebook.keyed_hash.num_labels)
    return np.concatenate([parts[name]().ravel() for name in rows])


def _or_itself(target_classes: Array | None) -> Array:
    """The target class of each entry; the predicted class itself, which nothing can raise, where there is none (-1)."""
    assert target_classes is not None
    itself = np.arange(len(target_classes))[:, None]
    return np.where(target_classes < 0, itself, target_classes).astype(np.int8)  # of at most 32 classes
