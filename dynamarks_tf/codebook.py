"""The codebook: sign tables and class maps expanded from a key. Format 1, held by golden vectors in tests/golden/."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dynamarks_tf.params import MarkParams, check_num_classes

if TYPE_CHECKING:
    from dynamarks_tf.key import MarkKey


@dataclasses.dataclass(frozen=True, repr=False)
class Codebook:
    """What the key says about one number of classes. Secret: whoever has it can strip or forge the mark.

    Attributes:
        class_signs: the class code's fair coins, int8 of shape `(rows, columns)`, each -1 or +1.
        row_of_class: row of each predicted class, int32 of shape `(C,)`.
        column_of_class: column of each other class, int32 of shape `(C,)`.
    """

    class_signs: npt.NDArray[np.int8]
    row_of_class: npt.NDArray[np.int32]
    column_of_class: npt.NDArray[np.int32]

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return int(self.row_of_class.shape[0])

    def favoured_counts(self) -> npt.NDArray[np.int32]:
        """How many classes each predicted class t favours: those c != t whose sign in t's row is +1. Shape `(C,)`."""
        columns = self.class_signs.shape[1]
        classes_per_column = np.bincount(self.column_of_class, minlength=columns)
        positive = self.class_signs > 0
        per_row = positive @ classes_per_column
        own = positive[self.row_of_class, self.column_of_class]
        return np.asarray(per_row[self.row_of_class] - own, np.int32)

    def __repr__(self) -> str:
        rows, columns = self.class_signs.shape
        return f"<Codebook for {self.num_classes} classes, {rows} x {columns} signs>"


def expand(key: MarkKey, num_classes: int, params: MarkParams) -> Codebook:
    """Expands a key into the codebook for a classifier.

    Signs and class maps come from separate labels, so that the signs are fair coins whatever the maps are; the
    p-value rests on that.

    Args:
        key: the owner's key.
        num_classes: number of classes C, at least 2.
        params: settings; only the table sizes matter here.

    Raises:
        ArgumentError: fewer than two classes.
    """
    num_classes = check_num_classes(num_classes)
    rows, columns = params.table_shape(num_classes)
    return Codebook(
        class_signs=signs(key, "class-code/signs", rows, columns),
        row_of_class=class_map(key, "class-code/rows", num_classes, rows),
        column_of_class=class_map(key, "class-code/columns", num_classes, columns),
    )


def signs(key: MarkKey, label: str, rows: int, columns: int) -> npt.NDArray[np.int8]:
    """Fair coins -1/+1 of shape `(rows, columns)`: keystream bits in row order, least significant first, 1 is +1."""
    count = rows * columns
    stream = np.frombuffer(key.derive(f"{label}/{rows}x{columns}", -(-count // 8)), np.uint8)
    bits = np.unpackbits(stream, count=count, bitorder="little")
    return (2 * bits.astype(np.int8) - 1).reshape(rows, columns)


def class_map(key: MarkKey, label: str, num_classes: int, size: int) -> npt.NDArray[np.int32]:
    """Maps classes to `size` rows or columns: the identity while they fit, else a keyed hash of the class index.

    The hash of class c is the c-th little-endian 32-bit word w of the keystream, scaled to `w * size >> 32`.
    """
    if num_classes <= size:
        return np.arange(num_classes, dtype=np.int32)
    words = np.frombuffer(key.derive(f"{label}/{num_classes}to{size}", 4 * num_classes), "<u4")
    return np.asarray((words.astype(np.uint64) * size) >> np.uint64(32), np.int32)
