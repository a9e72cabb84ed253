"""The mark as pure functions over `keras.ops`: what happens to one output vector, on every Keras backend.

Words: `p` is a clean probability vector over C classes, `top` its best class t, the *favoured* classes are those
c != t with sign +1 in the row of t, and U is uniform over them. The class code releases

    p' = p + a (U - p),    0 <= a <= alpha,

with `a` as large as keeps t on top. Hence p' >= 0, sum p' = sum p, and the total variation between p and p' is
a TV(U, p) <= alpha. The amplitude code lets a coin choose alpha for each input, 0 or the whole budget. The tie code
lets a coin choose the winner where the two best classes are nearly equal, within the same budget, before the class
code. Source: the scheme of this project, after the idea of DynaMarks (arXiv 2207.13321); its paper's text was not
available, so the formulas are ours.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

Tensor = Any

# Machine epsilon of what an output is rounded to, and the smallest step of what cannot be smaller.
_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_SMALLEST_STEP = {"float16": 2.0**-24}
_ARITHMETIC_SLACK = 8
_SORTED_CLASSES = 32  # beyond, two passes for the largest value are faster than one that keeps two
_TRACE = 1e-30  # of each class in a sum of one of them: nothing, unless it is NaN or infinite
_TIE_SLACK = 8  # leads that a tie is narrower than its limit, so that the winner is ahead by half as many


class BestTwo(NamedTuple):
    """The two best classes of a batch.

    Attributes:
        classes: best class, the first among ties, and best class but one, int32 of shape `(..., 2)`.
        p_top: probability of the best class, shape `(..., 1)`.
        p_second: probability of the best class but one.
    """

    classes: Tensor
    p_top: Tensor
    p_second: Tensor

    @property
    def top(self) -> Tensor:
        """Best class, shape `(...)`."""
        return self.classes[..., 0]

    @property
    def second(self) -> Tensor:
        """Best class but one, shape `(...)`."""
        return self.classes[..., 1]


class TieCode(NamedTuple):
    """What the tie code does to a batch, shape `(..., 1)` each.

    Attributes:
        shift: probability that moves from the second best class to the best one; 0 in rows that are no tie.
        moved: total variation that it takes.
        is_tie: whether the row is one.
        second_wins: whether the second best class is the best one afterwards.
    """

    shift: Tensor
    moved: Tensor
    is_tie: Tensor
    second_wins: Tensor


def arithmetic_dtype(dtype: str) -> str:
    """The type the mark is computed in for outputs of type `dtype`: float64 for itself, else float32.

    Raises:
        ValueError: `dtype` is no floating-point type that the mark supports.
    """
    if dtype not in _EPSILON:
        raise ValueError(
            f"The mark changes probabilities of type {', '.join(sorted(_EPSILON))}. Received inputs of type {dtype}."
        )
    return "float64" if dtype == "float64" else "float32"


def safe_lead(top: Tensor, dtype: str) -> Tensor:
    """What the top class must stay ahead by, so that no rounding can turn its lead into a tie.

    Args:
        top: probability of the top class.
        dtype: the type that the released output is rounded to.

    Returns:
        A few machine epsilons of `top`: of the arithmetic, and of the released type.
    """
    relative = _ARITHMETIC_SLACK * _EPSILON[arithmetic_dtype(dtype)]
    if dtype in ("float16", "bfloat16"):
        relative += 2 * _EPSILON[dtype]
    lead = top * relative
    return lead + 2 * _SMALLEST_STEP[dtype] if dtype in _SMALLEST_STEP else lead


def predicted_class(p: Tensor) -> Tensor:
    """Index of the largest probability, the first one among ties; int32 of shape `(...)` for p of shape `(..., C)`.

    Floats that are not negative are ordered like the integers with the same bits, and backends find the largest
    integer much faster, because `ops.argmax` tells -0.0 from 0.0 first.
    """
    bits = "int64" if keras.backend.standardize_dtype(p.dtype) == "float64" else "int32"
    return ops.argmax(ops.view(p, dtype=bits), axis=-1)


def predicted_class_of_logits(logits: Tensor) -> Tensor:
    """Index of the largest logit, the first one among ties; int32 of shape `(...)`."""
    return ops.argmax(ops.equal(logits, largest(logits)), axis=-1)


def largest(values: Tensor) -> Tensor:
    """Maximum over the classes, shape `(..., 1)`; also for an empty batch."""
    if keras.backend.backend() != "tensorflow":
        return ops.max(values, axis=-1, keepdims=True, initial=-np.inf)
    import tensorflow as tf

    return tf.reduce_max(values, axis=-1, keepdims=True)  # Keras would add an operation for `initial`


def best_two(p: Tensor, logits: Tensor | None = None) -> BestTwo:
    """The best class and the best but one.

    Args:
        p: probabilities, shape `(..., C)`.
        logits: their logits, if those decide which class is best; different logits may have equal probabilities.
    """
    num_classes = p.shape[-1]
    if keras.backend.backend() == "tensorflow" and num_classes <= _SORTED_CLASSES:
        values, classes = ops.top_k(p, 2)
        if logits is not None:
            first, second = ops.split(classes, 2, axis=-1)
            top = ops.top_k(logits, 1)[1]
            classes = ops.concatenate([top, ops.where(ops.equal(first, top), second, first)], axis=-1)
        return BestTwo(classes, *ops.split(values, 2, axis=-1))
    top = predicted_class(p) if logits is None else predicted_class_of_logits(logits)
    others = p * all_but(top, num_classes, p.dtype)
    classes = ops.stack([top, predicted_class(others)], axis=-1)
    return BestTwo(classes, largest(p), largest(others))


def strength(
    best: BestTwo,
    p_favoured: Tensor,
    share: float | Tensor,
    alpha: float | Tensor,
    lead: Tensor,
    *,
    is_lead_kept: bool = False,
) -> Tensor:
    """How far each row may move towards U: `a` = the largest value up to `alpha` that keeps the top class on top.

    With the gap g = p_t - max p_c over favoured c, the new gap is g - a (g + share), so a <= (g - lead) / (g + share).
    Classes that are not favoured shrink in step with the top class; only if the runner-up is nearer than `lead` could
    rounding make it a tie, so such a row is left alone.

    Args:
        best: the two best classes.
        p_favoured: the largest probability of a favoured class, shape `(..., 1)`.
        share: probability of one favoured class under U, above 0, a number or a tensor of shape `(..., 1)`.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        lead: what the top class must stay ahead by, shape `(..., 1)`; see `safe_lead`.
        is_lead_kept: whether every runner-up is known to be further behind; see `ties_keep_a_lead`.

    Returns:
        `a`, shape `(..., 1)`.
    """
    gap = best.p_top - p_favoured
    allowed = ops.maximum(gap - lead, 0.0) / (gap + share)
    if is_lead_kept:
        return ops.minimum(allowed, alpha)
    moves = ops.cast(lead < best.p_top - best.p_second, lead.dtype)  # to multiply is faster than `where`
    return moves * ops.minimum(allowed, alpha)


def class_code(
    p: Tensor,
    best: BestTwo,
    favoured: Tensor,
    share: float | Tensor,
    alpha: float | Tensor,
    dtype: str,
    *,
    is_lead_kept: bool = False,
) -> Tensor:
    """Moves probability vectors towards the favoured classes: p' = p + a (U - p).

    Args:
        p: probabilities, shape `(..., C)`.
        best: their two best classes.
        favoured: 1 where a class is favoured, else 0; shape and dtype of `p`.
        share: probability of one favoured class under U, a number or a tensor of shape `(..., 1)`.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        dtype: the type that p' will be rounded to.
        is_lead_kept: whether every runner-up is known to be further behind than the safe lead.

    Returns:
        p', shape and dtype of `p`. NaN in rows that hold a NaN or an infinity.
    """
    lead = safe_lead(best.p_top, dtype)
    a = strength(best, largest(p * favoured), share, alpha, lead, is_lead_kept=is_lead_kept) + zero_or_nan(p)
    return p * (1.0 - a) + favoured * (a * share)


def raise_class(p: Tensor, p_top: Tensor, raised: Tensor, alpha: float | Tensor, dtype: str) -> Tensor:
    """The class code with U a single class: what `class_code` does with a share of 1, in fewer operations.

    With twice the safe lead kept back, `a` may be room / (room + 1) for the room that is left: the lead that remains
    is at least the safe one. It takes a runner-up further behind than that for granted; see `ties_keep_a_lead`.

    Args:
        p: probabilities, shape `(..., C)`.
        p_top: the largest of them, shape `(..., 1)`.
        raised: 1 at the class to be raised, 0 elsewhere; the shape of `p`. The best class itself is left alone.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        dtype: the type that p' will be rounded to.

    Returns:
        p', shape and dtype of `p`. NaN in rows that hold a NaN or an infinity, which spoils the sum and the quotient,
        whatever maxima and minima make of it.
    """
    p_raised = ops.sum(p * (raised + _TRACE), axis=-1, keepdims=True)  # compilers would not multiply by 0
    room = (p_top - 2 * safe_lead(p_top, dtype)) - p_raised
    reach = room + 1.0
    a = ops.minimum(ops.maximum(room, 0.0), alpha * reach) / reach
    return p + a * (raised - p)


def class_code_logits(
    relative: Tensor,
    p: Tensor,
    best: BestTwo,
    favoured: Tensor,
    share: float | Tensor,
    alpha: float | Tensor,
    dtype: str,
) -> Tensor:
    """The class code on logits: returns log p' up to a constant per row, chosen so that the top class is at 0.

    Relative to the top class, a class that is not favoured keeps its logit exactly, so ties and order survive.

    Args:
        relative: logits relative to the top class, shape `(..., C)`. A class may have -inf: p = 0.
        p: their softmax, the same shape.
        best: their two best classes.
        favoured: 1 where a class is favoured, else 0; the same shape.
        share: probability of one favoured class under U, a number or a tensor of shape `(..., 1)`.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        dtype: the type that the result will be rounded to.

    Returns:
        Logits z' with softmax(z') = p', shape and dtype of `relative`. NaN in rows that hold a NaN or an infinity.
    """
    a = strength(best, largest(p * favoured), share, alpha, safe_lead(best.p_top, dtype)) + zero_or_nan(p)
    raised = (p * (1.0 - a) + a * share) / (best.p_top * (1.0 - a))
    moved = favoured * a > 0
    result = ops.where(moved, ops.log(ops.where(moved, raised, 1.0)), relative)
    return ops.where(ops.isfinite(a), result, np.nan)


def zero_or_nan(p: Tensor) -> Tensor:
    """0 for each row, but NaN for one that holds a NaN or an infinity; shape `(..., 1)`.

    A sum is finite only if all its terms are; a maximum may pass over NaN, as XLA's does. The remainder of a whole
    number by 1 is 0, that of an infinity is NaN, and no optimiser takes it for a constant, as it would 0 * x.
    """
    return ops.mod(ops.floor(ops.sum(p, axis=-1, keepdims=True)), 1.0)


def amplitude(coins: Tensor, left: float | Tensor) -> Tensor:
    """The class code's alpha for each input: nothing where the coin is -1, all that is left of the budget where +1."""
    return ops.maximum(coins, 0.0) * left


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


