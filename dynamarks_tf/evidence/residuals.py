"""What a channel's evidence is before any sign has met it: one number for each secret sign.

Nothing in `class_channel`, `amplitude_channel`, `class_choice_channel` and `tie_channel` takes a sign of the channel's
own. That residuals do not depend on the signs is what p-values rest on, and reading the signatures of those modules
shows it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.batch import Batch

Array = npt.NDArray[Any]
LOG_FLOOR = 1e-8  # of probabilities, before their logarithm is taken


@dataclasses.dataclass(frozen=True, eq=False)
class Residuals:
    """What a suspect answers beyond what the clean owner model does, summed for each secret sign of a channel.

    Attributes:
        values: R, float64 of the shape of the channel's sign table; 0 for signs that no query has met.
        num_queries: how many queries had something to say about the channel.
        num_cells: how many secret signs they met.
        slope: how closely the suspect follows the clean owner model (1: as its copy).
        cells: the signs in the order in which they were met, as indices into the flattened table, ints of shape
            `(num_cells,)`; `None` if that order is of no use, as for signs that recur.
        times: how many answers there were when each of these was met, its own included; not decreasing, same shape.
    """

    values: npt.NDArray[np.float64]
    num_queries: int
    num_cells: int
    slope: float
    cells: npt.NDArray[np.intp] | None = None
    times: npt.NDArray[np.int64] | None = None


class ResidualTable(Protocol):
    """Collects answers, batch by batch, in memory that does not grow with the queries."""

    def add(self, batch: Batch) -> None:
        """Adds one batch; the suspect may answer labels where the channel can be tested with them alone."""
        ...

    def residuals(self) -> Residuals:
        """The residuals of everything added so far."""
        ...


def floored_log(p: Array, floor: float = LOG_FLOOR) -> Array:
    """log(max(p, floor)), in the type of `p`."""
    floored = np.clip(p, floor, np.inf)  # several times as fast as `maximum` with a scalar
    return np.asarray(np.log(floored, out=floored))
