"""How much of the suspect's answers agrees with the key, without revealing any secret sign.

A table of agreement cell by cell would reveal the signs to a reader who can compute the residuals. The report shows
counts over groups of signs instead, and no sign's place. Signs are ordered by the size of their residual, which does
not depend on them, and cut into groups of equal number. See docs/reports.md.
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
    """Secret signs whose residuals are about equally large.

    Attributes:
        num_signs: number of signs.
        agreeing: number of those whose residual has the sign of the key.
    """

    num_signs: int
    agreeing: int

    @property
    def share(self) -> float:
        """Fraction of the signs that agree; 0.5 is chance."""
        return self.agreeing / self.num_signs

    @property
    def deviations(self) -> float:
        """Distance of the fraction from chance, in standard deviations of fair signs."""
        return (2 * self.agreeing - self.num_signs) / math.sqrt(self.num_signs)


def by_strength(signs: Signs, residuals: npt.NDArray[np.float64]) -> tuple[Group, ...]:
    """Counts the secret signs that agree with the key, in groups from the weakest residuals to the strongest.

    Args:
        signs: a channel's sign table.
        residuals: R, of the same shape.

    Returns:
        At most `MOST_GROUPS` groups of at least `SMALLEST_GROUP` signs; none if there are fewer signs than that.
    """
    met = np.flatnonzero(residuals)
    agrees = signs.ravel()[met] * residuals.ravel()[met] > 0
    in_order = agrees[np.argsort(np.abs(residuals.ravel()[met]), kind="stable")]
    count = min(MOST_GROUPS, len(met) // SMALLEST_GROUP)
    return tuple(Group(len(group), int(group.sum())) for group in np.array_split(in_order, count)) if count else ()
