"""The codebook: sign tables and bucketing expanded from a key. Format 4, held by golden vectors in tests/golden/."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.watermark import keyed_hash
from dynamarks_tf.watermark.keyed_hash import Bucketing
from dynamarks_tf.watermark.params import MarkParams, check_num_classes

if TYPE_CHECKING:
    from dynamarks_tf.keys.key import MarkKey

Signs = npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True, repr=False)
class Codebook:
    """What the key says about one number of classes. Secret: whoever has it can strip or forge the mark.

    Attributes:
        class_signs: the class code's fair coins, int8 of shape `(rows, columns)`, each -1 or +1.
        amplitude_signs: the amplitude code's, int8 of shape `(min(C, 64), 4096)`.
        tie_signs: the tie code's, int8 of shape `(pairs, 4096)` with `pairs` = C (C - 1) / 2 up to 11 classes, else 64.
        query_signs: the query code's, int8 of shape `(C, 4096)`. `None` where inputs raise all favoured classes.
        pairs: the two favoured classes of which a coin of the query code raises one, int32 of shape `(C, 4096, 2)`; the
            same one twice where only one is favoured, -1 where none is. `None` as before.
        bucketing: which coin an output gets.
    """

    class_signs: Signs
    amplitude_signs: Signs
    tie_signs: Signs
    query_signs: Signs | None
    pairs: npt.NDArray[np.int32] | None
    bucketing: Bucketing

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.bucketing.num_classes

    def signs(self, channel: str) -> Signs:
        """The sign table of a channel: `"class"`, `"query"`, `"amplitude"` or `"tie"`."""
        signs: Signs | None = getattr(self, f"{channel}_signs")
        if signs is None:
            raise ArgumentError(f"Inputs raise all favoured classes at once here, so there is no {channel} code.")
        return signs

    @property
    def focus(self) -> npt.NDArray[np.int32] | None:
        """The one class that an input raises, int32 of shape `(C, 4096)`, by its predicted class and the column of its
        hash; -1 where no class is favoured. `None` where inputs raise all favoured classes."""
        if self.pairs is None or self.query_signs is None:
            return None
        return np.where(self.query_signs > 0, self.pairs[..., 0], self.pairs[..., 1])

    def contrasts(self) -> npt.NDArray[np.int32] | None:
        """The pairs that the query code is tested on: those whose inputs the amplitude code gives the whole budget.

        Returns:
            As `pairs`, but -1 where nothing is raised, or the same class whatever the coin says.
        """
        if self.pairs is None:
            return None
        tested = (self.amplitude_signs > 0) & (self.pairs[..., 0] != self.pairs[..., 1])
        return np.where(tested[..., None], self.pairs, np.int32(-1))

    def favoured_counts(self) -> npt.NDArray[np.int32]:
        """How many classes each predicted class t favours: those c != t whose sign in t's row is +1. Shape `(C,)`."""
        rows, column_of_class = self.bucketing.row_of_class, self.bucketing.column_of_class
        columns = self.class_signs.shape[1]
        classes_per_column = np.bincount(column_of_class, minlength=columns)
        positive = self.class_signs > 0
        per_row = positive @ classes_per_column
        own = positive[rows, column_of_class]
        return np.asarray(per_row[rows] - own, np.int32)

    def __repr__(self) -> str:
        rows, columns = self.class_signs.shape
        return f"<Codebook for {self.num_classes} classes, {rows} x {columns} class signs>"


def expand(key: MarkKey, num_classes: int, params: MarkParams) -> Codebook:
    """Expands a key into the codebook for a classifier.

    Signs and bucketing come from separate labels, so that the signs are fair coins whatever the bucketing is; so do the
    signs of different channels, so that their p-values are independent. The evidence rests on both.

    Args:
        key: the owner's key.
        num_classes: number of classes C, at least 2.
        params: settings; only the table sizes and `amplitudes` matter here.

    Raises:
        ArgumentError: fewer than two classes.
    """
    num_classes = check_num_classes(num_classes)
    rows, columns = params.table_shape(num_classes)
    class_signs = channel_signs(key, "class", num_classes, params)
    is_focused = params.is_focused(num_classes)
    return Codebook(
        class_signs=class_signs,
        amplitude_signs=channel_signs(key, "amplitude", num_classes, params),
        tie_signs=channel_signs(key, "tie", num_classes, params),
        query_signs=channel_signs(key, "query", num_classes, params) if is_focused else None,
        pairs=_pairs(key, class_signs) if is_focused else None,
        bucketing=_bucketing(key, num_classes, rows, columns),
    )