def tie_code(best: BestTwo, coins: Tensor, margin: float, budget: float, dtype: str) -> TieCode:
    """Lets a coin decide which of the two best classes wins where they are nearly equal.

    A row is a tie if |log(p_t / p_b)| < margin and p_t - p_b < 2 budget, for its best class t and the next one b; that
    is, if the gap d = p_t - p_b is below g = min((p_t + p_b) tanh(margin / 2), 2 budget). The class that the coin names
    gets ahead: where its gap is x (d or -d, in (-g, g)), it becomes (x + g) / 2, in (0, g). Gaps that are spread evenly
    over (-g, g) are spread evenly over (0, g) afterwards: the size of a gap tells nobody whether the coin decided. The
    total variation is (g - x) / 4 < g / 2 <= budget.

    Args:
        best: the two best classes.
        coins: +1 where the best class shall win, -1 where the other; shape `(..., 1)`. 0 changes nothing.
        margin: largest |log(p_t / p_b)| of a tie, above 0.
        budget: largest total variation.
        dtype: the type that the output will be rounded to.
    """
    gap = best.p_top - best.p_second
    limit = ops.minimum((best.p_top + best.p_second) * math.tanh(margin / 2), 2 * budget)
    is_tie = gap < limit - _TIE_SLACK * safe_lead(best.p_top, dtype)
    moved = ops.cast(is_tie, gap.dtype) * ((limit - coins * gap) / 4)
    shift = coins * moved
    return TieCode(shift, moved, is_tie, second_wins=shift < 0)


