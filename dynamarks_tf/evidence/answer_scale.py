"""The scale of a suspect's answers: what their numbers are, checked against what is said, and made probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.watermark.probabilities import softmax

Array = npt.NDArray[Any]

SCALES = ("probability", "percent", "byte", "log", "sigmoid", "logit")
_NAMES = {
    "probability": "probabilities",
    "percent": "percentages",
    "byte": "probabilities in 255ths",
    "log": "logarithms of probabilities",
    "sigmoid": "sigmoid scores, one class against the rest",
    "logit": "logits",
}
_UNITS = {"probability": 1.0, "percent": 100.0, "byte": 255.0}
# A suspect may round its probabilities or release only the largest ones; what sums to something else altogether is no
# probability vector.
_SUMS = (0.05, 1.5)
_NEAR = 0.02  # of a sum that no rounding explains
_MISSING = 0.05  # of a sum, where a suspect may know a class more than the owner or less
_GRIDS = (0.1, 0.01, 0.001)
_ENOUGH = 10  # numbers, below which all may lie between 0 and 1 by chance


def vectors(answers: Array, scale: str) -> Array:
    """Makes probabilities of one vector for each input.

    Args:
        answers: finite floats of shape `(n, C)`; -inf as well for `"log"` and `"logit"`.
        scale: what they are, one of `SCALES`.

    Returns:
        Probabilities of shape `(n, C)`, as far as the suspect rounded or cut them.

    Raises:
        SuspectError: the numbers look like those of another scale; the message names it.
    """
    if not answers.size:
        return answers
    seen = _seen(answers)
    if scale == "logit":
        if seen in _UNITS:
            raise _other(answers, scale, seen)
        return softmax(answers)
    if scale == "log":
        if answers.max() > 0:
            raise _other(answers, scale, seen or "logit")
        answers = np.exp(answers)
    elif answers.min() < 0:
        raise _other(answers, scale, seen or "logit")
    elif scale == "sigmoid":
        sums = answers.sum(axis=1, keepdims=True)
        if answers.max() > 1 or not sums.min() > 0:
            raise _other(answers, scale, seen or "logit")
        return np.asarray(answers / sums)
    elif seen in _UNITS and seen != scale:
        raise _other(answers, scale, seen)
    else:
        answers = (answers / _UNITS[scale]).astype(answers.dtype, copy=False)
    sums = answers.sum(axis=1)
    if not _SUMS[0] <= sums.min() <= sums.max() <= _SUMS[1] or (scale == "probability" and seen == "sigmoid"):
        raise _other(answers, scale, seen or "logit")
    return answers


def scores(answers: Array, scale: str) -> Array:
    """Makes probabilities of one score for each input.

    Args:
        answers: finite floats of shape `(n,)`: the score of class 1.
        scale: what they are, one of `SCALES`; `"sigmoid"` and `"probability"` are the same here.

    Returns:
        Probabilities of both classes, shape `(n, 2)`.

    Raises:
        SuspectError: the numbers look like those of another scale.
    """
    low, high = answers.min(initial=0), answers.max(initial=0)
    between = len(answers) >= _ENOUGH and low >= 0 and high <= 1
    if scale == "logit":
        if between:
            raise _score_error(answers, scale, "they lie between 0 and 1, as probabilities do", "probability")
        odds = np.exp(-np.abs(answers))  # never overflows
        smaller, larger = odds / (1 + odds), 1 / (1 + odds)
        return np.where((answers >= 0)[:, None], np.stack([smaller, larger], 1), np.stack([larger, smaller], 1))
    if scale == "log":
        if high > 0:
            raise _score_error(answers, scale, "logarithms of probabilities are at most 0", "logit")
        answers = np.exp(answers)
    else:
        unit = _UNITS.get(scale, 1.0)
        if low < 0 or high > unit:
            other = "logit" if low < 0 else "percent" if 1 < high <= 100 else "byte" if high <= 255 else "logit"
            raise _score_error(answers, scale, f"scores lie between 0 and {unit:g}", other)
        if between and unit > 1 and answers.any():
            raise _score_error(answers, scale, "they lie between 0 and 1, as probabilities do", "probability")
        answers = (answers / unit).astype(answers.dtype, copy=False)
    return np.stack([1 - answers, answers], axis=1)


def _seen(answers: Array) -> str | None:
    """The scale that numbers of shape `(n, C)` plainly have; `None` if that cannot be seen."""
    if answers.min() < 0:
        sums = np.exp(answers).sum(axis=1) if answers.max() <= 0 else np.zeros(1)
        return "log" if (np.abs(sums - 1) < _NEAR).all() else "logit"
    sums = answers.sum(axis=1)
    for scale, unit in _UNITS.items():
        if (np.abs(sums / unit - 1) < _NEAR).all() and answers.max() <= unit * (1 + _NEAR):
            return scale
    if answers.max() > 1:
        return None
    coarse = next((step for step in _GRIDS if np.allclose(answers / step, np.round(answers / step), atol=1e-3)), 0.0)
    slack = max(_NEAR, answers.shape[1] * coarse / 2)
    whole = (answers > 0).all(axis=1)  # where nothing was cut off
    unlike = (sums > 1 + slack) | (whole & (sums < 1 - max(slack, _MISSING)))
    return "sigmoid" if unlike.mean() > 0.5 else None


def _advice(scale: str) -> str:
    flag = " (--suspect-from-logits)" if scale == "logit" else ""
    said = "from_logits=True" if scale == "logit" else f"scale={scale!r}"
    if scale == "probability":
        return "Leave the scale out, or say SuspectOptions(scale='probability') (--suspect-scale probability)."
    return f"If they are {_NAMES[scale]}, say SuspectOptions({said}){flag or f' (--suspect-scale {scale})'}."


def _other(answers: Array, scale: str, seen: str) -> SuspectError:
    low, high = answers.min(), answers.max()
    if low < 0:
        what = f"hold negative values (smallest {low:.4g})"
    else:
        sums = answers.sum(axis=1)
        of_sums = f"{sums.min():.4g} and {sums.max():.4g}"
        what = f"lie between {low:.4g} and {high:.4g} and sum to between {of_sums} for one input"
    return SuspectError(
        f"The suspect's answers {what}. They are read as {_NAMES[scale]} and look like {_NAMES[seen]}. {_advice(seen)}"
    )


def _score_error(answers: Array, scale: str, why: str, other: str) -> SuspectError:
    return SuspectError(
        f"The suspect's scores lie between {answers.min():.4g} and {answers.max():.4g}. They are read as "
        f"{_NAMES[scale]}; {why}. {_advice(other)}"
    )
