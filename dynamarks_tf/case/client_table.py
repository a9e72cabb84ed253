"""The clients of a trace as a table for people. Their names are foreign text: only `shown_name` may print them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from dynamarks_tf.case.trace import ClientEvidence

MOST_SHOWN = 30
_LONGEST_NAME = 40  # characters


def shown_name(name: str) -> str:
    """A client's name in quotes and ASCII, so that different names look different and none moves a cursor.

    Example:

    >>> shown_name("customer-7"), shown_name("\\x1b[2J")
    ("'customer-7'", "'\\\\x1b[2J'")
    """
    if len(name) <= _LONGEST_NAME:
        return ascii(name)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{name[:_LONGEST_NAME]!a}... (sha256 {digest[:8]})"


def is_found(client: ClientEvidence, alpha: float) -> bool:
    """Whether a client's answers were used, at the threshold `alpha`, after adjustment for all clients."""
    return client.adjusted_log10_p <= math.log10(alpha)


def num_found(clients: Mapping[str, ClientEvidence], alpha: float) -> int:
    """How many clients and groups were found."""
    return sum(is_found(client, alpha) for client in clients.values())


def has_keys(clients: Mapping[str, ClientEvidence]) -> bool:
    """Whether clients were told apart by keys of their own, not by a log."""
    return any(client.commitment is not None for client in clients.values())


def shown_clients(clients: Mapping[str, ClientEvidence]) -> tuple[list[ClientEvidence], int]:
    """The clients to show, the strongest evidence first, and how many are left out."""
    ranked = sorted(clients.values(), key=lambda client: client.log10_p)
    return ranked[:MOST_SHOWN], max(len(ranked) - MOST_SHOWN, 0)


def client_lines(clients: Mapping[str, ClientEvidence], alpha: float) -> list[str]:
    """The table as lines of text.

    Args:
        clients: what was found for each, by its name.
        alpha: the threshold of the plan.
    """
    shown, left_out = shown_clients(clients)
    names = [shown_name(client.name) for client in shown]
    width = max(map(len, ["client", *names]))
    signs = "signs" if has_keys(clients) else "exclusive"
    lines = [f"{'client':<{width}} {signs:>10} {'log10 p':>9} {'adjusted':>9}"]
    for name, client in zip(names, shown, strict=True):
        numbers = f"{client.exclusive_signs:>10,} {client.log10_p:>9.2f} {client.adjusted_log10_p:>9.2f}"
        lines.append(f"{name:<{width}} {numbers}  {'FOUND' if is_found(client, alpha) else 'not found'}")
    if left_out:
        hidden = num_found(clients, alpha) - sum(is_found(client, alpha) for client in shown)
        lines.append(f"{left_out:,} more, of which {hidden:,} found: --json lists all")
    return lines
