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
_TIE_SLACK = 8  # leads that a tie is narrower than its limit, so that the winner is ahead by half as many


class TieCode(NamedTuple):
    """What the tie code does to a batch.

    Attributes:
        p: probabilities, shape `(..., C)`; only the two best classes of a tie have changed.
        top: the best class now, int32 of shape `(...)`.
        moved: total variation that it took, shape `(..., 1)`; 0 in rows that are no tie.
        is_tie: whether the row is one, shape `(..., 1)`.
        pair: 1 for the two best classes of every row, 0 for the others; shape and dtype of `p`.
    """

    p: Tensor
    top: Tensor
    moved: Tensor
    is_tie: Tensor
    pair: Tensor


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
    return top * relative + 2 * _SMALLEST_STEP.get(dtype, 0.0)


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
    return ops.max(values, axis=-1, keepdims=True, initial=-np.inf)


def smallest(values: Tensor) -> Tensor:
    """Minimum over the classes, shape `(..., 1)`; also for an empty batch."""
    return ops.min(values, axis=-1, keepdims=True, initial=np.inf)


def strength(p: Tensor, top: Tensor, signs: Tensor, share: Tensor, alpha: float | Tensor, lead: Tensor) -> Tensor:
    """How far each row may move towards U: `a` = the largest value up to `alpha` that keeps the top class on top.

    With the gap g = p_t - max p_c over favoured c, the new gap is g - a (g + share), so a <= (g - lead) / (g + share).
    Classes that are not favoured shrink in step with the top class; only if one of them is nearer than `lead` could
    rounding make it a tie, so such a row is left alone.

    Args:
        p: probabilities, shape `(..., C)`.
        top: the largest probability p_t, shape `(..., 1)`.
        signs: +1 where a class is favoured, -1 where not, 0 for the top class; shape and dtype of `p`.
        share: probability of one favoured class under U, shape `(..., 1)`; not above 0 in rows that favour no class.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        lead: what the top class must stay ahead by, shape `(..., 1)`; see `safe_lead`.

    Returns:
        `a`, shape `(..., 1)`; 0 in rows that are released unchanged, NaN in rows that hold a NaN or an infinity.
    """
    signed = p * signs
    gap = top - largest(signed)
    others = top + smallest(signed)  # the lead over the classes that are not favoured
    allowed = ops.maximum(gap - lead, 0.0) / (gap + share)
    moves = ops.logical_and(share > 0, others >= lead)
    a = ops.where(moves, ops.minimum(allowed, alpha), 0.0)
    # A sum is finite only if all its terms are; a maximum may pass over NaN, as XLA's does. Written with `where`: an
    # optimiser may fold 0 * x to 0.
    return ops.where(ops.isfinite(ops.sum(p, axis=-1, keepdims=True)), a, np.nan)


def class_code(p: Tensor, signs: Tensor, share: Tensor, alpha: float | Tensor, dtype: str) -> Tensor:
    """Moves probability vectors towards the favoured classes: p' = p + a (U - p).

    Args:
        p: probabilities, shape `(..., C)`.
        signs: +1 where a class is favoured, -1 where not, 0 for the top class; shape and dtype of `p`.
        share: probability of one favoured class under U, shape `(..., 1)`.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        dtype: the type that p' will be rounded to.

    Returns:
        p', shape and dtype of `p`.
    """
    top = largest(p)
    a = strength(p, top, signs, share, alpha, safe_lead(top, dtype))
    return p * (1.0 - a) + ops.maximum(signs * (a * share), 0.0)


def class_code_logits(
    relative: Tensor, p: Tensor, signs: Tensor, share: Tensor, alpha: float | Tensor, dtype: str
) -> Tensor:
    """The class code on logits: returns log p' up to a constant per row, chosen so that the top class is at 0.

    Relative to the top class, a class that is not favoured keeps its logit exactly, so ties and order survive.

    Args:
        relative: logits relative to the top class, shape `(..., C)`. A class may have -inf: p = 0.
        p: their softmax, the same shape.
        signs: +1 where a class is favoured, -1 where not, 0 for the top class; the same shape.
        share: probability of one favoured class under U, shape `(..., 1)`.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        dtype: the type that the result will be rounded to.

    Returns:
        Logits z' with softmax(z') = p', shape and dtype of `relative`.
    """
    top = largest(p)
    a = strength(p, top, signs, share, alpha, safe_lead(top, dtype))
    raised = (p * (1.0 - a) + a * share) / (top * (1.0 - a))
    moved = ops.logical_and(signs > 0, a > 0)
    result = ops.where(moved, ops.log(ops.where(moved, raised, 1.0)), relative)
    return ops.where(ops.isfinite(a), result, np.nan)


