"""The result of a trace: for each client, whether the suspect learned from the answers that it got."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dynamarks_tf._support.formats import check_format
from dynamarks_tf.case.result import VerificationResult, check_alpha
from dynamarks_tf.errors import BundleError, FormatError
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.channels import ChannelEvidence, evidence_of_stated
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.evidence.tracing import Exclusive, TracingAccumulator, holm
from dynamarks_tf.foreign_text import quoted
from dynamarks_tf.watermark.codebook import Codebook

FORMAT = "dynamarks-trace"
FORMAT_VERSION = 2
_RELATIVE_TOLERANCE = 1e-4  # single-precision logarithms and sums, in another order, on another processor
_TOLERANCE = 1e-2
_LATTICE_TOLERANCE = 0.1  # for T and log10 p, since a residual may then be rounded to the next step of the lattice
_STEPS_BESIDE = 3


@dataclasses.dataclass(frozen=True)
class ClientEvidence:
    """What the signs that only one client saw, or one group of clients, say about a suspect.

    Attributes:
        name: of the client or group.
        exclusive_signs: how many secret signs only its requests met in the whole log; of a client with a key of its
            own, how many signs of this key the queries met.
        channels: the evidence of each channel that was tested.
        log10_p: log10 of the p-value, all channels together, valid for every number of queries; at most 0.
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
    check_format(content, FORMAT, FORMAT_VERSION, source, "a trace", schema="trace")
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
        unadjusted(party.name, len(party.entries), *_weighed(found, codebook))
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
        codebook: the codebook; without it, what the signs say has to be believed.

    Raises:
        BundleError: something comes out otherwise.
    """
    found = []
    for party, residuals in zip(accumulator.parties, accumulator.residuals_of_parties(), strict=True):
        channels = stated[party.name].channels
        if tuple(each.channel for each in channels) != tuple(residuals):
            raise differs(party.name, "channels")
        if codebook is not None:
            found.append(unadjusted(party.name, len(party.entries), *_weighed(residuals, codebook)))
            continue
        unsigned = tuple(
            dataclasses.replace(
                each,
                largest_possible=float(np.abs(residuals[each.channel].values).sum()),
                num_queries=residuals[each.channel].num_queries,
                num_cells=residuals[each.channel].num_cells,
                slope=residuals[each.channel].slope,
            )
            for each in channels
        )
        log10_p, guesses = stated[party.name].log10_p, sum(each.num_cells for each in unsigned) * math.log10(2)
        if not -guesses - _TOLERANCE <= log10_p <= 0:  # no signs give more than all of them guessed
            raise differs(party.name, "p-values")
        found.append(unadjusted(party.name, len(party.entries), unsigned, log10_p))
    check_same(stated, adjusted(found))


def _weighed(residuals: dict[str, Residuals], codebook: Codebook) -> tuple[tuple[ChannelEvidence, ...], float]:
    """The evidence of each channel, and log10 p of all together."""
    channels, log10_e = anytime.evidence(residuals, codebook.signs)
    return channels, min(-log10_e, 0.0)


def restated(name: str, stated: ChannelEvidence, residuals: Residuals) -> ChannelEvidence:
    """What follows from the residuals of a client's channel if its stated statistic is the true one.

    Raises:
        BundleError: no signs give such a statistic.
    """
    try:
        beside = _STEPS_BESIDE + _RELATIVE_TOLERANCE * residuals.num_cells
        return evidence_of_stated(stated.channel, stated.statistic, residuals, tolerance=beside)
    except ValueError as error:
        raise differs(name, "statistics") from error


def unadjusted(
    name: str, num_signs: int, channels: tuple[ChannelEvidence, ...], log10_p: float, commitment: str | None = None
) -> ClientEvidence:
    """The evidence about one client, before it is adjusted for the others.

    Args:
        name: of the client or group.
        num_signs: how many secret signs count for it.
        channels: the evidence of each channel; none if no answer is about it.
        log10_p: log10 of the p-value of all channels together.
        commitment: to its own key.
    """
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
        for (one, tolerance), (other, _) in zip(_numbers(ours), _numbers(stated[name]), strict=True):
            if not math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE, abs_tol=tolerance):
                raise differs(name, "numbers")


def _numbers(client: ClientEvidence) -> Iterator[tuple[float, float]]:
    """What is stated about a client, each number with its tolerance."""
    yield client.exclusive_signs, _TOLERANCE
    yield client.log10_p, _LATTICE_TOLERANCE
    yield client.adjusted_log10_p, _LATTICE_TOLERANCE
    for each in client.channels:
        yield each.log10_p, _LATTICE_TOLERANCE
        yield each.agreement, _LATTICE_TOLERANCE
        yield each.largest_possible, _LATTICE_TOLERANCE
        yield each.num_queries, _TOLERANCE
        yield each.num_cells, _TOLERANCE
        yield each.slope, _TOLERANCE


def differs(name: str, what: str) -> BundleError:
    """Makes the error about a client of whom a bundle states what does not follow."""
    return BundleError(
        f"What is stated about the client {quoted(name)} does not follow from the answers: its {what} differ."
    )


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
