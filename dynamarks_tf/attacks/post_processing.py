"""Post-processing of answers that is meant to remove a mark. NumPy only.

Each function takes answers of shape `(n, C)` and returns targets for a surrogate: probabilities of the same shape, or
labels. `far_from_ties` returns the rows to keep. A surrogate's own answers can be post-processed in the same way. No
function uses the key; `subtract_class_floor`, `whiten_tails`, `far_from_ties` and `smallest` are aimed at this
project's scheme, and `scheme_aware` more closely.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_TINY = 1e-7


def labels_only(answers: Array) -> Array:
    """Keeps the best class alone: class indices of shape `(n,)`.

    Reference: hard-label extraction, as in T. Orekondy et al., Knockoff Nets, CVPR 2019, section 5.
    """
    return np.asarray(answers.argmax(axis=1), np.int64)


def rounded(answers: Array, decimals: int) -> Array:
    """Rounds to `decimals` decimals, and rescales to sum 1.

    Reference: F. Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016, section 7.
    """
    return _normalized(np.round(answers, decimals))


def top_k(answers: Array, k: int) -> Array:
    """Keeps the k largest probabilities, and rescales to sum 1."""
    smallest_kept = np.partition(answers, -k, axis=1)[:, -k, None]
    return _normalized(np.where(answers >= smallest_kept, answers, 0))


def flatten_tails(answers: Array) -> Array:
    """Keeps the best class's probability, and spreads the rest evenly."""
    top, best = _best(answers)
    flat = np.repeat((1 - best[:, None]) / (answers.shape[1] - 1), answers.shape[1], axis=1)
    flat[np.arange(len(top)), top] = best
    return flat.astype(answers.dtype)


def sharpened(answers: Array, temperature: float = 0.5) -> Array:
    """Raises probabilities to the power 1 / temperature, and rescales to sum 1: below 1, the best class gains.

    Reference: G. Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531), section 2.
    """
    logs = np.log(np.maximum(answers.astype(np.float64), 1e-30)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), answers.dtype)


def smoothed(answers: Array, amount: float = 0.1) -> Array:
    """Mixes in the uniform distribution: label smoothing.

    Reference: C. Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, section 7.
    """
    return np.asarray((1 - amount) * answers + amount / answers.shape[1], answers.dtype)


def far_from_ties(answers: Array, gap: float) -> Array:
    """Indices, increasing, of the answers whose two best classes are at least `gap` apart.

    An attacker who knows that a key decides near ties leaves them out.
    """
    best = np.partition(answers, -2, axis=1)[:, -2:]
    return np.flatnonzero(best[:, 1] - best[:, 0] >= gap)


def subtract_class_floor(answers: Array, quantile: float = 0.02) -> Array:
    """Subtracts from each class the part that it nearly always gets beside a given best class, and rescales to sum 1.

    This removes any mark that adds a constant to favored classes.

    Args:
        answers: stolen probabilities, shape `(n, C)`.
        quantile: the quantile of a class's probabilities that is subtracted.
    """
    top, _ = _best(answers)
    cleaned = answers.astype(np.float64)
    for label in np.unique(top):
        rows = top == label
        floor = np.quantile(cleaned[rows], quantile, axis=0)
        floor[label] = 0
        cleaned[rows] = np.maximum(cleaned[rows] - floor, _TINY)
    return _normalized(cleaned).astype(answers.dtype)


def smallest(answers: Array, others: Array) -> Array:
    """Takes the smaller of two clients' probabilities for each class, and rescales to sum 1.

    An attacker who knows that a mark raises one class, and that two clients have other secret signs, drops the raise.
    """
    return _normalized(np.minimum(answers, others))


def contrasted(answers: Array, weaker: Array, amount: float) -> Array:
    """Extrapolates from a surrogate's answers past those of a model that carries less of the mark.

    Args:
        answers: probabilities of the surrogate, shape `(n, C)`.
        weaker: those of the model with less of the mark, of the same shape.
        amount: how far past it: 0 gives `weaker`, and what both have in common stays. Below -1, the mark is amplified:
            a forger wants this.

    Reference:
        The contrastive decoding of CDG-KD (arXiv 2504.17480), which removes or forges the mark of a language model in
        a student, for classifiers.
    """
    logs, base = (np.log(np.maximum(p.astype(np.float64), _TINY)) for p in (answers, weaker))
    moved = base + amount * (base - logs)
    powers = np.exp(moved - moved.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), answers.dtype)


def whiten_tails(answers: Array) -> Array:
    """Gives the log-probabilities of all other classes the same mean and deviation beside each best class.

    A constant part of a class beside another is lost. Its variation from input to input is kept, and so is the
    probability of the best class.
    """
    top, best = _best(answers)
    logs = np.log(np.maximum(answers.astype(np.float64), _TINY))
    for label in np.unique(top):
        rows = np.flatnonzero(top == label)
        others = np.delete(np.arange(answers.shape[1]), label)
        tails = logs[np.ix_(rows, others)]
        mean, deviation = tails.mean(axis=0), tails.std(axis=0)
        whitened = (tails - mean) / np.maximum(deviation, 1e-3) * deviation.mean() + mean.mean()
        logs[np.ix_(rows, others)] = whitened
    tails = np.exp(logs)
    each = np.arange(len(top))
    tails[each, top] = 0
    result = _normalized(tails) * (1 - best[:, None])
    result[each, top] = best
    return np.asarray(result, answers.dtype)


def _best(answers: Array) -> tuple[Array, Array]:
    top = answers.argmax(axis=1)
    return top, answers[np.arange(len(top)), top]


def _normalized(values: Array) -> Array:
    return np.asarray(values / np.maximum(values.sum(axis=1, keepdims=True), _TINY), values.dtype)
