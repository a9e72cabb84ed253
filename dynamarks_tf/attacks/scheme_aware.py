"""An attacker who knows the scheme, but not the key: the class signs are estimated from many answers and taken back.

The mark raises one favored class of an answer by up to the budget (docs/scheme.md). Beside a confident best class, this
class stands out: its probability is the budget, and a little more. So answers in which class c, beside the best class
t, has about the budget are frequent if c is favored beside t, and rare otherwise. That gives budget and signs away.
Whether an answer was raised, and where, tells a model of the attacker's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_TINY = 1e-7
_BIN = 1e-3  # of probabilities, for the most frequent one
_LEAST, _MOST = 0.005, 0.5  # budgets that are looked for
_NEAR = 1.1  # up to this many budgets, a probability counts as the raise of a class that had next to nothing


def estimated_budget(answers: Array) -> float:
    """The most frequent probability of a second-best class, which is that of a raised class that had next to nothing.

    Args:
        answers: marked probabilities, shape `(n, C)`.
    """
    second = np.partition(answers, -2, axis=1)[:, -2]
    counts, edges = np.histogram(second, np.arange(_LEAST, _MOST, _BIN))
    fullest = edges[counts.argmax()]
    near = second[(second >= fullest - _BIN) & (second < fullest + 2 * _BIN)]
    return float(np.quantile(near, 0.02)) if len(near) else _MOST


def estimated_signs(answers: Array, budget: float) -> Array:
    """Estimates which classes are favored beside each best class.

    Args:
        answers: marked probabilities, shape `(n, C)`.
        budget: of the mark.

    Returns:
        Whether class c is favored beside the best class t, shape `(C, C)`, bool.
    """
    num_classes = answers.shape[1]
    top = answers.argmax(axis=1)
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, top, (answers >= 0.99 * budget) & (answers < _NEAR * budget))
    np.fill_diagonal(counts, 0)
    most = counts.max(axis=1, keepdims=True)  # favored classes are raised about equally often
    return np.asarray((counts > most / 3) & (most > 0))


def without_signs(answers: Array, expected: Array) -> Array:
    """Takes the raise of a favored class back wherever a model of the attacker's own expects less of that class.

    Args:
        answers: marked probabilities, shape `(n, C)`, all that the attacker has.
        expected: the answers of a model without a mark to the same inputs, shape `(n, C)`.

    Returns:
        Probabilities of the same shape: one favored class gets what was expected of it, if its logarithm without the
        raise is nearer to that than with it.
    """
    budget = estimated_budget(answers)
    favored = estimated_signs(answers, budget)[answers.argmax(axis=1)]
    logs, wanted, lowered = (
        np.log(np.maximum(p.astype(np.float64), _TINY)) for p in (answers, expected, (answers - budget) / (1 - budget))
    )
    gain = np.abs(logs - wanted) - np.abs(lowered - wanted)
    gain[~favored | (answers < 0.99 * budget)] = -np.inf
    each, raised = np.arange(len(answers)), gain.argmax(axis=1)
    cleaned = answers.copy()
    cleaned[each, raised] = np.where(
        gain[each, raised] > 0, np.minimum(answers, expected)[each, raised], answers[each, raised]
    )
    return np.asarray(cleaned / cleaned.sum(axis=1, keepdims=True), answers.dtype)
