"""What an attacker has to work with: the victim's API, inputs of his own, a few true labels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Api = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransferSet:
    """What an attacker trains his surrogate on, and what the victim's logs show of it.

    Attributes:
        inputs: what he trains on, shape `(n, ...)`.
        targets: soft labels of shape `(n, C)`, or hard ones of shape `(n,)`.
        sent: every input that he sent to the API, shape `(m, ...)`.
    """

    inputs: Array
    targets: Array
    sent: Array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Attacker:
    """An attacker's means.

    Attributes:
        api: the victim's API, from inputs of shape `(n, ...)` to probabilities of shape `(n, C)`.
        pool: unlabeled inputs of the victim's domain, shape `(n, ...)`.
        labeled: a few more inputs, with their true class indices of shape `(m,)`.
        other_domain: inputs of another domain in the victim's shape, or `None`.
        rival: the API of another owner with the same classes, or `None`.
        pilot: trains a model on inputs and targets, to choose further queries by.
        epochs: passes over the stolen answers.
        batch_size: inputs in one step of training.
        seed: seed of everything random.
    """

    api: Api
    pool: Array
    labeled: tuple[Array, Array]
    pilot: Callable[[Array, Array], Any]
    other_domain: Array | None = None
    rival: Api | None = None
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0

    @functools.cached_property
    def answers(self) -> Array:
        """What the API answers to the pool, shape `(n, C)`."""
        return np.asarray(self.api(self.pool))
