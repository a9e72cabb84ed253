"""Queries that are drawn from a committed pool: the pool, what a statement says of it, and the choice."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dynamarks_tf._support import progress
from dynamarks_tf.case import query_provenance
from dynamarks_tf.case.draw import choice_sha256, draw, surest
from dynamarks_tf.case.plan import OF_DRAWN
from dynamarks_tf.errors import ArgumentError, CommitmentError
from dynamarks_tf.evidence.answers import confidence, main_class
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.pool import DRAWN_FOR_EACH, CommittedPool, is_public_text
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.suspects.queries import SelectedQueries, as_queries
from dynamarks_tf.verification.choosing import CheckedQueries, Chosen, Draw, KeptAnswers, digest_of
from dynamarks_tf.verification.owner import Owner

_BATCH_SIZE = 256  # of reading alone


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Inputs that the queries are drawn from: `queries` of `verify` that nobody can choose by the suspect's answers.

    Args:
        inputs: all that was committed to, in the same order, in any form that `queries` has.
        statement: the published statement that names the pool; `dm.commit(..., pool=dm.committed_pool(inputs))`.
        beacon: a public text that nobody knew when the statement was published: a round of a public beacon, a lottery
            result, the hash of a block, or a value that the other side names. It is taken to the letter.
        source: where the beacon comes from, for readers of the report.

    Raises:
        ArgumentError: the statement names no pool, or a text is no single line of at most 500 characters.

    Example:

    >>> pool = dm.Pool("pool.npy", statement, beacon="9f86d081884c7d65", source="drand, round 4812345")
    >>> dm.verify(url, owner="marked.keras", key=key, queries=pool)
    """

    inputs: Any
    statement: Statement
    beacon: str
    source: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.statement, Statement) or self.statement.pool is None:
            raise ArgumentError(
                "A draw needs the published statement that names the pool: dm.commit(key, model=..., pool=...) "
                "(dynamarks commit KEY --model FILE --pool POOL). The statement given names none."
            )
        for name, option, value in (
            ("beacon", "--beacon", self.beacon),
            ("source", "--beacon-source", self.source or "-"),
        ):
            if not is_public_text(value):
                raise ArgumentError(
                    f"`{name}` ({option}) must be a line of 1 to 500 printable characters without blanks at its ends. "
                    f"Received: {str(value)[:100]!a}"
                )


def committed_pool(inputs: Any, *, max_queries: int = 1000, draw: int | None = None) -> CommittedPool:
    """Describes a pool of inputs for the statement to publish.

    Args:
        inputs: an array, a data set or a file of inputs, as `queries` of `verify`.
        max_queries: how many will be asked.
        draw: how many will be drawn; those that are asked are chosen from these. By default 20 for each.

    Raises:
        ArgumentError: there are fewer than twice as many inputs as are drawn.

    Example:

    >>> pool = dm.committed_pool("pool.npy", max_queries=500)
    >>> dm.commit(key, model="marked.keras", pool=pool).save("statement.json")
    """
    size, sha256 = digest_of(as_queries(inputs), _BATCH_SIZE)
    return CommittedPool(sha256, size, max_queries, DRAWN_FOR_EACH * max_queries if draw is None else draw)


def choose_drawn(
    pool: Pool, owner: Owner, suspect: Suspect, *, max_queries: int | None, batch_size: int, verbose: bool = False
) -> Chosen:
    """Fixes which inputs of a committed pool will be asked: a function of pool, statement, clean model and beacon.

    Args:
        pool: the pool.
        owner: the owner's side.
        suspect: the suspect, opened; only the shape of its inputs is looked at.
        max_queries: what the user said of the number of queries, which the statement fixes; `None` for nothing.
        batch_size: how many inputs are read at once.
        verbose: whether to show progress.

    Raises:
        ArgumentError: the number of queries is not the one that was committed to, or the inputs do not fit the owner.
        CommitmentError: the inputs are not the pool that was committed to.
    """
    committed = pool.statement.pool
    assert committed is not None
    if max_queries not in (None, committed.num_queries):
        raise ArgumentError(
            f"The statement commits to {committed.num_queries} queries, so that nobody can choose their number by the "
            f"result. Received: max_queries={max_queries}. Leave it out."
        )
    source = CheckedQueries(as_queries(pool.inputs), owner.input_shape, suspect)
    size, sha256 = digest_of(source, batch_size)
    if (size, sha256) != (committed.size, committed.sha256):
        raise CommitmentError(
            f"The statement commits to a pool of {committed.size} inputs with SHA-256 {committed.sha256}; given are "
            f"{size} with {sha256}. Use the pool that was committed to, with all inputs in the same order."
        )
    drawn = draw(committed, owner.commitment, pool.beacon)
    every, found = KeptAnswers(), []
    batches = SelectedQueries(source, drawn).batches(batch_size)
    for batch in progress.track(batches, "choosing among the inputs drawn", enabled=verbose):
        answers = owner.answers(batch)
        every.add(answers)
        found.append((main_class(answers), confidence(answers)))
    in_order = np.argsort(np.argsort(drawn))  # the answers come in the order of the pool
    classes, sure = (np.concatenate(column)[in_order] for column in zip(*found, strict=True))
    of_draw = Draw(drawn, classes.astype(np.int64), sure.astype(np.float64))
    positions = surest(of_draw.classes, of_draw.confidences, committed.num_queries)
    asked = SelectedQueries(source, drawn[positions])
    count, digest = digest_of(asked, batch_size)
    kept = every.of(np.sort(in_order[positions]))
    provenance = query_provenance.drawn(
        committed, pool.beacon, pool.source, choice_sha256(drawn, of_draw.classes, of_draw.confidences)
    )
    made = Chosen(asked, OF_DRAWN, count, digest, asked.indices, kept, None, None, num_fresh=count)
    return dataclasses.replace(made, provenance=provenance, draw=of_draw)
