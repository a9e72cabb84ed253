"""The clients of a trace as a table for people. Their names are foreign text: only `quoted` prints them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dynamarks_tf.case.trace import ClientEvidence
from dynamarks_tf.foreign_text import quoted

MOST_SHOWN = 30


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
    names = [quoted(client.name) for client in shown]
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
