"""The result of a trace: for each client, whether the suspect learned from the answers that it got."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dynamarks_tf._support.formats import check_format
from dynamarks_tf.case.result import VerificationResult, check_alpha
from dynamarks_tf.errors import BundleError, FormatError
from dynamarks_tf.evidence.bounds import chernoff_log10_p, combined_log10_p
from dynamarks_tf.evidence.channels import ChannelEvidence, channel_evidence
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.evidence.tracing import Exclusive, TracingAccumulator, holm
from dynamarks_tf.watermark.codebook import Codebook

FORMAT = "dynamarks-trace"
FORMAT_VERSION = 2
_RELATIVE_TOLERANCE = 1e-4  # single-precision logarithms and sums, in another order, on another processor
_TOLERANCE = 1e-2  # what that can do to log10 p, which is steep where nearly all signs agree


@dataclasses.dataclass(frozen=True)
class ClientEvidence:
    """What the signs that only one client saw, or one group of clients, say about a suspect.

    Attributes:
        name: of the client or group.
        exclusive_signs: how many secret signs only its requests met in the whole log; of a client with a key of its
            own, how many signs of this key the queries met.
        channels: the evidence of each channel that was tested.
        log10_p: log10 of the exact p-value, all channels combined; at most 0.
        adjusted_log10_p: the same after Holm's adjustment for all clients and groups of the trace.
        commitment: to the client's own key; `None` where clients are told apart by a log.
    """

    name: str
    exclusive_signs: int
    channels: tuple[ChannelEvidence, ...]
    log10_p: float
    adjusted_log10_p: float
    commitment: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "channels": [channel.to_dict() for channel in self.channels]}


@dataclasses.dataclass(frozen=True)
class TraceResult:
    """What `trace` found. It holds aggregates only.

    Attributes:
        verification: whether the suspect learned from the marked API at all, from the whole log. Where clients have
            keys of their own, it is about the master key alone: whether its own mark is found too.
        clients: what was found for each client, and for each group that was asked for, by its name.

    Example:

    >>> found = dm.trace("suspect.keras", owner="marked.keras", key=key, log="logs/")
    >>> found.detected(), found.clients["customer-7"].adjusted_log10_p
    (('customer-7',), -31.2)
    """

    verification: VerificationResult
    clients: dict[str, ClientEvidence]

    def detected(self, alpha: float | None = None) -> tuple[str, ...]:
        """The clients and groups from whose answers the suspect learned: adjusted p <= alpha, the strongest first.

        Args:
            alpha: the accepted chance of naming any client whose answers the suspect never saw, in (0, 1); that of the
                plan, if omitted.

        Raises:
            ArgumentError: alpha is outside (0, 1).
        """
        limit = math.log10(check_alpha(self.verification.plan.alpha if alpha is None else alpha))
        found = sorted(self.clients.values(), key=lambda client: client.log10_p)
        return tuple(client.name for client in found if client.adjusted_log10_p <= limit)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a format version."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "detected": [*self.detected()],
            "clients": [client.to_dict() for client in self.clients.values()],
            "verification": self.verification.to_dict(),
        }


def clients_to_dict(clients: dict[str, ClientEvidence]) -> dict[str, Any]:
    """The clients of a trace as plain values for JSON, with a format version."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "clients": [client.to_dict() for client in clients.values()],
    }


def clients_from_dict(content: Any, source: str) -> dict[str, ClientEvidence]:
    """Reads what `clients_to_dict` wrote.

    Args:
        content: plain values from JSON.
        source: where they come from, for messages.

    Raises:
        FormatError: it is no trace, or of another version.
    """
    check_format(content, FORMAT, FORMAT_VERSION, source, "a trace")
    try:
        found = [
            ClientEvidence(
                **{**each, "channels": tuple(ChannelEvidence.from_dict(channel) for channel in each["channels"])}
            )
            for each in content["clients"]
        ]
        clients = {client.name: client for client in found}
        same = clients_to_dict(clients) == content
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{source} is damaged: an entry is missing or malformed ({error}).") from error
    if not same:
        raise FormatError(f"{source} is damaged: its entries contradict each other.")
    return clients


