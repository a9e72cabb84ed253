"""From which client's requests did a suspect learn: `trace`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy.typing as npt

from dynamarks_tf.case.result import DEFAULT_ALPHA
from dynamarks_tf.case.trace import TraceResult
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import QueryLog, open_log
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.verification.options import BundleOptions, SuspectOptions
from dynamarks_tf.verification.owner import Owner
from dynamarks_tf.verification.verify import run


def trace(
    suspect: Suspect | keras.Model | Callable[[npt.NDArray[Any]], Any] | str | os.PathLike[str],
    *,
    owner: keras.Model | str | os.PathLike[str] | Owner,
    key: MarkKey,
    log: QueryLog | ReducedLog | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    groups: Sequence[Sequence[str]] = (),
    max_queries: int | None = None,
    seed: int = 0,
    alpha: float = DEFAULT_ALPHA,
    from_logits: bool | None = None,
    suspect_options: SuspectOptions | None = None,
    bundle: BundleOptions | str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> TraceResult:
    """Tests for each client of a request log whether a suspect was trained on the answers that the client got.

    Each client is tested with the secret signs that only its requests met in the whole log, so its p-value is exact,
    whatever the others asked. It is not where sharing among clients depends on answers: a client who passes on the
    inputs that were answered wrongly takes their signs from what counts (docs/statistics.md).

    Args:
        suspect: a model, a callable, a path or a URL, as for `verify`.
        owner: the owner's marked Keras model, or the path of its file; or what `resolve_owner` made of it.
        key: the owner's key.
        log: the whole request log, of all clients: its path or paths, or what `open_log` opened.
        groups: names of clients to be tested together as well, two to four each: those who may have shared a theft.
        max_queries: the largest number of queries; all that can say something if `None`.
        seed: seed of their choice.
        alpha: the accepted chance of naming any client whose answers the suspect never saw.
        from_logits: whether a clean owner model answers logits. A marked one tells itself.
        suspect_options: how the suspect is asked, and how its answers are read.
        bundle: where to write an evidence bundle, which `dynamarks check` recomputes.
        verbose: whether to show progress on standard error.

    Returns:
        The result: `result.detected()` names clients, `result.clients["customer-7"].adjusted_log10_p` is adjusted for
        the number of clients by Holm's method, and `result.verification` is what `verify` finds with the whole log.

    Raises:
        ArgumentError: clients were selected from the log, or a group is none.
        DynaMarksError: something else does not fit, as for `verify`.

    Example:

    >>> found = dm.trace("suspect.keras", owner="marked.keras", key=key, log="logs/")
    >>> found.detected()
    ('customer-7',)
    """
    opened = log if isinstance(log, (QueryLog, ReducedLog)) else open_log(log)
    if opened.selection.clients is not None:
        raise ArgumentError("`log` is a selection of clients; a trace takes the whole log: open_log(path).")
    result, clients = run(
        suspect,
        owner=owner,
        key=key,
        queries=opened,
        logged=True,
        max_queries=max_queries,
        seed=seed,
        alpha=alpha,
        from_logits=from_logits,
        suspect_options=suspect_options,
        bundle=bundle,
        verbose=verbose,
        groups=tuple(groups),
    )
    return TraceResult(result, clients)
