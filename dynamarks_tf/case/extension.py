"""A sequential test that goes on: the earlier one, read from its bundle, and what must be the same in the later one.

The evidence of a sequential test may be looked at at any time, so more questions may follow whatever was found. What
was asked stays: the later plan begins with the earlier questions, and its transcript with the earlier records.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence

from dynamarks_tf.case import transcript_chain as chains
from dynamarks_tf.case.bundle import Bundle
from dynamarks_tf.case.plan import TestPlan, looks_of
from dynamarks_tf.case.transcript_chain import Block, Continued
from dynamarks_tf.errors import ArgumentError

_MAY_DIFFER = {"num_queries", "num_fresh", "looks", "queries_sha256", "max_queries", "log", "met_before_sha256"}
_LOG_MAY_DIFFER = {"files", "num_queries"}


@dataclasses.dataclass(frozen=True, repr=False)
class Earlier:
    """The test that is extended.

    Attributes:
        continued: its files.
        plan: what was fixed.
        blocks: what was asked.
        keeps_queries: whether its bundle holds the inputs.
        suspect: what was tested.
        suspect_sha256: digest of it, if it has one.
    """

    continued: Continued
    plan: TestPlan
    blocks: tuple[Block, ...]
    keeps_queries: bool
    suspect: str
    suspect_sha256: str | None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Earlier:
        """Reads it from its evidence bundle.

        Raises:
            ArgumentError: the test was not sequential.
            BundleError, TranscriptError, FormatError: the bundle is damaged.
        """
        with Bundle(path) as bundle:
            heads = read_heads(bundle)
            where = f"{bundle.path}, {chains.HEAD}"
            head = chains.read_head(heads[-1], where)
            plan = TestPlan.from_dict(head["plan"], where)
            if not plan.sequential:
                raise ArgumentError(
                    f"{bundle.path} holds a test of fixed size, which cannot be extended: its p-value would no longer "
                    "be exact. Only sequential tests can be (sequential=True, --sequential)."
                )
            names = itertools.takewhile(lambda pair: pair[1] in bundle, map(chains.batch_names, itertools.count()))
            records = tuple((bundle.read(answers), bundle.read(record)) for answers, record in names)
            blocks = tuple(chains.blocks_of_head(head, plan, where)[: len(records)])
        if not records:
            raise ArgumentError(f"{where}: nothing was asked, so there is nothing to extend. Begin a new test.")
        about = bool(head["keeps_queries"]), head["suspect"], head["suspect_sha256"]
        return cls(Continued(heads, records), plan, blocks, *about)

    @property
    def ends(self) -> tuple[int, ...]:
        """After how many queries each block ended."""
        return tuple(itertools.accumulate(block.rows for block in self.blocks))


def read_heads(bundle: Bundle) -> tuple[bytes, ...]:
    """The first file of a bundle's transcript, and before it those of the tests that it extends, the oldest first."""
    earlier = itertools.takewhile(bundle.__contains__, map(chains.earlier_name, itertools.count()))
    return tuple(bundle.read(name) for name in (*earlier, chains.HEAD))


def check_continues(plan: TestPlan, blocks: Sequence[Block], earlier: TestPlan, asked: Sequence[Block]) -> None:
    """Checks that a later test goes on with an earlier one.

    Args:
        plan: of the later test.
        blocks: what it will ask.
        earlier: the plan of the earlier one.
        asked: what that asked.

    Raises:
        ArgumentError: it does not; the message says in what they differ.
    """
    ours, theirs = plan.to_dict(), earlier.to_dict()
    for content in (ours, theirs):
        content["selection of the log"] = {
            name: value for name, value in (content["log"] or {}).items() if name not in _LOG_MAY_DIFFER
        }
    for name in ours:
        if name not in _MAY_DIFFER and ours[name] != theirs[name]:
            raise ArgumentError(
                f"The test that is to be extended has {name} {theirs[name]!r}, this one {ours[name]!r}. Repeat its "
                "settings."
            )
    count = sum(block.rows for block in asked)
    same = [*blocks[: len(asked)]] == [*asked] and plan.looks == looks_of(plan.num_fresh, earlier.looks)
    if not same or (plan.logged and plan.num_fresh != earlier.num_fresh):
        raise ArgumentError(
            f"The first {count} queries are not those that the earlier test asked. Give all its queries, in their "
            "order, and the new ones after them: the whole log, or --queries without --max-queries, both times."
        )
