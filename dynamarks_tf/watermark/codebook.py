"""The codebook: tables of secret signs, and the keyed hash, expanded from a key.

Format 5, held by golden vectors in tests/golden/.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.watermark import keyed_hash
from dynamarks_tf.watermark.keyed_hash import KeyedHash
from dynamarks_tf.watermark.params import MarkParams, check_num_classes

if TYPE_CHECKING:
    from dynamarks_tf.keys.key import BoundKey, MarkKey

    Key = MarkKey | BoundKey

Signs = npt.NDArray[np.int8]

# What the keystream of each channel's signs is labeled: part of the key's format, and older than the channels' names.
_LABELS = {
    "class": "class-code/signs",
    "amplitude": "amplitude-code/signs",
    "class-choice": "query-code/signs",
    "tie": "tie-code/signs",
}


@dataclasses.dataclass(frozen=True, repr=False)
class Codebook:
    """What the key says about one number of classes. Secret: anybody who has it can strip or forge the mark.

    Attributes:
        class_signs: the class channel's secret signs, int8 of shape `(rows, columns)`, each -1 or +1.
        amplitude_signs: the amplitude channel's, int8 of shape `(min(C, 64), 4096)`; with L labels, of shape
            `(2 min(L, 32), 4096)`.
        tie_signs: the tie channel's, int8 of shape `(pairs, 4096)` with `pairs` = C (C - 1) / 2 up to 11 classes, else
            64; with L labels, `min(L, 32)`.
        class_choice_signs: the class-choice channel's, int8 of shape `(C, 4096)`. `None` where outputs are moved
            towards the whole favored set.
        pairs: the two favored classes of which a secret sign of the class-choice channel picks the target class, int32
            of shape `(C, 4096, 2)`; the same one twice where only one is favored, -1 where none is. `None` as before.
        keyed_hash: which secret signs an output gets.
    """

    class_signs: Signs
    amplitude_signs: Signs
    tie_signs: Signs
    class_choice_signs: Signs | None
    pairs: npt.NDArray[np.int32] | None
    keyed_hash: KeyedHash

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.keyed_hash.num_classes

    def signs(self, channel: str) -> Signs:
        """The sign table of a channel: `"class"`, `"class-choice"`, `"amplitude"` or `"tie"`."""
        signs: Signs | None = getattr(self, f"{channel.replace('-', '_')}_signs")
        if signs is None:
            raise ArgumentError(
                f"Outputs are moved towards all favored classes at once here, so there is no {channel} channel."
            )
        return signs

    @property
    def target_classes(self) -> npt.NDArray[np.int32] | None:
        """The target class of each output, int32 of shape `(C, 4096)`, by its predicted class and its hash; -1 where no
        class is favored. `None` where outputs are moved towards the whole favored set."""
        if self.pairs is None or self.class_choice_signs is None:
            return None
        return np.where(self.class_choice_signs > 0, self.pairs[..., 0], self.pairs[..., 1])

    def contrasts(self) -> npt.NDArray[np.int32] | None:
        """The pairs that the class-choice channel is tested on: those whose outputs the amplitude channel gives the
        budget.

        Returns:
            As `pairs`, but -1 where nothing is shifted, or towards the same class whatever the sign is.
        """
        if self.pairs is None:
            return None
        tested = (self.amplitude_signs > 0) & (self.pairs[..., 0] != self.pairs[..., 1])
        return np.where(tested[..., None], self.pairs, np.int32(-1))

    def favored_counts(self) -> npt.NDArray[np.int32]:
        """How many classes each predicted class t favors: those c != t whose sign in t's row is +1. Shape `(C,)`."""
        rows, column_of_class = self.keyed_hash.row_of_class, self.keyed_hash.column_of_class
        if self.num_classes == keyed_hash.TWO_CLASSES:
            return np.ones(self.num_classes, np.int32)  # each favors the other one, and other signs choose how far
        columns = self.class_signs.shape[1]
        classes_per_column = np.bincount(column_of_class, minlength=columns)
        positive = self.class_signs > 0
        per_row = positive @ classes_per_column
        own = positive[rows, column_of_class]
        return np.asarray(per_row[rows] - own, np.int32)

    def __repr__(self) -> str:
        rows, columns = self.class_signs.shape
        return f"<Codebook for {self.num_classes} classes, {rows} x {columns} class signs>"


def expand(key: Key, num_classes: int, params: MarkParams, num_labels: int = 1) -> Codebook:
    """Expands a key into the codebook for a classifier.

    Signs and hash come from separate labels, so that the signs are fair whatever the hash is; so do the signs of
    different channels, so that their p-values are independent. The evidence rests on both.

    Args:
        key: the owner's key, bound to the clean model by `MarkKey.bind`, or as it is.
        num_classes: number of classes C, at least 2.
        params: settings; only the table sizes and `amplitudes` matter here.
        num_labels: number of labels L of a model with sigmoids, whose answer to each has two classes.

    Raises:
        ArgumentError: fewer than two classes.
    """
    num_classes = check_num_classes(num_classes)
    rows, columns = params.table_shape(num_classes)
    class_signs = channel_signs(key, "class", num_classes, params, num_labels)
    has_target_class = params.has_target_class(num_classes)
    return Codebook(
        class_signs=class_signs,
        amplitude_signs=channel_signs(key, "amplitude", num_classes, params, num_labels),
        tie_signs=channel_signs(key, "tie", num_classes, params, num_labels),
        class_choice_signs=channel_signs(key, "class-choice", num_classes, params) if has_target_class else None,
        pairs=_pairs(key, class_signs) if has_target_class else None,
        keyed_hash=_keyed_hash(key, num_classes, rows, columns, num_labels),
    )