def after_ties(best: BestTwo, tie: TieCode) -> BestTwo:
    """The two best classes after the tie code."""
    one, other = best.p_top + tie.shift, best.p_second - tie.shift
    classes = ops.where(tie.second_wins, ops.flip(best.classes, axis=-1), best.classes)
    return BestTwo(classes, ops.maximum(one, other), ops.minimum(one, other))


def ties_keep_a_lead(margin: float, budget: float, dtype: str) -> bool:
    """Whether the best class is ahead by more than the safe lead in every row once ties are decided.

    It is where ties are wide enough: who wins one is ahead by half of the slack, and who is in none by the width less
    the slack. Not claimed for 16-bit types, whose leads are not small beside the budget.
    """
    if dtype in ("float16", "bfloat16"):
        return False
    width = min(math.tanh(margin / 2), 2 * budget)  # of a tie, at least, as a share of `p_top`
    return width > (_TIE_SLACK + 2) * _ARITHMETIC_SLACK * _EPSILON[dtype]


def tie_code_logits(relative: Tensor, p: Tensor, best: BestTwo, tie: TieCode, is_pair: Tensor, p_top: Tensor) -> Tensor:
    """The tie code on logits: relative to the class that is on top afterwards, which is at 0.

    Args:
        relative: logits relative to the class that was on top before, shape `(..., C)`.
        p: probabilities after the tie code.
        best: the two best classes before.
        tie: what the tie code did.
        is_pair: whether a class is one of the two, the shape of `p`.
        p_top: largest probability after the tie code, shape `(..., 1)`.
    """
    pair = ops.log(ops.where(is_pair, p / p_top, 1.0))
    others = relative + ops.log(best.p_top / p_top)
    return ops.where(tie.is_tie, ops.where(is_pair, pair, others), relative)
