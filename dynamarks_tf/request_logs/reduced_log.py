"""A reduced log as a source of queries: the first query of each hash entry, in the order of the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from dynamarks_tf.request_logs.entries import Array
from dynamarks_tf.request_logs.query_log import Selection
from dynamarks_tf.request_logs.reduction import Reduction


@dataclasses.dataclass(frozen=True, eq=False)
class ReducedLog:
    """What `dynamarks reduce` wrote; `open_log` makes one.

    Attributes:
        reduction: the log.
        selection: which requests are wanted.
        paths: the files that it was read from, without the secrets of URLs.
    """

    reduction: Reduction
    selection: Selection
    paths: tuple[str, ...]

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the inputs that have the form of the first one, `batch_size` rows at a time."""
        forms = self.reduction.queries["form"]
        return self.reduction.batches(np.flatnonzero(forms == forms[:1]), batch_size)