def evidence_of(accumulator: TracingAccumulator, codebook: Codebook) -> dict[str, ClientEvidence]:
    """Holds the secret signs of each client against the answers gathered for it.

    Args:
        accumulator: to which all answers were added.
        codebook: the codebook that the model was marked with.
    """
    return adjusted(
        unadjusted(
            party.name,
            len(party.entries),
            tuple(channel_evidence(name, codebook.signs(name), each) for name, each in found.items()),
        )
        for party, found in zip(accumulator.parties, accumulator.residuals_of_parties(), strict=True)
    )


def check_evidence(
    stated: dict[str, ClientEvidence],
    accumulator: TracingAccumulator,
    codebook: Codebook | None,
) -> None:
    """Recomputes what a bundle states about clients.

    Args:
        stated: by the bundle.
        accumulator: to which all recorded answers were added.
        codebook: the codebook; without it, the statistics have to be believed.

    Raises:
        BundleError: something comes out otherwise.
    """
    found = []
    for party, residuals in zip(accumulator.parties, accumulator.residuals_of_parties(), strict=True):
        channels = stated[party.name].channels
        if tuple(each.channel for each in channels) != tuple(residuals):
            raise differs(party.name, "channels")
        recomputed = tuple(
            restated(each, residuals[each.channel])
            if codebook is None
            else channel_evidence(each.channel, codebook.signs(each.channel), residuals[each.channel])
            for each in channels
        )
        found.append(unadjusted(party.name, len(party.entries), recomputed))
    check_same(stated, adjusted(found))


def restated(stated: ChannelEvidence, residuals: Residuals) -> ChannelEvidence:
    """What follows from a channel's residuals if its stated statistic is the true one."""
    return ChannelEvidence(
        stated.channel,
        chernoff_log10_p(residuals.values, stated.statistic),
        stated.statistic,
        float(np.abs(residuals.values).sum()),
        residuals.num_queries,
        residuals.num_cells,
        residuals.slope,
    )


def unadjusted(
    name: str, num_signs: int, channels: tuple[ChannelEvidence, ...], commitment: str | None = None
) -> ClientEvidence:
    """The evidence about one client, before it is adjusted for the others.

    Args:
        name: of the client or group.
        num_signs: how many secret signs count for it.
        channels: the evidence of each channel; none if no answer is about it.
        commitment: to its own key.
    """
    log10_p = combined_log10_p([each.log10_p for each in channels]) if channels else 0.0
    return ClientEvidence(name, num_signs, channels, log10_p, log10_p, commitment)


def adjusted(found: Iterable[ClientEvidence]) -> dict[str, ClientEvidence]:
    """The evidence about all clients by their names, adjusted for their number by Holm's method."""
    clients = [*found]
    return {
        client.name: dataclasses.replace(client, adjusted_log10_p=log10_p)
        for client, log10_p in zip(clients, holm([client.log10_p for client in clients]), strict=True)
    }


def check_same(stated: dict[str, ClientEvidence], found: dict[str, ClientEvidence]) -> None:
    """Compares what a bundle states about clients with what comes out.

    Raises:
        BundleError: something differs.
    """
    for name, ours in found.items():
        for one, other in zip(_numbers(ours), _numbers(stated[name]), strict=True):
            if not math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_TOLERANCE):
                raise differs(name, "numbers")


def _numbers(client: ClientEvidence) -> list[float]:
    return [
        client.exclusive_signs,
        client.log10_p,
        client.adjusted_log10_p,
        *(
            number
            for each in client.channels
            for number in (
                each.log10_p,
                each.statistic / max(each.largest_possible, 1e-9),
                each.largest_possible,
                each.num_queries,
                each.num_cells,
                each.slope,
            )
        ),
    ]


def differs(name: str, what: str) -> BundleError:
    """Makes the error about a client of whom a bundle states what does not follow."""
    return BundleError(f"What is stated about the client {name!a} does not follow from the answers: its {what} differ.")


def parties_sha256(parties: Sequence[Exclusive]) -> str:
    """Digest of which signs count for which client, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for party in parties:
        name = party.name.encode()
        digest.update(len(name).to_bytes(8, "little") + name + len(party.entries).to_bytes(8, "little"))
        digest.update(party.entries.astype("<i8").tobytes())
    return digest.hexdigest()


def check_entries(entries: Any, num_entries: int) -> bool:
    """Whether these are increasing numbers of entries."""
    return bool(
        entries.dtype == np.int64
        and entries.ndim == 1
        and (np.diff(entries) > 0).all()
        and (entries >= 0).all()
        and (entries < num_entries).all()
    )
