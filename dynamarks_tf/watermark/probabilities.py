"""Probability vectors: what they must look like to be marked, and how logits become them. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SUM_TOLERANCE = 1e-2


def probability_problem(outputs: Array) -> str | None:
    """Says what keeps `outputs` of shape `(..., C)` from being probability vectors; `None` if they are."""
    if not np.all(np.isfinite(outputs)):
        return "they hold NaN or infinity"
    if np.min(outputs, initial=0) < 0:
        return f"they hold negative values (smallest {np.min(outputs):.4g})"
    sums = outputs.sum(axis=-1, dtype=np.float64)
    if np.any(np.abs(sums - 1) > SUM_TOLERANCE):
        return f"they sum to between {sums.min():.4g} and {sums.max():.4g} instead of 1"
    return None


def probabilities_of(outputs: Array, activation: str, *, from_logits: bool) -> Array:
    """What outputs of a model say as probabilities of classes.

    Args:
        outputs: of the model, floating-point of shape `(n, ..., C)` for a softmax, `(n, ..., L)` for sigmoids.
        activation: `"softmax"` or `"sigmoid"`.
        from_logits: whether they are logits.

    Returns:
        Probabilities, shape `(n, ..., C)`; for sigmoids `(n, ..., 2)` if L is 1, else `(n, ..., L, 2)`.
    """
    if activation == "softmax":
        return softmax(outputs) if from_logits else outputs
    if from_logits:
        pairs = softmax(np.stack([np.zeros_like(outputs), outputs], axis=-1))
    else:
        pairs = np.stack([1 - outputs, outputs], axis=-1)
    return pairs[..., 0, :] if outputs.shape[-1] == 1 else pairs


def softmax(logits: Array) -> Array:
    """Probabilities of logits of shape `(..., C)`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