def amplitude(coins: Tensor, budget: float) -> Tensor:
    """The class code's alpha for each input: nothing where the coin is -1, the whole budget where it is +1."""
    return (1.0 + coins) * (budget / 2)


def runner_up(p: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """The best class but one.

    Args:
        p: probabilities, shape `(..., C)`.
        top: best class, int32 of shape `(...)`.

    Returns:
        Its index, the first among ties, int32 of shape `(...)`; its probability, shape `(..., 1)`.
    """
    others = p * (1.0 - one_hot(top, p))
    return predicted_class(others), largest(others)


def look_up(table: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """`ops.take` for indices that are never negative; to look for those costs a fifth of the time of the whole mark."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, index, axis=axis)
    import tensorflow as tf

    return tf.gather(ops.convert_to_tensor(table), index, axis=axis)


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """1 at a class index and 0 elsewhere; shape and dtype of `like`, for `index` of shape `(...)`.

    Multiplying by it is several times as fast as `ops.where` with a comparison of indices.
    """
    return ops.one_hot(index, like.shape[-1], dtype=keras.backend.standardize_dtype(like.dtype))


def tie_code(
    p: Tensor,
    top: Tensor,
    second: Tensor,
    p_second: Tensor,
    coins: Tensor,
    margin: float,
    budget: float,
    dtype: str,
) -> TieCode:
    """Lets a coin decide which of the two best classes wins where they are nearly equal.

    A row is a tie if |log(p_t / p_b)| < margin and p_t - p_b < 2 budget, for its best class t and the next one b; that
    is, if the gap d = p_t - p_b is below g = min((p_t + p_b) tanh(margin / 2), 2 budget). The class that the coin names
    gets ahead: where its gap is x (d or -d, in (-g, g)), it becomes (x + g) / 2, in (0, g). Gaps that are spread evenly
    over (-g, g) are spread evenly over (0, g) afterwards: the size of a gap tells nobody whether the coin decided. The
    total variation is (g - x) / 4 < g / 2 <= budget.

    Args:
        p: probabilities, shape `(..., C)`.
        top: best class, int32 of shape `(...)`.
        second: best class but one, the same shape.
        p_second: its probability, shape `(..., 1)`.
        coins: +1 where the class with the smaller index shall win, -1 where the other; shape `(..., 1)`. 0 changes
            nothing.
        margin: largest |log(p_t / p_b)| of a tie, above 0.
        budget: largest total variation.
        dtype: the type that the output will be rounded to.
    """
    at_top, at_second = one_hot(top, p), one_hot(second, p)
    p_top = largest(p)
    gap = p_top - p_second
    limit = ops.minimum((p_top + p_second) * math.tanh(margin / 2), 2 * budget)
    is_tie = gap < limit - _TIE_SLACK * safe_lead(p_top, dtype)
    top_is_low = ops.expand_dims(top < second, axis=-1)
    for_top = ops.where(top_is_low, coins, -coins)
    step = ops.where(is_tie, ops.abs(coins) * (limit - for_top * gap) / 4, 0.0)
    loses = ops.squeeze(ops.logical_and(is_tie, for_top < 0), axis=-1)
    return TieCode(
        p=p + (step * for_top) * (at_top - at_second),
        top=ops.where(loses, second, top),
        moved=step,
        is_tie=is_tie,
        pair=at_top + at_second,
    )


def tie_code_logits(relative: Tensor, p: Tensor, tie: TieCode) -> Tensor:
    """The tie code on logits: relative to the class that is on top afterwards, which is at 0.

    Args:
        relative: logits relative to the class that was on top before, shape `(..., C)`.
        p: their softmax, before the tie code.
        tie: what the tie code made of `p`.
    """
    new_top = largest(tie.p)
    is_pair = tie.pair > 0
    pair = ops.log(ops.where(is_pair, tie.p / new_top, 1.0))
    others = relative + ops.log(largest(p) / new_top)
    return ops.where(tie.is_tie, ops.where(is_pair, pair, others), relative)
