"""The reduction of whatever log is given: files, a reduced log, or inputs that clients sent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf._support.digests import ArrayDigest
from dynamarks_tf.request_logs import QueryLog
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.request_logs.reduction import Counts, FilePart, Origin, Reduction
from dynamarks_tf.suspects.queries import QuerySource
from dynamarks_tf.verification.owner import Owner
from dynamarks_tf.verification.reducing import BATCH_SIZE, Marked, Reducer, in_order, placed
from dynamarks_tf.watermark.keyed_hash import KeyedHash

Array = npt.NDArray[Any]


def marked_of(owner: Owner, keyed_hash: KeyedHash) -> Marked:
    """What decides which query meets which hash entry."""
    return Marked(owner.model_sha256, owner.answers, keyed_hash, owner.params, owner.input_shape, owner.takes_text)


def reduced(log: QuerySource, marked: Marked, *, batch_size: int = BATCH_SIZE, verbose: bool = False) -> Reduction:
    """The reduction of a log, or of inputs that were logged.

    Args:
        log: a request log, a reduced one, or inputs in the order in which clients sent them.
        marked: decides which query meets which hash entry.
        batch_size: how many queries the clean model answers at once.
        verbose: whether to show progress.

    Raises:
        LogError: the log cannot be read, or was reduced with another model, key or settings.
    """
    if isinstance(log, ReducedLog):
        log.reduction.check_made_with(marked.sha256)
        for part in log.reduction.files:
            for note in part.notes:
                warnings.warn(note, stacklevel=2)
        if gaps := log.reduction.gaps_told():
            warnings.warn(gaps, stacklevel=2)
        return log.reduction
    reducer = Reducer(marked, input=log.selection.input if isinstance(log, QueryLog) else None, batch_size=batch_size)
    if isinstance(log, QueryLog):
        last = -math.inf
        files = placed(log.files)
        if len({position > 0 for _, position in files}) == 1:  # otherwise the order given places some among the others
            files = in_order(files)
        for file, position in progress.track(files, "reading the whole log", len(files), enabled=verbose, unit="files"):
            last = reducer.file(file, position=position, after=last if position else -math.inf)
        for problem in reducer.problems:
            log.warn(problem)
        found = reducer.reduction()
        if gaps := found.gaps_told():
            log.warn(gaps)
        return found
    return _of_inputs(log, reducer, batch_size, verbose)


def _of_inputs(source: QuerySource, reducer: Reducer, batch_size: int, verbose: bool) -> Reduction:
    """The reduction of inputs of which nothing else is known."""
    origin, digest, count = Origin(None, None, None), ArrayDigest(), 0

    def requests() -> Iterator[tuple[Array, Any]]:
        nonlocal count
        for batch in progress.track(source.batches(batch_size), "reading the queries", enabled=verbose):
            digest.update(batch)
            yield batch, reducer.row(origin, offset=count)
            count += len(batch)

    reducer.add(requests(), number=0)
    reducer.files.append(FilePart("", count, digest.hexdigest(), 0, {origin: Counts(count, count)}))
    return reducer.reduction()
