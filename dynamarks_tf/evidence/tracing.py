"""From which client's requests did a suspect learn? The same answers, tested with the signs that only one client saw.

Of all secret signs, those count for a client that only its requests met in the whole log. Nameless requests count as
those of one more client. Given the suspect and all other signs, these are fair for every client that gave it nothing.
So each p-value is exact, and Holm's method adjusts them for the number of clients. The class channel, whose signs
everybody sees, has no part in this. docs/theorems.md says when sharing among clients breaks the argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.meetings import MetBefore, meetings, num_class_cells, num_tie_cells
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.watermark.keyed_hash import KeyedHash
from dynamarks_tf.watermark.params import MarkParams

Array = npt.NDArray[Any]

TRACED_CHANNELS = ("amplitude", "class-choice", "tie")


@dataclasses.dataclass(frozen=True, eq=False)
class Exclusive:
    """The secret signs that only one client, or one group of clients, met in the whole log.

    Attributes:
        name: of the client or group.
        entries: increasing int64 of shape `(m,)`: cells of amplitude and class-choice channel, then of the tie channel.
    """

    name: str
    entries: npt.NDArray[np.int64]

    def met_before(self, num_classes: int, num_labels: int) -> MetBefore:
        """All other signs, as if they had been met before."""
        num_cells = num_class_cells(num_classes, num_labels)
        found = np.ones(num_cells + num_tie_cells(num_classes, num_labels), bool)
        found[self.entries] = False
        return MetBefore(found[:num_cells], found[num_cells:])


class TracingAccumulator(ResidualAccumulator):
    """Gathers a suspect's answers for all channels, and keeps those that count for a client.

    Tables of a client take megabytes, so they are made for one client after the other: a log may name thousands.

    Args:
        channels, keyed_hash, params, pairs, met_before: as for `ResidualAccumulator`, of logged queries.
        parties: the signs of each client and group.

    Attributes:
        parties: as given.
    """

    def __init__(
        self,
        channels: tuple[str, ...],
        keyed_hash: KeyedHash,
        params: MarkParams,
        pairs: npt.NDArray[np.int32] | None = None,
        *,
        met_before: MetBefore | None = None,
        parties: Sequence[Exclusive],
    ) -> None:
        super().__init__(channels, keyed_hash, params, pairs, met_before=met_before)
        self._params = params
        self._traced = tuple(channel for channel in channels if channel in TRACED_CHANNELS), keyed_hash, params, pairs
        self._answers: list[list[tuple[Array, Array]]] = [[] for _ in parties]
        size = keyed_hash.num_classes, keyed_hash.num_labels
        self._is_exclusive = np.zeros(num_class_cells(*size) + num_tie_cells(*size), bool)
        for party in parties:
            self._is_exclusive[party.entries] = True
        self.parties = parties

    def add(self, clean: Array, suspect: Array, references: Array | None = None) -> None:
        """Adds one batch, as for `ResidualAccumulator`; clients are told apart without references."""
        super().add(clean, suspect, references)
        batch = Batch.of_answers(clean, np.zeros(clean.shape[:-1], int), self._keyed_hash)
        found = meetings(batch, self._keyed_hash, self._params)
        counts = self._is_exclusive[found.entries] & found.is_own
        entries, rows = found.entries[counts], found.queries[counts] // (len(batch) // max(len(clean), 1))
        for party, answers in zip(self.parties, self._answers, strict=True):
            place = np.searchsorted(party.entries, entries).clip(max=max(len(party.entries) - 1, 0))
            theirs = np.unique(rows[party.entries[place] == entries]) if len(party.entries) else rows[:0]
            if len(theirs):
                answers.append((clean[theirs], suspect[theirs]))

    def residuals_of_parties(self) -> Iterator[dict[str, Residuals]]:
        """Yields the residuals of each client by channel, in the order of `parties`; none if no answer is about it."""
        size = self._keyed_hash.num_classes, self._keyed_hash.num_labels
        for party, answers in zip(self.parties, self._answers, strict=True):
            if not answers:
                yield {}
                continue
            gathered = ResidualAccumulator(*self._traced, met_before=party.met_before(*size))
            for clean, suspect in answers:
                gathered.add(clean, suspect)
            yield gathered.residuals()


def holm(log10_p: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number: each is then a bound on the chance of any false detection at its level.

    Args:
        log10_p: logarithms of p-values, in any order; they may depend on each other.

    Returns:
        The logarithms of the adjusted ones, at most 0, in the same order.

    Example:

    >>> holm([-6.0, -1.0, -0.1])
    [-5.522878745280337, -0.6989700043360187, -0.1]

    Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    order = np.argsort(log10_p, kind="stable")
    ordered = np.asarray(log10_p, float)[order] + np.log10(np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(ordered), 0.0)
    return [float(value) for value in adjusted]
