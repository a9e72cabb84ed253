"""Public settings of a mark. They may be written to configs and reports; nothing here is secret."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any, Literal

from dynamarks_tf.errors import ArgumentError

Activation = Literal["softmax", "sigmoid"]
ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid")
MAX_BUDGET = 0.5
DEFAULT_BUDGET = 0.05
MAX_TIE_MARGIN = 2.0
DEFAULT_TIE_MARGIN = 0.5
TABLE_CAP = 1024
MAX_TARGETED_CLASSES = 32
SHARED_SIGNS = 200


@dataclasses.dataclass(frozen=True)
class MarkParams:
    """How strong a mark is and how large its tables may grow.

    Args:
        budget: largest total variation between the clean and the released output of one query, in (0, 0.5].
            0.05 moves at most five percentage points of probability.
        table_rows: largest number of rows of the class channel's sign table. With more classes than that, a keyed hash
            maps the predicted class to a row. `None`: a row for each of up to 32 classes, and a single row for more: a
            surrogate then sees each sign more often, and learns it better. A number adds rows for 33 to 199 classes, as
            many as give about 200 signs.
        table_columns: largest number of columns, which stand for the other classes.
        tie_margin: how near a tie the two best classes must be for the key to choose which one wins: the largest
            |log(p_a / p_b)|, in [0, 2]. 0 switches the tie channel off: the top-1 answer then never changes, and an
            attacker who keeps labels only receives no marked output. The budget holds for ties too, so with a budget of
            0.05 nothing changes beyond a margin of about 0.2.
        amplitudes: whether the key varies max_shift from input to input (the amplitude channel) and, with up to 32
            classes, spends it on a single target class each time (the class-choice channel).

    Raises:
        ArgumentError: a value is outside its range.
    """

    budget: float = DEFAULT_BUDGET
    table_rows: int | None = None
    table_columns: int = TABLE_CAP
    tie_margin: float = DEFAULT_TIE_MARGIN
    amplitudes: bool = True

    def __post_init__(self) -> None:
        budget: Any = self.budget
        if not _is_number(budget, numbers.Real) or not 0 < budget <= MAX_BUDGET:
            raise ArgumentError(
                f"`budget` is the largest total variation the mark may cause: a number above 0 and at most "
                f"{MAX_BUDGET}. Received: budget={budget!r}"
            )
        margin: Any = self.tie_margin
        if not _is_number(margin, numbers.Real) or not 0 <= margin <= MAX_TIE_MARGIN:
            raise ArgumentError(
                f"`tie_margin` is the largest |log(p_a / p_b)| of two classes that counts as a tie: a number from 0 "
                f"(ties are left alone) to {MAX_TIE_MARGIN}. Received: tie_margin={margin!r}"
            )
        if self.amplitudes not in (True, False):  # as 0 and 1 too, and as NumPy has them
            raise ArgumentError(f"`amplitudes` must be True or False. Received: amplitudes={self.amplitudes!r}")
        for name in ("table_rows", "table_columns"):
            size: Any = getattr(self, name)
            if size is None and name == "table_rows":
                continue
            if not _is_number(size, numbers.Integral) or not 1 <= size <= 65536:
                raise ArgumentError(f"`{name}` must be a whole number from 1 to 65536. Received: {name}={size!r}")
            object.__setattr__(self, name, int(size))
        object.__setattr__(self, "budget", float(budget))
        object.__setattr__(self, "tie_margin", float(margin))
        object.__setattr__(self, "amplitudes", bool(self.amplitudes))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that the mark has."""
        hashed = {"amplitude": self.amplitudes, "class-choice": self.amplitudes, "tie": self.tie_margin > 0}
        named = {"class": True, **hashed}
        return tuple(name for name, is_on in named.items() if is_on)

    def table_shape(self, num_classes: int) -> tuple[int, int]:
        """Rows and columns of the class channel's sign table for a classifier with `num_classes` classes."""
        columns = min(num_classes, self.table_columns)
        if num_classes <= MAX_TARGETED_CLASSES:
            return min(num_classes, self.table_rows or num_classes), columns
        return min(-(-SHARED_SIGNS // num_classes), self.table_rows or 1), columns

    def has_target_class(self, num_classes: int) -> bool:
        """Whether each output is moved towards a single favored class, picked by the hash, instead of all of them.

        With many classes a surrogate would see each of them as a target too rarely to learn it. Two classes leave
        nothing to choose: each is moved towards the other.
        """
        has_table = self.table_shape(num_classes) == (num_classes, num_classes)
        return self.amplitudes and has_table and 2 < num_classes <= MAX_TARGETED_CLASSES

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values for JSON."""
        return dataclasses.asdict(self)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check_num_classes(num_classes: int | None) -> int:
    """Returns `num_classes` if a mark can be put on that many classes.

    Raises:
        ArgumentError: the number is unknown or below 2.
    """
    if num_classes is None:
        raise ArgumentError(
            "The last axis of the output, the number of classes, is unknown (None). The mark needs it when it is "
            "built: give the model's last layer a fixed number of units."
        )
    if num_classes < 2:
        raise ArgumentError(
            f"The output has {num_classes} class; the mark moves probability between classes and needs at least 2. "
            "A binary classifier with one sigmoid is marked with activation='sigmoid' (--activation sigmoid)."
        )
    return int(num_classes)


def answer_shape(num_outputs: int | None, activation: str) -> tuple[int, int]:
    """How many classes the answers of a model with so many outputs have, and how many labels it answers.

    Args:
        num_outputs: size of the last axis of the output.
        activation: `"softmax"`: one answer of C classes. `"sigmoid"`: L answers of two classes.

    Returns:
        `(C, 1)` or `(2, L)`.

    Raises:
        ArgumentError: the number is unknown, or below what the activation needs.
    """
    if activation == "sigmoid" and num_outputs is not None and num_outputs >= 1:
        return 2, int(num_outputs)
    return check_num_classes(num_outputs), 1


def class_channel_floor_log10(num_classes: int, params: MarkParams) -> float:
    """Smallest log10 p-value that the class channel can ever reach: one secret sign for each of its cells.

    Args:
        num_classes: number of classes C.
        params: settings of the mark.

    Returns:
        `-cells * log10(2)`; about -27.1 for 10 classes. 0 for 2: the evidence compares the classes beside the best
        one with each other, and two classes leave only one.
    """
    if num_classes == 2:
        return 0.0
    rows, columns = params.table_shape(num_classes)
    cells = rows * (columns - 1) if rows == columns == num_classes else rows * columns  # none beside itself
    return -cells * math.log10(2)
