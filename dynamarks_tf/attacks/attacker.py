"""The means of an attacker, and the transfer set that an extraction makes with them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.input_kind import Kind, input_kind

Array = npt.NDArray[Any]
Api = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransferSet:
    """The inputs and targets that a surrogate is trained on, and the inputs that the victim's logs show.

    Attributes:
        inputs: training inputs, shape `(n, ...)`.
        targets: soft labels of shape `(n, C)`, or class indices of shape `(n,)`.
        sent: every input that was sent to the API, shape `(m, ...)`.
    """

    inputs: Array
    targets: Array
    sent: Array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Attacker:
    """The means of an attacker: the victim's API, unlabeled inputs, a few true labels.

    Attributes:
        api: the victim's API, from inputs of shape `(n, ...)` to probabilities of shape `(n, C)`.
        pool: unlabeled inputs of the victim's domain, shape `(n, ...)`.
        labeled: a few more inputs, with their true class indices of shape `(m,)`.
        pilot: trains a model on inputs and targets; its uncertainty selects further queries.
        other_domain: inputs of another domain in the victim's shape, or `None`.
        rival: the API of another owner with the same classes, or `None`.
        second_client: the victim's API as another of its clients sees it, marked with that client's key, or `None`.
        epochs: passes over the transfer set.
        batch_size: inputs in one step of training.
        seed: seed of everything random.
    """

    api: Api
    pool: Array
    labeled: tuple[Array, Array]
    pilot: Callable[[Array, Array], Any]
    other_domain: Array | None = None
    rival: Api | None = None
    second_client: Api | None = None
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0

    @property
    def kind(self) -> Kind:
        """What the inputs are: images, vectors or text."""
        return input_kind(self.pool)

    @functools.cached_property
    def answers(self) -> Array:
        """The API's answers to the pool, shape `(n, C)`."""
        return np.asarray(self.api(self.pool))
