"""How a marked model differs from the clean one, and how close a surrogate comes. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class MarkCost:
    """What marking costs the users of the API.

    Attributes:
        clean_accuracy: share of correct top-1 answers of the clean model.
        marked_accuracy: the same of the marked one.
        mean_total_variation: mean over the inputs of half the summed absolute change of the probabilities.
        max_total_variation: the largest.
        top1_agreement: share of inputs for which both give the same top-1 answer.
    """

    clean_accuracy: float
    marked_accuracy: float
    mean_total_variation: float
    max_total_variation: float
    top1_agreement: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def mark_cost(clean: Array, marked: Array, labels: Array) -> MarkCost:
    """Compares clean and marked answers, probabilities of shape `(n, C)`, given true labels of shape `(n,)`."""
    distance = total_variation(clean, marked)
    return MarkCost(
        accuracy(clean, labels),
        accuracy(marked, labels),
        float(distance.mean()),
        float(distance.max()),
        fidelity(clean, marked),
    )


def pooled_cost(parts: Iterable[tuple[int, MarkCost]]) -> MarkCost:
    """The cost over several batches, given the number of inputs and the cost of each."""
    sizes, costs = zip(*parts, strict=True)
    values = {
        field.name: float(np.average([getattr(cost, field.name) for cost in costs], weights=sizes))
        for field in dataclasses.fields(MarkCost)
    }
    return MarkCost(**{**values, "max_total_variation": max(cost.max_total_variation for cost in costs)})


def accuracy(probabilities: Array, labels: Array) -> float:
    """Share of inputs whose best class is the true one."""
    return float((probabilities.argmax(axis=-1) == labels).mean())


def fidelity(probabilities: Array, others: Array) -> float:
    """Share of inputs on which two models give the same best class."""
    return float((probabilities.argmax(axis=-1) == others.argmax(axis=-1)).mean())


def total_variation(p: Array, q: Array) -> Array:
    """Total variation between distributions along the last axis: half the summed absolute difference, in [0, 1]."""
    difference = p.astype(np.float64) - q.astype(np.float64)
    return np.asarray(np.abs(difference).sum(axis=-1) / 2)