def channel_signs(key: Key, channel: str, num_classes: int, params: MarkParams, num_labels: int = 1) -> Signs:
    """The sign table of one channel; the same as in the whole codebook.

    Args:
        key: the owner's key.
        channel: `"class"`, `"amplitude"`, `"class-choice"` (which marks of many classes do not have) or `"tie"`.
        num_classes: number of classes C.
        params: settings of the mark.
        num_labels: number of labels L of a model with sigmoids.

    Returns:
        -1 and +1, int8 of the shape of the channel's table.
    """
    shapes = {
        "class": params.table_shape(num_classes),
        "class-choice": (num_classes, keyed_hash.HASH_SIZE),
        "amplitude": (keyed_hash.num_class_groups(num_classes, num_labels), keyed_hash.HASH_SIZE),
        "tie": (keyed_hash.num_pair_groups(num_classes, num_labels), keyed_hash.HASH_SIZE),
    }
    return signs(key, _LABELS[channel], *shapes[channel])


def signs(key: Key, label: str, rows: int, columns: int) -> Signs:
    """Secret signs -1/+1 of shape `(rows, columns)`: keystream bits in row order, least significant first, 1 is +1."""
    count = rows * columns
    stream = np.frombuffer(key.derive(f"{label}/{rows}x{columns}", -(-count // 8)), np.uint8)
    bits = np.unpackbits(stream, count=count, bitorder="little")
    return (2 * bits.astype(np.int8) - 1).reshape(rows, columns)


def class_map(key: Key, label: str, num_classes: int, size: int) -> npt.NDArray[np.int32]:
    """Maps classes to `size` rows or columns: the identity while they fit, else a keyed hash of the class index.

    The hash of class c is the c-th little-endian 32-bit word w of the keystream, scaled to `w * size >> 32`.
    """
    if num_classes <= size:
        return np.arange(num_classes, dtype=np.int32)
    words = _words(key, f"{label}/{num_classes}to{size}", num_classes)
    return np.asarray((words.astype(np.uint64) * size) >> np.uint64(32), np.int32)


def _pairs(key: Key, class_signs: Signs) -> npt.NDArray[np.int32]:
    """Between which two favored classes the sign of each hash value chooses.

    The n favored classes f_0 ... f_(n-1) of a predicted class are put in the order of their keystream words, the lower
    class first among equals. Column k chooses between f_(k mod n) and the one that comes 1 + (k div n) mod (n - 1)
    places later, cyclically: all pairs equally often.
    """
    num_classes = len(class_signs)
    drawn = _words(key, f"class-code/focus/{num_classes}", num_classes**2).reshape(num_classes, num_classes)
    table = np.full((num_classes, keyed_hash.HASH_SIZE, 2), -1, np.int32)
    columns = np.arange(keyed_hash.HASH_SIZE)
    for top in range(num_classes):
        order = np.argsort(drawn[top], kind="stable")
        favored = order[(class_signs[top, order] > 0) & (order != top)]
        if n := len(favored):
            later = 1 + columns // n % max(n - 1, 1)
            table[top] = favored[np.stack([columns, columns + later], axis=1) % n]
    return table


def _keyed_hash(key: Key, num_classes: int, rows: int, columns: int, num_labels: int) -> KeyedHash:
    hashed = _hashed_classes(key, num_classes)
    steps = _words(key, f"hash/offsets/{len(hashed)}", len(hashed))
    multipliers = np.frombuffer(key.derive(f"hash/multipliers/{len(hashed)}x2", 2 * len(hashed)), np.uint8)
    return KeyedHash(
        row_of_class=class_map(key, "class-code/rows", num_classes, rows),
        column_of_class=class_map(key, "class-code/columns", num_classes, columns),
        group_of_class=class_map(key, "hash/groups", num_classes, keyed_hash.GROUPS),
        hashed_classes=hashed,
        offsets=((steps >> 8) * 2.0**-24).astype(np.float32),  # 24 bits: exact in float32
        multipliers=(multipliers >> 2).astype(np.float32).reshape(-1, 2),  # 6 bits
        group_of_label=class_map(key, "hash/labels", num_labels, keyed_hash.LABEL_GROUPS),
    )


def _hashed_classes(key: Key, num_classes: int) -> npt.NDArray[np.int32]:
    """All classes up to 32; else the 32 with the smallest keystream words, the lower class first among equals."""
    if num_classes <= keyed_hash.HASHED_CLASSES:
        return np.arange(num_classes, dtype=np.int32)
    order = np.argsort(_words(key, f"hash/classes/{num_classes}", num_classes), kind="stable")
    return np.sort(order[: keyed_hash.HASHED_CLASSES]).astype(np.int32)


def _words(key: Key, label: str, count: int) -> npt.NDArray[np.uint32]:
    """Little-endian 32-bit words of the keystream."""
    return np.frombuffer(key.derive(label, 4 * count), "<u4")
