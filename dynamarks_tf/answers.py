"""What a model's answers must look like to be marked or to serve as evidence. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError

Array = npt.NDArray[Any]

SUM_TOLERANCE = 1e-2
# A suspect may round its probabilities or release only the largest ones; what sums to something else altogether is no
# probability vector.
_SUSPECT_SUMS = (0.05, 1.5)


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


def softmax(logits: Array) -> Array:
    """Probabilities of logits of shape `(n, C)`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def check_suspect_answers(answers: Array, num_inputs: int, num_classes: int, *, from_logits: bool = False) -> Array:
    """Checks one batch of a suspect's answers and returns them as probabilities.

    Rounded and truncated probabilities are accepted: a thief may have laundered them.

    Args:
        answers: what the suspect returned.
        num_inputs: how many inputs it was given, n.
        num_classes: how many classes the owner model has, C.
        from_logits: whether the suspect answers logits.

    Returns:
        Probabilities, floating-point, shape `(n, C)`.

    Raises:
        SuspectError: the answers are no evidence; the message says why and what to do.
    """
    if answers.dtype.kind not in "fiu" and answers.dtype != bool:
        if answers.dtype.name == "bfloat16":
            answers = answers.astype(np.float32)
        else:
            raise SuspectError(_labels_only(f"values of type {answers.dtype}"))
    if answers.ndim == 1 or (answers.ndim == 2 and answers.shape[1] == 1 and num_classes > 1):
        raise SuspectError(_labels_only(f"one value for each input (shape {answers.shape})"))
    if answers.ndim != 2 or answers.shape[0] != num_inputs:
        raise SuspectError(
            f"The suspect answered {num_inputs} inputs with an array of shape {answers.shape}; expected "
            f"({num_inputs}, {num_classes}), one probability vector for each input."
        )
    if answers.shape[1] != num_classes:
        raise SuspectError(
            f"The suspect answers {answers.shape[1]} classes, the owner model {num_classes}. Wrap the suspect in a "
            "callable that brings its classes into the order of the owner model."
        )
    if answers.dtype not in (np.float32, np.float64):
        answers = answers.astype(np.float32)
    not_finite = ~np.isfinite(answers).all(axis=1)
    if not_finite.any():
        raise SuspectError(
            f"The suspect answered {int(not_finite.sum())} of {num_inputs} inputs with NaN or infinity. Check that the "
            "inputs are prepared as the suspect expects them (scale, type)."
        )
    if from_logits:
        return softmax(answers)
    if answers.min(initial=0) < 0:
        raise SuspectError(
            f"The suspect's answers hold negative values (smallest {answers.min():.4g}), so they are no probabilities. "
            "If they are logits, say suspect_from_logits=True (--suspect-from-logits)."
        )
    low, high = _SUSPECT_SUMS
    sums = answers.sum(axis=1)
    if num_inputs and (sums.min() < low or sums.max() > high):
        raise SuspectError(
            f"The suspect's answers sum to between {sums.min():.4g} and {sums.max():.4g} for one input; probabilities "
            "sum to about 1. If they are logits, say suspect_from_logits=True (--suspect-from-logits)."
        )
    return answers


def is_one_hot(answers: Array) -> bool:
    """Whether each row holds a single 1 and zeros: class labels in disguise."""
    return bool(np.all((answers == 0) | (answers == 1)) and np.all(answers.sum(axis=-1) == 1))


def labels_only_error() -> SuspectError:
    """The error for a suspect whose answers are all one-hot."""
    return SuspectError(_labels_only("one-hot vectors only"))


def _labels_only(given: str) -> str:
    return (
        f"The suspect answers {given}: class labels, not probabilities. The class code lives in the probabilities of "
        "the classes beside the best one, so labels alone cannot be tested. Ask the suspect for its probabilities "
        "(another signature, output or endpoint), or put them within reach by a callable."
    )
