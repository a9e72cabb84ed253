"""The list of client keys that a trace tests, derived from the master key by name."""

from __future__ import annotations

from collections.abc import Sequence

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.key import MarkKey

MOST_CLIENTS = 100_000


def client_keys(master: MarkKey, names: Sequence[str]) -> dict[str, MarkKey]:
    """The keys of several clients or segments by their names, in the order given.

    Args:
        master: the owner's key.
        names: of the clients or segments, as for `MarkKey.for_client`.

    Raises:
        ArgumentError: there are none or too many, one is named twice, or a name is not accepted.

    Example:

    >>> [*client_keys(key, ["client-1", "client-2"])]
    ['client-1', 'client-2']
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ArgumentError(f"`keys` must be a list of clients' names. Received: {type(names).__name__}")
    if not 0 < len(names) <= MOST_CLIENTS:
        raise ArgumentError(f"`keys` (--keys) must name from 1 to {MOST_CLIENTS:,} clients. Received: {len(names):,}")
    found: dict[str, MarkKey] = {}
    for name in names:
        key = master.for_client(name)
        assert key.client is not None
        if key.client in found:
            raise ArgumentError(f"`keys` (--keys) must name each client once. Received twice: {key.client!a}")
        found[key.client] = key
    return found
