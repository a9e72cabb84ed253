"""Who chose the queries: what a plan says about it, what can be checked of that, and what is left to believe.

From strongest to weakest:

    drawn   from a pool that a statement committed to, by a public value that was not known then
    named   by the other side, as the owner says
    log     requests of a log, whose files the plan digests
    own     the owner's own choice

Fresh queries beside a log are the owner's own choice: `log-and-own`.
"""

from __future__ import annotations

import re
from typing import Any

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.foreign_text import quoted
from dynamarks_tf.keys.pool import LONGEST_TEXT, CommittedPool, is_public_text

OWN: dict[str, Any] = {"kind": "own"}
NAMED: dict[str, Any] = {"kind": "named"}
LOG: dict[str, Any] = {"kind": "log"}
LOG_AND_OWN: dict[str, Any] = {"kind": "log-and-own"}
_OF_A_DRAW = {"kind", "pool", "beacon", "beacon_source", "choice_sha256"}

WITHOUT_A_DRAW = (
    "The owner chose the queries. With the key in hand, inputs can be chosen on which an independent model agrees with "
    "the key, and the p-value cannot show that. Ask for queries that are drawn from a committed pool, or name them "
    "yourself."
)
UNCHECKED_NAMING = (
    "That the other side named the queries is the owner's statement: compare their digest with the inputs that were "
    "named."
)
UNDATED_LOG = (
    "Nothing dates or chains the request log: its digests were fixed before the first question, and nothing in them "
    "shows that the requests were sent, or when. The log is the owner's unverified claim unless somebody else dated it."
)
ORDER_OF_A_DRAW = (
    "A draw shows no choice by the suspect's answers if the pool was fixed before the owner could ask the suspect, and "
    "the statement published before anybody knew the public value. The bundle cannot show either; compare both dates."
)


def drawn(pool: CommittedPool, beacon: str, source: str | None, choice_sha256: str) -> dict[str, Any]:
    """What the plan says of queries that were drawn from a committed pool.

    Args:
        pool: what the statement says about the pool.
        beacon: the public value.
        source: where it comes from, in the owner's words; `None` if they do not say.
        choice_sha256: digest of what was drawn, and of what the clean model says of it.
    """
    described = {name: getattr(pool, name) for name in ("sha256", "size", "num_queries", "num_drawn")}
    return {
        "kind": "drawn",
        "pool": described,
        "beacon": beacon,
        "beacon_source": source,
        "choice_sha256": choice_sha256,
    }


def is_provenance(value: Any) -> bool:
    """Whether a plan may say this about its queries."""
    if value in (OWN, NAMED, LOG, LOG_AND_OWN):
        return True
    if not isinstance(value, dict) or set(value) != _OF_A_DRAW or value["kind"] != "drawn":
        return False
    try:
        CommittedPool(**value["pool"])
    except (ArgumentError, TypeError):
        return False
    return (
        is_public_text(value["beacon"])
        and (value["beacon_source"] is None or is_public_text(value["beacon_source"]))
        and isinstance(value["choice_sha256"], str)
        and re.fullmatch("[0-9a-f]{64}", value["choice_sha256"]) is not None
    )


def in_words(provenance: dict[str, Any]) -> str:
    """Where the queries come from, as the end of a line. Foreign text is escaped."""
    if provenance["kind"] != "drawn":
        return {
            "own": "the owner's own choice",
            "named": "named by the other side, as the owner states",
            "log": "from a request log",
            "log-and-own": "from a request log, and fresh ones of the owner's own choice",
        }[provenance["kind"]]
    pool, source = provenance["pool"], provenance["beacon_source"]
    said = "" if source is None else f" ({quoted(source, LONGEST_TEXT)})"
    return f"drawn from a committed pool of {pool['size']} inputs by {quoted(provenance['beacon'], LONGEST_TEXT)}{said}"


def caveat(provenance: dict[str, Any]) -> str:
    """What is left to believe of where the queries come from."""
    return {
        "own": WITHOUT_A_DRAW,
        "named": UNCHECKED_NAMING,
        "log": UNDATED_LOG,
        "log-and-own": f"{UNDATED_LOG} {WITHOUT_A_DRAW}",
        "drawn": ORDER_OF_A_DRAW,
    }[provenance["kind"]]
