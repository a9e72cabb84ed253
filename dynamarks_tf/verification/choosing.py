"""Which of the given inputs are asked: all of them, or a confident and balanced choice."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf._support.digests import ArrayDigest
from dynamarks_tf.case.query_provenance import LOG, LOG_AND_OWN, OWN
from dynamarks_tf.case.transcript_chain import Block, blocks_sha256
from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.evidence.answers import confidence, main_class
from dynamarks_tf.evidence.meetings import MetBefore
from dynamarks_tf.evidence.tracing import Exclusive
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.suspects.queries import QuerySource, SelectedQueries, confident_balanced_choice
from dynamarks_tf.verification.blocks import block_ends, blocks_of
from dynamarks_tf.verification.owner import Owner

Array = npt.NDArray[Any]

SURE = "confident-balanced/1"

_ENOUGH_FRESH = 4  # for each class; fixed on a seed of its own (docs/questions.md)
_IN_MEMORY = 64 * 2**20  # bytes of clean answers; what is more goes to a temporary file


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """What was drawn from a committed pool, in the order of the draw, and what the clean model says of it.

    Attributes:
        indices: which inputs of the pool, int64 of shape `(n,)`.
        classes: the class that the clean model gives each, int64 of the same shape.
        confidences: its probability, float64 of the same shape.
    """

    indices: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """The queries of a test, fixed and digested.

    Attributes:
        source: the inputs.
        selection: how they were chosen from those given, as the plan names it.
        count: how many there are.
        sha256: digest of all of them, in order.
        indices: which of those given they are, shape `(count,)`; `None` for all.
        clean: the clean model's answers, if they were needed to choose; `None` if they are still to be computed.
        met_before: of logged queries, the secret signs that count as met before the first of them is asked; `None` for
            fresh ones.
        log: of a request log, which one, and what was selected from it: `files`, `num_queries`, `clients`, `model`,
            `versions`.
        parties: the secret signs of each client and group; `None` if clients are not told apart.
        num_fresh: how many of the queries are fresh; they come first.
        blocks: of a sequential test, what is asked at once; otherwise `None`.
        provenance: who chose them, as the plan says it.
        draw: what was drawn from a committed pool; `None` for other queries.
    """

    source: QuerySource
    selection: str
    count: int
    sha256: str
    indices: Array | None
    clean: KeptAnswers | None
    met_before: MetBefore | None
    log: dict[str, Any] | None
    parties: list[Exclusive] | None = None
    num_fresh: int = 0
    blocks: tuple[Block, ...] | None = None
    provenance: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(OWN))
    draw: Draw | None = None


def choose_queries(
    queries: QuerySource,
    owner: Owner,
    suspect: Suspect,
    *,
    max_queries: int | None,
    seed: int,
    batch_size: int,
    verbose: bool = False,
) -> Chosen:
    """Fixes which inputs will be asked, before the suspect answers anything. `choose_logged` does so for logged ones.

    Args:
        queries: the inputs that were given.
        owner: the owner's side.
        suspect: the suspect, opened; only the shape of its inputs is looked at.
        max_queries: the largest number of queries: those of which the clean model is surest, balanced over its classes.
            `None` for all.
        seed: seed of the choice.
        batch_size: how many inputs are read at once.
        verbose: whether to show progress.

    Raises:
        ArgumentError: there are no queries, or their shape does not fit the owner model.
        SuspectError: the suspect takes inputs of another shape.
    """
    source: QuerySource = CheckedQueries(queries, owner.input_shape, suspect)
    if max_queries is None:
        count, digest = digest_of(source, batch_size)
        return Chosen(source, "all", count, digest, None, None, None, None, num_fresh=count)
    every = KeptAnswers()
    found = []
    batches = source.batches(batch_size)
    for batch in progress.track(batches, "choosing queries by predicted class", enabled=verbose):
        answers = owner.answers(batch)
        every.add(answers)
        found.append((main_class(answers), confidence(answers)))
    if not found:
        raise no_queries()
    classes, sure = (np.concatenate(column) for column in zip(*found, strict=True))
    chosen = SelectedQueries(source, confident_balanced_choice(classes, sure, max_queries, seed))
    count, digest = digest_of(chosen, batch_size)
    clean = every.of(chosen.indices)
    return Chosen(chosen, SURE, count, digest, chosen.indices, clean, None, None, num_fresh=count)


def fresh_share(max_queries: int | None, num_classes: int) -> int:
    """How many fresh queries are asked beside logged ones: two thirds of all, while the class channel gains by it.

    Args:
        max_queries: the largest number of both together; `None` for no limit.
        num_classes: number of classes C.
    """
    enough = _ENOUGH_FRESH * num_classes
    return enough if max_queries is None else max(min(2 * max_queries // 3, enough), 1)


def with_fresh(logged: Chosen, fresh: Chosen, batch_size: int) -> Chosen:
    """Logged queries with fresh ones before them.

    Args:
        logged: by `choose_logged`.
        fresh: by `choose_queries`.
        batch_size: how many inputs are read at once.
    """
    source = Joined(fresh.source, logged.source)
    count, digest = digest_of(source, batch_size)
    provenance = dict(LOG_AND_OWN if logged.provenance == LOG else OWN)
    chosen = dataclasses.replace(logged, source=source, count=count, sha256=digest, indices=None, clean=None)
    return dataclasses.replace(chosen, num_fresh=fresh.count, provenance=provenance)


def in_blocks_of(chosen: Chosen, batch_size: int, before: Sequence[int] = ()) -> Chosen:
    """The same queries, to be asked block by block.

    Args:
        chosen: the queries.
        batch_size: size of a block, at most.
        before: ends of the blocks that an earlier test asked, which this one extends.
    """
    ends = block_ends(chosen.count, chosen.num_fresh, batch_size, before)
    blocks = blocks_of(chosen.source.batches(batch_size), ends)
    return dataclasses.replace(chosen, blocks=blocks, sha256=blocks_sha256(blocks))


class Joined:
    """One source of queries after another; no batch holds queries of both."""

    def __init__(self, *sources: QuerySource) -> None:
        self._sources = sources

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the inputs."""
        for source in self._sources:
            yield from source.batches(batch_size)


