"""From which client's answers did a suspect learn, by the log of all requests or by keys per client: `trace`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy.typing as npt

from dynamarks_tf.case.result import DEFAULT_ALPHA
from dynamarks_tf.case.trace import TraceResult
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.client_keys import client_keys
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
    log: QueryLog | ReducedLog | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    groups: Sequence[Sequence[str]] = (),
    queries: Any = None,
    keys: Sequence[str] | None = None,
    max_queries: int | None = None,
    seed: int = 0,
    alpha: float = DEFAULT_ALPHA,
    from_logits: bool | None = None,
    suspect_options: SuspectOptions | None = None,
    bundle: BundleOptions | str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> TraceResult:
    """Tests for each client whether a suspect was trained on the answers that the client got.

    There are two ways. With `log`, all clients were served one marked model: each is tested with the secret signs that
    only its requests met in the whole log. So its p-value is exact, whatever the others asked. It is not where sharing
    among clients depends on answers: a client who passes on the inputs that were answered wrongly takes their signs
    from what counts (docs/theorems.md).

    With `keys` and `queries`, each client was served a model marked with `key.for_client(name)`. The suspect is asked
    fresh queries once, and its answers are tested with the key of every client. No log is needed.

    Args:
        suspect: a model, a callable, a path or a URL, as for `verify`.
        owner: the owner's marked Keras model, or the path of its file; or what `resolve_owner` made of it. With `keys`,
            the model of any client: all were marked with the same settings.
        key: the owner's key; with `keys`, the master key that those of clients derive from.
        log: the whole request log, of all clients: its path or paths, or what `open_log` opened.
        groups: names of clients of the log to be tested together as well, two to four each: those who may have shared a
            theft.
        queries: with `keys`, fresh inputs of the owner's domain, as for `verify`.
        keys: names of all clients or segments that were served with a key of their own.
        max_queries: the largest number of queries; all that can say something if `None`. Of fresh ones it is a
            confident and balanced choice, as for `verify`.
        seed: seed of their choice.
        alpha: the accepted chance of naming any client whose answers the suspect never saw.
        from_logits: whether a clean owner model answers logits. A marked one tells itself.
        suspect_options: how the suspect is asked, and how its answers are read.
        bundle: where to write an evidence bundle, which `dynamarks check` recomputes.
        verbose: whether to show progress on standard error.

    Returns:
        The result: `result.detected()` names clients, `result.clients["customer-7"].adjusted_log10_p` is adjusted for
        the number of clients by Holm's method, and `result.verification` is what `verify` finds with the whole log,
        or with the master key itself.

    Raises:
        ArgumentError: clients were selected from the log, a group is none, `keys` is no list of different names, or
            both ways were mixed.
        DynaMarksError: something else does not fit, as for `verify`.

    Example:

    >>> found = dm.trace("suspect.keras", owner="marked.keras", key=key, log="logs/")
    >>> found.detected()
    ('customer-7',)
    >>> dm.trace("suspect.keras", owner="marked.keras", key=key, queries=x, keys=["client-1", "client-2"]).detected()
    ('client-2',)
    """
    given: dict[str, Any]
    if keys is not None:
        given = _of_keys(key, keys, queries, log, groups)
    elif log is None or queries is not None:
        raise ArgumentError(
            "`trace` takes either the whole request log (`log`), or clients' names and fresh inputs (`keys` and "
            f"`queries`). Received: {'neither' if log is None and queries is None else 'queries without keys'}"
        )
    else:
        given = _of_log(log, groups)
    result, clients = run(
        suspect,
        owner=owner,
        key=key,
        max_queries=max_queries,
        seed=seed,
        alpha=alpha,
        from_logits=from_logits,
        suspect_options=suspect_options,
        bundle=bundle,
        verbose=verbose,
        **given,
    )
    return TraceResult(result, clients)


def _of_log(log: Any, groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Arguments of a trace by the log of all clients."""
    opened = log if isinstance(log, (QueryLog, ReducedLog)) else open_log(log)
    if opened.selection.clients is not None:
        raise ArgumentError("`log` is a selection of clients; a trace takes the whole log: open_log(path).")
    return {"queries": opened, "logged": True, "groups": tuple(groups)}


def _of_keys(
    key: MarkKey, keys: Sequence[str], queries: Any, log: Any, groups: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Arguments of a trace by keys per client."""
    if log is not None or groups:
        raise ArgumentError(
            "`keys` are tested with fresh `queries`; `log` and `groups` tell clients apart by their requests. Give one "
            "of the two."
        )
    if queries is None or isinstance(queries, (QueryLog, ReducedLog)):
        raise ArgumentError(
            "`keys` are tested with fresh inputs of the owner's domain: give them as `queries`, an array or the path "
            f"of a .npy file. Received: {'nothing' if queries is None else 'a request log'}"
        )
    if not isinstance(key, MarkKey):
        raise ArgumentError(f"`key` must be a MarkKey; load one by MarkKey.load(path). Received: {type(key).__name__}")
    return {"queries": queries, "logged": False, "client_keys": client_keys(key, keys)}
