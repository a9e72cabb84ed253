"""The chain of a transcript: what its first file and its records must be, for those who write it and who check it.

Each record holds the digest of the one before, the first that of the first file, which holds the plan. First file and
records carry a code that only the owner's key makes, so that nobody else can have written them. Where a
sequential test extends an earlier one, the records go on, and the first of the later ones follows its first file too.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dynamarks_tf._support import digests
from dynamarks_tf._support.formats import check_format
from dynamarks_tf._support.strict_json import problem_of, read_json
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.errors import TranscriptError

FORMAT = "dynamarks-transcript"
FORMAT_VERSION = 5
HEAD = "transcript.json"
FOLDERS = ("batches", "earlier")
_NOT_IN_THE_CHAIN = ("chain", "mac")
_WHAT = "the transcript of a test"


class Block(NamedTuple):
    """A block of queries that a sequential test asks at once: how many, and their digest."""

    rows: int
    queries_sha256: str


def blocks_sha256(blocks: Sequence[Block]) -> str:
    """Digest of all that a sequential test may ask: what it has asked when it stops can be seen to be its start."""
    return digests.json_digest({"blocks": [[*block] for block in blocks]})


def blocks_of_head(head: dict[str, Any], plan: TestPlan, where: str) -> list[Block]:
    """The blocks that the first file of a transcript names; none if the test is not sequential.

    Raises:
        TranscriptError: they are not those of the plan.
    """
    try:
        blocks = [Block(*block) for block in head["blocks"] or ()]
        planned = (
            blocks_sha256(blocks) == plan.queries_sha256 and sum(block.rows for block in blocks) == plan.num_queries
        )
    except (TypeError, ValueError):
        planned = False
    if (head["blocks"] is not None) != plan.sequential or (plan.sequential and not planned):
        raise TranscriptError(f"{where}: its blocks of queries are not those of the plan.")
    return blocks


def batch_names(index: int) -> tuple[str, str]:
    """Names of the files of one batch: answers and record."""
    return f"batches/{index:06d}.npz", f"batches/{index:06d}.json"


def earlier_name(index: int) -> str:
    """Name of the first file of an earlier test that this one extends, the oldest being 0."""
    return f"earlier/{index:03d}.json"


class Continued(NamedTuple):
    """A sequential test that is to be extended.

    Attributes:
        heads: its first file, and before it those of the tests that it extends, the oldest first.
        records: answers and record of each batch.
    """

    heads: tuple[bytes, ...]
    records: tuple[tuple[bytes, bytes], ...]

    def to_dict(self) -> dict[str, Any]:
        """What the first file of the later transcript says of it."""
        return {
            "head_sha256": hashlib.sha256(self.heads[-1]).hexdigest(),
            "batches": len(self.records),
            "chain": read_json(self.records[-1][1], "the last record", "a record")["chain"],
        }


def joints(heads: Sequence[bytes], where: str) -> dict[int, str]:
    """At which batch each later transcript begins, and the digest of its first file.

    Args:
        heads: the first files, the oldest first.
        where: for messages.

    Raises:
        TranscriptError: one does not continue the one before it.
    """
    found, last = dict[int, str](), 0
    contents = [read_head(head, where) for head in heads]
    for before, (head, content) in itertools.pairwise(zip(heads, contents, strict=True)):
        about = content["continues"] or {}
        batches: Any = about.get("batches")
        follows_on = type(batches) is int and batches > last
        if not follows_on or about.get("head_sha256") != hashlib.sha256(before[0]).hexdigest():
            raise TranscriptError(f"{where}: a part of it does not continue the one before.")
        last = int(batches)
        found[last] = hashlib.sha256(head).hexdigest()
    if contents[0]["continues"] is not None:
        raise TranscriptError(f"{where}: the test that it extends is missing.")
    return found


def follows(chain: str, index: int, at: dict[int, str]) -> str:
    """What the record of a batch follows: the one before; where a later transcript begins, its first file as well.

    Args:
        chain: of the batch before, or digest of the oldest first file.
        index: number of the batch.
        at: as `joints` gives it.
    """
    return digests.json_digest({"chain": chain, "head": at[index]}) if index in at else chain


def check_record(record: Any, data: bytes, index: int, previous: str, where: str) -> None:
    """Checks that a batch is the one that was written down, at its place in the chain.

    Raises:
        TranscriptError: it is not.
    """
    if (problem := problem_of(record, "record")) is not None:
        raise TranscriptError(f"{where}, batch {index}: its record is damaged: {problem}.")
    content = {name: value for name, value in record.items() if name not in _NOT_IN_THE_CHAIN}
    whole = record["batch"] == index and record["previous"] == previous
    whole = whole and record["chain"] == digests.json_digest(content)
    answers_match = record["answers_sha256"] == hashlib.sha256(data).hexdigest()
    if not whole or not answers_match:
        what = "its record does not follow from the one before" if not whole else "its answers were changed"
        raise TranscriptError(f"{where}, batch {index}: {what}.")


def check_sealed(content: dict[str, Any], seal: Callable[[str], str], where: str) -> None:
    """Checks that a first file or a record of a transcript was written with the key.

    Args:
        content: the file, whose chain is known to hold.
        seal: makes the owner's code over a digest.
        where: for messages.

    Raises:
        TranscriptError: it was not.
    """
    digest = content.get("chain") or digests.json_digest({n: v for n, v in content.items() if n != "mac"})
    if not hmac.compare_digest(seal(digest), str(content.get("mac")).encode("ascii", "replace").decode()):
        raise TranscriptError(
            f"{where} was not written with this key: its code (HMAC-SHA256) does not fit. Use the key of the test, or "
            "name another bundle."
        )


def read_head(data: bytes, where: str) -> dict[str, Any]:
    """Reads the first file of a transcript: plan, suspect and when the plan was fixed.

    Raises:
        TranscriptError: it is none, or of another version.
    """
    content = read_json(data, where, _WHAT, error=TranscriptError)
    return check_format(content, FORMAT, FORMAT_VERSION, where, _WHAT, schema="transcript", error=TranscriptError)