class KeptAnswers:
    """Answers of the clean model that will be needed again, in memory while they are few, otherwise in a file.

    Example:

    >>> kept = KeptAnswers()
    >>> kept.add(owner.answers(batch))
    >>> kept.of(np.array([3, 17])).rows(0, 2)
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 -- lives as long as this object
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)
        self._indices: Array | None = None

    def add(self, answers: Array) -> None:
        """Keeps one more batch, of shape `(n, ..., C)`."""
        self._shape, self._dtype = answers.shape[1:], answers.dtype
        self._file.write(np.ascontiguousarray(answers).tobytes())

    def of(self, indices: Array) -> KeptAnswers:
        """The answers of some rows, in their order; the file is shared."""
        part = KeptAnswers.__new__(KeptAnswers)
        part._file, part._shape, part._dtype, part._indices = self._file, self._shape, self._dtype, indices
        return part

    def rows(self, start: int, stop: int) -> Array:
        """The answers from one row to before another, shape `(stop - start, ..., C)`."""
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        wanted = range(start, stop) if self._indices is None else self._indices[start:stop]
        found = bytearray()
        for row in wanted:
            self._file.seek(int(row) * size)
            found += self._file.read(size)
        return np.frombuffer(found, self._dtype).reshape(-1, *self._shape)


class CheckedQueries:
    """Queries that are known to have the shape that owner model and suspect take."""

    def __init__(self, source: QuerySource, input_shape: tuple[int | None, ...], suspect: Suspect) -> None:
        self._source = source
        self._input_shape = input_shape
        self._suspect = suspect

    def batches(self, batch_size: int) -> Iterator[Array]:
        for batch in self._source.batches(batch_size):
            shape = batch.shape[1:]
            if not _fits(shape, self._input_shape):
                hint = ""
                if shape == () and len(self._input_shape) == 1 and self._input_shape[0] in (None, 1):
                    hint = " Give them an axis more: queries.reshape(-1, 1)."
                raise ArgumentError(
                    f"`queries` have shape {shape} each; the owner model takes {self._input_shape}.{hint}"
                )
            if self._suspect.input_shape is not None and not _fits(shape, self._suspect.input_shape):
                raise SuspectError(
                    f"The suspect takes inputs of shape {tuple(self._suspect.input_shape)}, the owner model "
                    f"{self._input_shape}. Wrap the suspect in a callable that converts the inputs."
                )
            yield batch


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e is None or e == s for s, e in zip(shape, expected, strict=True))


def digest_of(source: QuerySource, batch_size: int) -> tuple[int, str]:
    digest = ArrayDigest()
    count = 0
    for batch in source.batches(batch_size):
        digest.update(batch)
        count += len(batch)
    if not count:
        raise no_queries()
    return count, digest.hexdigest()


def no_queries() -> ArgumentError:
    return ArgumentError("`queries` holds no inputs. Pass at least one; about ten for each class give a clear answer.")
