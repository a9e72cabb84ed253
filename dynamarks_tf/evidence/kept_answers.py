"""The same answers, tested with other keys: they are kept, and gathered again under the keyed hash of each key."""

from __future__ import annotations

import sys
from typing import Any

import numpy.typing as npt

from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.watermark.keyed_hash import KeyedHash
from dynamarks_tf.watermark.params import MarkParams

Array = npt.NDArray[Any]


class KeepingAccumulator(ResidualAccumulator):
    """Gathers a suspect's answers to fresh queries, and keeps them for other keys.

    Args:
        channels, keyed_hash, params: as for `ResidualAccumulator`, of fresh queries.
    """

    def __init__(self, channels: tuple[str, ...], keyed_hash: KeyedHash, params: MarkParams) -> None:
        super().__init__(channels, keyed_hash, params, num_fresh=sys.maxsize)
        self._params = params
        self._answers: list[tuple[Array, Array]] = []

    def add(self, clean: Array, suspect: Array, references: Array | None = None) -> None:
        """Adds one batch, as for `ResidualAccumulator`; clients are told apart without references."""
        super().add(clean, suspect, references)
        self._answers.append((clean, suspect))

    def residuals_under(self, keyed_hash: KeyedHash) -> dict[str, Residuals]:
        """The residuals by channel that the answers so far give with the keyed hash of another key."""
        gathered = ResidualAccumulator(self._channels, keyed_hash, self._params, num_fresh=sys.maxsize)
        for clean, suspect in self._answers:
            gathered.add(clean, suspect)
        return gathered.residuals()
