"""The mark as pure functions over `keras.ops`: what happens to one output vector, on every Keras backend.

Words: `p` is a clean probability vector over C classes, `top` its best class t, the *favoured* classes are those
c != t with sign +1 in the row of t, and U is uniform over them. The class code releases

    p' = p + a (U - p),    0 <= a <= alpha,

with `a` as large as keeps t on top. Hence p' >= 0, sum p' = sum p, and the total variation between p and p' is
a TV(U, p) <= alpha. Source: the scheme of this project, after the idea of DynaMarks (arXiv 2207.13321); its paper's
text was not available, so the formulas are ours.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

# Machine epsilon of what an output is rounded to, and the lead that the top class keeps over every favoured class in
# exact arithmetic, so that no rounding of the arithmetic or of the released value can turn it into a tie.
_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_ARITHMETIC_SLACK = 8


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


def safe_lead(dtype: str) -> float:
    """Lead of the top class that survives rounding to `dtype`."""
    arithmetic = _ARITHMETIC_SLACK * _EPSILON[arithmetic_dtype(dtype)]
    return arithmetic if dtype in ("float32", "float64") else arithmetic + _EPSILON[dtype]


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


def strength(p: Tensor, top: Tensor, favoured: Tensor, share: Tensor, alpha: float | Tensor, lead: float) -> Tensor:
    """How far each row may move towards U: `a` = the largest value up to `alpha` that keeps the top class on top.

    With the gap g = p_t - max p_c over favoured c, the new gap is g - a (g + share), so a <= (g - lead) / (g + share).

    Args:
        p: probabilities, shape `(..., C)`.
        top: the largest probability p_t, shape `(..., 1)`.
        favoured: 1 where a class is favoured, else 0; shape and dtype of `p`.
        share: probability of one favoured class under U, shape `(..., 1)`; 0 in rows that favour no class.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        lead: what the top class must stay ahead by.

    Returns:
        `a`, shape `(..., 1)`; 0 in rows that favour no class, NaN in rows that hold a NaN or an infinity.
    """
    gap = top - largest(p * favoured)
    allowed = ops.maximum(gap - lead, 0.0) / (gap + share)
    a = ops.where(share > 0, ops.minimum(allowed, alpha), 0.0)
    # A sum is finite only if all its terms are. Written with `where`: an optimiser may fold 0 * x to 0.
    return ops.where(ops.isfinite(ops.sum(p, axis=-1, keepdims=True)), a, np.nan)


def class_code(p: Tensor, favoured: Tensor, share: Tensor, alpha: float | Tensor, lead: float) -> Tensor:
    """Moves probability vectors towards the favoured classes: p' = p + a (U - p).

    Args:
        p: probabilities, shape `(..., C)`.
        favoured: 1 where a class is favoured, else 0; shape and dtype of `p`.
        share: probability of one favoured class under U, shape `(..., 1)`.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        lead: what the top class must stay ahead by; see `safe_lead`.

    Returns:
        p', shape of `p`.
    """
    a = strength(p, largest(p), favoured, share, alpha, lead)
    return p * (1.0 - a) + favoured * (a * share)


def class_code_logits(logits: Tensor, favoured: Tensor, share: Tensor, alpha: float | Tensor, lead: float) -> Tensor:
    """The class code on logits: returns log p' up to a constant per row, chosen so that the top class is at 0.

    Relative to the top class, a class that is not favoured keeps its logit exactly, so ties and order survive.

    Args:
        logits: logits z, shape `(..., C)`, with p = softmax(z).
        favoured: 1 where a class is favoured, else 0; shape and dtype of `logits`.
        share: probability of one favoured class under U, shape `(..., 1)`.
        alpha: largest total variation, a number or a tensor of shape `(..., 1)`.
        lead: what the top class must stay ahead by, as a probability.

    Returns:
        Logits z' with softmax(z') = p', shape of `logits`.
    """
    relative = logits - largest(logits)
    p = ops.softmax(relative, axis=-1)
    top = largest(p)
    a = strength(p, top, favoured, share, alpha, lead)
    raised = (p * (1.0 - a) + a * share) / (top * (1.0 - a))
    moved = ops.logical_and(favoured > 0, a > 0)
    result = ops.where(moved, ops.log(ops.where(moved, raised, 1.0)), relative)
    return ops.where(ops.isfinite(a), result, np.nan)
