"""A trace with keys per client: the same answers tested with the key of each client, and checked in a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dynamarks_tf._support.digests import json_digest
from dynamarks_tf.case.assessment import codebook_of
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.trace import ClientEvidence, adjusted, check_same, differs, restated, unadjusted
from dynamarks_tf.errors import ArgumentError, BundleError
from dynamarks_tf.evidence.channels import ChannelEvidence, channel_evidence
from dynamarks_tf.evidence.kept_answers import KeepingAccumulator
from dynamarks_tf.keys.client_keys import client_keys
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark.keyed_hash import KeyedHash


def client_keys_sha256(commitments: Mapping[str, str]) -> str:
    """Digest of which client keys are tested, 64 hexadecimal digits.

    Args:
        commitments: of each client's key, by the client's name, in the order of the test.
    """
    return json_digest({"client_keys": [[name, commitment] for name, commitment in commitments.items()]})


def evidence_of_keys(
    keys: Iterable[tuple[str, MarkKey]], accumulator: KeepingAccumulator, plan: TestPlan
) -> dict[str, ClientEvidence]:
    """Holds the secret signs of each client's key against the same answers.

    Tables are made for one client after the other: there may be thousands.

    Args:
        keys: of the clients, with their names.
        accumulator: to which all answers were added.
        plan: what was fixed.
    """
    found = []
    for name, key in keys:
        book = codebook_of(plan, key)
        residuals = accumulator.residuals_under(book.keyed_hash)
        channels = tuple(channel_evidence(channel, book.signs(channel), each) for channel, each in residuals.items())
        found.append(_of_class_channel(name, channels, key.commitment))
    return adjusted(found)


def _of_class_channel(
    name: str, channels: tuple[ChannelEvidence, ...], commitment: str | None = None
) -> ClientEvidence:
    """The evidence about a client by the class channel, the only one of fresh queries."""
    log10_p = channels[0].log10_p if channels else 0.0
    return unadjusted(name, sum(each.num_cells for each in channels), channels, log10_p, commitment)


def check_client_keys(stated: dict[str, ClientEvidence], plan: TestPlan) -> None:
    """Checks that the clients and commitments that a bundle states are those of its plan.

    Raises:
        BundleError: they are others.
    """
    commitments = {name: client.commitment or "" for name, client in stated.items()}
    if client_keys_sha256(commitments) != plan.client_keys_sha256:
        raise BundleError("The clients of the trace and the commitments to their keys are not those of the plan.")


def check_evidence_of_keys(
    stated: dict[str, ClientEvidence],
    accumulator: KeepingAccumulator,
    keyed_hash: KeyedHash,
    plan: TestPlan,
    master: MarkKey | None,
) -> str:
    """Recomputes what a bundle states about clients with keys of their own.

    Args:
        stated: by the bundle; names and commitments are those of the plan.
        accumulator: to which all recorded answers were added.
        keyed_hash: that of the master key.
        plan: what was fixed.
        master: the master key; without it, the statistics have to be believed.

    Returns:
        What was checked, as a sentence.

    Raises:
        BundleError: something comes out otherwise.
    """
    if master is not None:
        keys = _keys(master, stated)
        check_same(stated, evidence_of_keys(keys.items(), accumulator, plan))
        return (
            f"The keys of {len(stated):,} clients derive from the master key, and their p-values, recomputed from the "
            "answers, come out as stated."
        )
    held = f"Clients' names and the commitments to their {len(stated):,} keys are those of the plan."
    if not _is_shared(keyed_hash):
        check_same(stated, adjusted(_of_class_channel(name, each.channels) for name, each in stated.items()))
        return (
            f"{held} The adjusted p-values follow from the stated ones. The tables of {plan.num_classes:,} classes "
            "depend on the keys, so the p-values themselves can be checked with the master key only."
        )
    residuals = accumulator.residuals()
    found = []
    for name, client in stated.items():
        if tuple(each.channel for each in client.channels) != tuple(residuals):
            raise differs(name, "channels")
        channels = tuple(restated(name, each, residuals[each.channel]) for each in client.channels)
        found.append(_of_class_channel(name, channels))
    check_same(stated, adjusted(found))
    return (
        f"{held} Their p-values follow from the answers and the stated statistics. That these are the sums of sign "
        "times residual can be checked with the master key only."
    )


def _keys(master: MarkKey, stated: dict[str, ClientEvidence]) -> dict[str, MarkKey]:
    try:
        keys = client_keys(master, [*stated])
    except ArgumentError as error:
        raise BundleError(f"The clients of the trace cannot have keys. {error}") from error
    for name, key in keys.items():
        if name not in stated or key.commitment != stated[name].commitment:
            raise differs(name, "key")
    return keys


def _is_shared(keyed_hash: KeyedHash) -> bool:
    """Whether the class channel's table has a row and a column for each class, so that it is the same for all keys."""
    each = np.arange(keyed_hash.num_classes)
    return np.array_equal(keyed_hash.row_of_class, each) and np.array_equal(keyed_hash.column_of_class, each)
