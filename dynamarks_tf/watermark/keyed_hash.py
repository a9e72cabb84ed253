"""Which secret sign an output gets: a keyed lattice hash of the clean probabilities, shared by marking and evidence.

The logarithms of some classes' probabilities are cut into steps, at offsets that only the key knows; the whole numbers
that result are mixed into one of 4,096 values. The same input gives the same value, since float noise matters only
within a hair of a step; inputs that differ get unrelated values. A step is one unit of the logarithm, and finer where
there are fewer than six classes, whose outputs would share a few values otherwise.

Outputs of two classes are one number, so the hash is the step on which it falls, unmixed: of log(1 + q / floor), q the
smaller probability, 512 to the unit; and, in the tie channel, of p_0 - p_1, 16,384 to the unit. Where class 1 is the
best, q may be the rounded rest of a sigmoid near 1; a larger floor keeps that rounding within a hundredth of a step,
and no step begins near q = 0, where many answers lie. A model with sigmoids gives each of its labels an output of two
classes, and each of up to 32 labels signs of its own.

All arithmetic but the logarithm is on whole numbers below 2^16 held in floats. It is exact in every precision that
matrix multiplication may use (TF32 and bfloat16 included), so processors can disagree only about which step a
logarithm falls on.

The functions take an array namespace, `numpy` or `keras.ops`, so that both sides run the same lines;
`KeyedHash.hashes` finds the same values faster, for many outputs in NumPy.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

KEYED_HASH = "lattice-64x64/2"
HASH_SIZE = 4096
GROUPS = 64
HASHED_CLASSES = 32
FLOOR = 1e-8
MULTIPLIERS = 64  # how many different ones there are
_UNSURE = 1e-4  # of a step; single-precision logarithms are off by less than a tenth of it
HALF_SIZE = 64  # HASH_SIZE is its square
_PAIRED_CLASSES = 11  # 55 pairs fit into 64 groups; 12 classes have 66
_PAIR_FACTOR = 13
_STEPS_PER_UNIT = {3: 16.0, 4: 4.0, 5: 2.0}  # of a logarithm; 1 for more classes
TWO_CLASSES = 2
LABEL_GROUPS = 32
_FLOORS_OF_TWO = 2e-4, 4e-3  # where class 0 is the best, and where class 1 is
_STEPS_OF_TWO = 512.0  # to a unit of the logarithm
_STEPS_OF_TIE = 16384.0  # to a unit of p_0 - p_1

Tensor = Any


@dataclasses.dataclass(frozen=True, repr=False)
class KeyedHash:
    """Where the outputs of a classifier with C classes fall. Secret like the signs, and independent of them.

    Attributes:
        row_of_class: class channel: row of each predicted class, int32 of shape `(C,)`.
        column_of_class: class channel: column of each other class, int32 of shape `(C,)`.
        group_of_class: hashed channels: group of each class, int32 in [0, 64) of shape `(C,)`.
        hashed_classes: the classes whose logarithms are hashed, increasing, int32 of shape `(min(C, 32),)`.
        offsets: where the steps of each of them begin, float32 in [0, 1), the same shape. With two classes, where the
            steps of the class hash and of the tie hash begin.
        multipliers: whole numbers in [0, 64) that mix the steps, float32 of shape `(min(C, 32), 2)`.
        group_of_label: group of each label of a model with sigmoids, int32 in [0, 32) of shape `(L,)`; one 0 for a
            softmax.
    """

    row_of_class: npt.NDArray[np.int32]
    column_of_class: npt.NDArray[np.int32]
    group_of_class: npt.NDArray[np.int32]
    hashed_classes: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.float32]
    multipliers: npt.NDArray[np.float32]
    group_of_label: npt.NDArray[np.int32]

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return int(self.row_of_class.shape[0])

    @property
    def num_labels(self) -> int:
        """Number of labels L that each have an output of their own; 1 for a softmax."""
        return int(self.group_of_label.shape[0])

    @property
    def num_class_groups(self) -> int:
        """Rows of the tables of amplitude and class-choice channel."""
        return num_class_groups(self.num_classes, self.num_labels)

    @property
    def num_pair_groups(self) -> int:
        """Rows of the tie channel's table."""
        return num_pair_groups(self.num_classes, self.num_labels)

    def class_groups(self, classes: npt.NDArray[Any], labels: npt.NDArray[Any] | None) -> npt.NDArray[np.intp]:
        """Row of each output's entry in the tables of amplitude and class-choice channel.

        Args:
            classes: the class by which each output goes, ints of shape `(n,)`.
            labels: the label that it is about, ints of the same shape; `None` if there is one.
        """
        groups = self.group_of_class[classes]
        return np.asarray(groups if labels is None else groups + TWO_CLASSES * self.group_of_label[labels], np.intp)

    def tie_groups(
        self, low: npt.NDArray[Any], high: npt.NDArray[Any], labels: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.intp]:
        """Row of each output's entry in the tie channel's table, by its two best classes, the smaller one first."""
        if labels is not None:
            return np.asarray(self.group_of_label[labels], np.intp)
        return np.asarray(pair_group(low, high, self.group_of_class, self.num_classes, np), np.intp)

    def tie_hashes(self, p: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """What `hashes` is to the other channels, for the tie channel; the same but for two classes."""
        if self.num_classes > TWO_CLASSES:
            return self.hashes(p.astype(np.float64))
        return _whole(tie_hash_of_two(p.astype(np.float64), float(self.offsets[1]), np))

    def hashes(self, p: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """Hash of each output: ints in [0, 4096) of shape `(n,)` for probabilities of shape `(n, C)`.

        It is that of logarithms in double precision, since processors differ in the last bits of single-precision ones.
        Those will do where they are not near the edge of a step, and are much faster.
        """
        if self.num_classes == TWO_CLASSES:
            with np.errstate(invalid="ignore"):  # NaN and infinities
                return _whole(hash_of_two(p.astype(np.float64), float(self.offsets[0]), np))
        fineness = steps_per_unit(self.num_classes)
        hashed = p if len(self.hashed_classes) == self.num_classes else p[:, self.hashed_classes]
        if hashed.dtype == np.float64:
            hashed = np.minimum(np.where(np.isnan(hashed), 0.0, hashed), 1.0)
            return np.asarray(hash_value(hashed, self.offsets, self.multipliers, fineness, np), np.intp)
        places = np.clip(hashed.T, FLOOR, 1, dtype=np.float32, order="C")
        np.log(places, out=places)
        places *= fineness
        places += self.offsets[:, None]
        steps = np.floor(places)
        with np.errstate(invalid="ignore"):  # NaN
            sums = (self.multipliers.T @ steps).astype(np.int32)
        found = join_halves(np.bitwise_and(sums, HALF_SIZE - 1).T)  # HALF_SIZE is a power of two
        places -= steps
        unsure_width = _UNSURE * fineness
        sure = (places.min(axis=0) > unsure_width) & (places.max(axis=0) < 1 - unsure_width)  # not with NaN
        unsure = np.flatnonzero(~sure)
        found[unsure] = self.hashes(p[unsure].astype(np.float64))
        return np.asarray(found, np.intp)

    def __repr__(self) -> str:
        return f"<KeyedHash for {self.num_classes} classes>"


def _whole(hashes: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Hashes as ints; 0 for whatever comes of a NaN."""
    return np.asarray(np.nan_to_num(hashes), np.intp)


def steps_per_unit(num_classes: int) -> float:
    """How many steps of the hash make one unit of a logarithm, for three classes or more."""
    return _STEPS_PER_UNIT.get(num_classes, 1.0)


def hash_of_two(p: Tensor, offset: Tensor, xp: Any) -> Tensor:
    """The hash of outputs with two classes: the step of their smaller probability's logarithm.

    Args:
        p: probabilities, shape `(..., 2)`.
        offset: where the steps begin, from 0 to 1: q = 0 lies that far between a quarter and three quarters of a step.
        xp: the array namespace, `numpy` or `keras.ops`.

    Returns:
        Whole numbers in [0, 4096) as floats, shape `(...)`.
    """
    smaller = xp.maximum(xp.minimum(p[..., 0], p[..., 1]), 0.0)
    floored = xp.where(p[..., 1] > p[..., 0], smaller / _FLOORS_OF_TWO[1], smaller / _FLOORS_OF_TWO[0])
    return xp.mod(xp.floor(xp.log(floored + 1.0) * _STEPS_OF_TWO + (0.25 + 0.5 * offset)), HASH_SIZE)


def tie_hash_of_two(p: Tensor, offset: Tensor, xp: Any) -> Tensor:
    """The tie channel's hash of outputs with two classes: the step of p_0 - p_1. Arguments and result as before."""
    return xp.mod(xp.floor((p[..., 0] - p[..., 1]) * _STEPS_OF_TIE + offset), HASH_SIZE)


def hash_value(p: Tensor, offsets: Tensor, multipliers: Tensor, fineness: float, xp: Any) -> Tensor:
    """Mixes the steps on which the logarithms of some probabilities fall.

    Args:
        p: probabilities of the hashed classes, shape `(..., K)`; above 1 by rounding only. Of a NaN or an infinity
            anything may come.
        offsets: where the steps begin, in units of a step, shape `(K,)`.
        multipliers: whole numbers in [0, 64), shape `(K, 2)`.
        fineness: steps to a unit; see `steps_per_unit`.
        xp: the array namespace, `numpy` or `keras.ops`.

    Returns:
        Whole numbers in [0, 4096) as floats, shape `(...)`.
    """
    return join_halves(hash_halves(p, offsets, multipliers, fineness, xp))


def hash_halves(p: Tensor, offsets: Tensor, multipliers: Tensor, fineness: float, xp: Any) -> Tensor:
    """The two halves of `hash_value`: whole numbers in [0, 64) as floats, shape `(..., 2)`."""
    logs = xp.log(xp.maximum(p, FLOOR))
    if fineness == 1.0:  # steps from -19 to 0
        return xp.mod(xp.matmul(xp.floor(logs + offsets), multipliers), HALF_SIZE)
    steps = xp.mod(xp.floor(logs * fineness + offsets), HALF_SIZE)  # small enough for bfloat16
    return xp.mod(xp.matmul(steps, multipliers), HALF_SIZE)


def join_halves(halves: Tensor) -> Tensor:
    """The hash that two halves make, whole numbers in [0, 4096), shape `(...)` for halves of shape `(..., 2)`."""
    return halves[..., 0] * HALF_SIZE + halves[..., 1]


def num_class_groups(num_classes: int, num_labels: int = 1) -> int:
    """Rows of the amplitude channel's table."""
    return min(num_classes, GROUPS) * num_label_groups(num_labels)


def num_pair_groups(num_classes: int, num_labels: int = 1) -> int:
    """Rows of the tie channel's table."""
    pairs = num_classes * (num_classes - 1) // 2 if num_classes <= _PAIRED_CLASSES else GROUPS
    return pairs * num_label_groups(num_labels)


def num_label_groups(num_labels: int) -> int:
    """How many groups the labels of a model with sigmoids make."""
    return min(num_labels, LABEL_GROUPS)


def pair_group(low: Tensor, high: Tensor, group_of_class: Tensor | None, num_classes: int, xp: Any) -> Tensor:
    """Row of the tie channel's table for a pair of classes: its own up to 11 classes, else shared with other pairs.

    Args:
        low: the smaller class index of each pair, ints of any shape.
        high: the larger one, the same shape.
        group_of_class: group of each class, ints of shape `(C,)`; `None` if each has its own.
        num_classes: C.
        xp: the array namespace, `numpy` or `keras.ops`.

    Returns:
        Ints in [0, `num_pair_groups(C)`), the same shape.
    """
    if num_classes <= _PAIRED_CLASSES:
        return high * (high - 1) // 2 + low
    if group_of_class is not None:
        low, high = xp.take(group_of_class, low, axis=0), xp.take(group_of_class, high, axis=0)
    return (_PAIR_FACTOR * low + high) % GROUPS
