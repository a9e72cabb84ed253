"""Do reference models follow the secret signs? One that does was marked, learned from marked answers, or was doctored.

Each reference is tested like a suspect beside the clean model alone, with the signs and with their opposites. An honest
one is refused with a chance of at most 10^-6, whatever it answers. NumPy only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.case.assessment import accumulator_of
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.meetings import MetBefore
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.watermark.codebook import Codebook

Array = npt.NDArray[Any]

ALPHA = 1e-6


class ReferenceCheck:
    """Gathers the answers of the reference models of a test.

    Args:
        plan: what was fixed.
        codebook: the codebook that the owner model was marked with.
        met_before: secret signs that count as met before the first query.
    """

    def __init__(self, plan: TestPlan, codebook: Codebook, met_before: MetBefore | None) -> None:
        alone = dataclasses.replace(plan, references=())
        pairs = codebook.contrasts() if plan.references else None
        self._codebook = codebook
        self._gathered = [accumulator_of(alone, codebook.keyed_hash, pairs, met_before, None) for _ in plan.references]

    def watching(self, answers: Iterable[tuple[Array, ...]]) -> Iterator[tuple[Array, ...]]:
        """Yields the answers as they are, and keeps those of the references."""
        for batch in answers:
            for place, gathered in enumerate(self._gathered):
                gathered.add(batch[0], batch[2][..., place, :])
            yield batch

    def following(self) -> int | None:
        """The first reference model that follows the signs, counted from 1; `None` if none does."""
        enough = math.log10(2 * max(len(self._gathered), 1) / ALPHA)
        for place, gathered in enumerate(self._gathered, 1):
            residuals = gathered.residuals()
            if any(self._log10_e(residuals, direction) >= enough for direction in (1, -1)):
                return place
        return None

    def _log10_e(self, residuals: Mapping[str, Residuals], direction: int) -> float:
        def signs(channel: str) -> npt.NDArray[np.int8]:
            found = self._codebook.signs(channel)
            return found if direction > 0 else -found

        return anytime.evidence(residuals, signs)[1]
