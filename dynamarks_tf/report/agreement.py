"""Which part of the suspect's answers agrees with the key, without saying which coin fell how.

A table of agreement cell by cell would give the signs away to whoever can work out the residuals. What is shown instead
are counts over groups of coins, and no coin's place: coins are ordered by the size of their residual, which takes no
sign to know, and cut into groups of equal number. See docs/reports.md.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from dynamarks_tf.watermark.codebook import Signs

MOST_GROUPS = 8
SMALLEST_GROUP = 16


@dataclasses.dataclass(frozen=True)
class Group:
    """Coins on which the suspect's answers say about equally much.

    Attributes:
        num_signs: how many.
        agreeing: on how many of them the suspect leans to the side that the key says.
    """

    num_signs: int
    agreeing: int

    @property
    def share(self) -> float:
        """Share of coins that agree; 0.5 is chance."""
        return self.agreeing / self.num_signs

    @property
    def deviations(self) -> float:
        """How far the share is from chance, in standard deviations of fair coins."""
        return (2 * self.agreeing - self.num_signs) / math.sqrt(self.num_signs)


def by_strength(signs: Signs, residuals: npt.NDArray[np.float64]) -> tuple[Group, ...]:
    """Counts the coins that agree with the key, in groups from the faintest residuals to the strongest.

    Args:
        signs: a channel's sign table.
        residuals: R, of the same shape.

    Returns:
        At most `MOST_GROUPS` groups of at least `SMALLEST_GROUP` coins; none if there are fewer coins than that.
    """
    met = np.flatnonzero(residuals)
    agrees = signs.ravel()[met] * residuals.ravel()[met] > 0
    in_order = agrees[np.argsort(np.abs(residuals.ravel()[met]), kind="stable")]
    count = min(MOST_GROUPS, len(met) // SMALLEST_GROUP)
    return tuple(Group(len(group), int(group.sum())) for group in np.array_split(in_order, count)) if count else ()