def channel_signs(key: MarkKey, channel: str, num_classes: int, params: MarkParams) -> Signs:
    """The sign table of one channel; the same as in the whole codebook.

    Args:
        key: the owner's key.
        channel: `"class"`, `"amplitude"`, `"query"` (which marks of many classes do not have) or `"tie"`.
        num_classes: number of classes C.
        params: settings of the mark.

    Returns:
        -1 and +1, int8 of the shape of the channel's table.
    """
    shapes = {
        "class": params.table_shape(num_classes),
        "query": (num_classes, keyed_hash.COLUMNS),
        "amplitude": (keyed_hash.num_class_groups(num_classes), keyed_hash.COLUMNS),
        "tie": (keyed_hash.num_pair_groups(num_classes), keyed_hash.COLUMNS),
    }
    return signs(key, f"{channel}-code/signs", *shapes[channel])


def signs(key: MarkKey, label: str, rows: int, columns: int) -> Signs:
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
    words = _words(key, f"{label}/{num_classes}to{size}", num_classes)
    return np.asarray((words.astype(np.uint64) * size) >> np.uint64(32), np.int32)


def _pairs(key: MarkKey, class_signs: Signs) -> npt.NDArray[np.int32]:
    """Between which two favoured classes the coin of each column chooses.

    The n favoured classes f_0 ... f_(n-1) of a predicted class are put in the order of their keystream words, the lower
    class first among equals. Column k chooses between f_(k mod n) and the one that comes 1 + (k div n) mod (n - 1)
    places later, cyclically: all pairs equally often.
    """
    num_classes = len(class_signs)
    drawn = _words(key, f"class-code/focus/{num_classes}", num_classes**2).reshape(num_classes, num_classes)
    table = np.full((num_classes, keyed_hash.COLUMNS, 2), -1, np.int32)
    columns = np.arange(keyed_hash.COLUMNS)
    for top in range(num_classes):
        order = np.argsort(drawn[top], kind="stable")
        favoured = order[(class_signs[top, order] > 0) & (order != top)]
        if n := len(favoured):
            later = 1 + columns // n % max(n - 1, 1)
            table[top] = favoured[np.stack([columns, columns + later], axis=1) % n]
    return table


def _bucketing(key: MarkKey, num_classes: int, rows: int, columns: int) -> Bucketing:
    hashed = _hashed_classes(key, num_classes)
    steps = _words(key, f"hash/offsets/{len(hashed)}", len(hashed))
    multipliers = np.frombuffer(key.derive(f"hash/multipliers/{len(hashed)}x2", 2 * len(hashed)), np.uint8)
    return Bucketing(
        row_of_class=class_map(key, "class-code/rows", num_classes, rows),
        column_of_class=class_map(key, "class-code/columns", num_classes, columns),
        group_of_class=class_map(key, "hash/groups", num_classes, keyed_hash.GROUPS),
        hashed_classes=hashed,
        offsets=((steps >> 8) * 2.0**-24).astype(np.float32),  # 24 bits: exact in float32
        multipliers=(multipliers >> 2).astype(np.float32).reshape(-1, 2),  # 6 bits
    )


def _hashed_classes(key: MarkKey, num_classes: int) -> npt.NDArray[np.int32]:
    """All classes up to 32; else the 32 with the smallest keystream words, the lower class first among equals."""
    if num_classes <= keyed_hash.HASHED_CLASSES:
        return np.arange(num_classes, dtype=np.int32)
    order = np.argsort(_words(key, f"hash/classes/{num_classes}", num_classes), kind="stable")
    return np.sort(order[: keyed_hash.HASHED_CLASSES]).astype(np.int32)


def _words(key: MarkKey, label: str, count: int) -> npt.NDArray[np.uint32]:
    """Little-endian 32-bit words of the keystream."""
    return np.frombuffer(key.derive(label, 4 * count), "<u4")
