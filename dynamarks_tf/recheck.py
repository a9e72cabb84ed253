"""Recompute a result from an evidence bundle: for the other side's expert.

Needs NumPy, `cryptography` and, where the order of classes is in question, SciPy; no TensorFlow
and no model. From a shell:

    python -m dynamarks_tf.recheck bundle.zip [--key acme.key] [--timestamp-roots roots.pem] [--public]

A timestamp of the statement takes `rfc3161-client` too; without it, the timestamp is said to be there, unread.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography import x509

from dynamarks_tf import foreign_text
from dynamarks_tf._support.digests import ArrayDigest, query_digest
from dynamarks_tf._support.strict_json import instant
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case import members, query_provenance, transcript
from dynamarks_tf.case import transcript_chain as chains
from dynamarks_tf.case.assessment import Assessment, accumulator_of, assess, codebook_of, untested_channels
from dynamarks_tf.case.bundle import Bundle
from dynamarks_tf.case.client_table import client_lines, has_keys, num_found
from dynamarks_tf.case.draw import choice_sha256, draw, surest
from dynamarks_tf.case.extension import check_continues, read_heads
from dynamarks_tf.case.key_trace import check_client_keys, check_evidence_of_keys
from dynamarks_tf.case.plan import TestPlan, growth_points, looks_of
from dynamarks_tf.case.plausibility import warnings_of
from dynamarks_tf.case.reference_check import ReferenceCheck
from dynamarks_tf.case.result import VerificationResult
from dynamarks_tf.case.trace import ClientEvidence, check_evidence, clients_from_dict
from dynamarks_tf.case.transcript import TranscriptBatch
from dynamarks_tf.errors import BundleError, DynaMarksError
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.answers import confidence, main_class
from dynamarks_tf.evidence.channels import ChannelEvidence, channel_evidence, evidence_of_stated
from dynamarks_tf.evidence.class_order import in_order
from dynamarks_tf.evidence.kept_answers import KeepingAccumulator
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.evidence.tracing import Exclusive, TracingAccumulator
from dynamarks_tf.keys import commitment
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.passphrase_input import load_key
from dynamarks_tf.keys.pool import CommittedPool
from dynamarks_tf.keys.seal import Seal
from dynamarks_tf.keys.timestamp import StatementDate, load_roots
from dynamarks_tf.watermark.codebook import Codebook
from dynamarks_tf.watermark.keyed_hash import KeyedHash

_RELATIVE_TOLERANCE = 1e-4  # single-precision logarithms and sums, in another order, on another processor
_GROWTH_TOLERANCE = 0.1  # of log10 p, since a residual may then be rounded to the next step of the lattice
_EXACT_TOLERANCE = 1e-6  # of what follows from the tables in the bundle


_WITHOUT_KEY = (
    "Not checked with the key: what the secret signs say (the statistic T, or the e-value) is the owner's unverified "
    "claim, and p-value and result follow from it. The maker of a bundle can state any."
)
_NO_STATEMENT = (
    "The bundle holds no published commitment: that key and model are older than the suspect has to be shown otherwise."
)
_KEY_ALONE = (
    "The statement is about the key alone: that the owner's model is older than the suspect has to be shown otherwise."
)
_LATER = (
    "The statement is dated {}, after the test was planned: that key and model are older than the suspect, and were "
    "not chosen by its answers, has to be shown otherwise."
)
_GIVEN_ANSWERS = (
    "The suspect is a file of answers, which were in the owner's hands before the plan was fixed: that queries, seed "
    "and threshold were not chosen by them has to be shown otherwise."
)
_REFERENCES = (
    "That the reference models were never marked, nor trained on marked answers or made to fit the key, is the owner's "
    "unverified claim."
)
_ANSWERS = (
    "No bundle can show that the recorded answers are those of the owner's model and of the suspect. Only "
    "re-querying both models proves it."
)
_ALIGNED_BY_LOG = (
    "The order of the suspect's classes was found from all answers, later ones included. The p-value is exact if "
    "clients did not choose what they asked by earlier answers."
)
_NO_QUERIES = "That takes the queries, of which this bundle holds digests only (`verify --include-queries`)."


_NO_POOL = (
    "Whether the queries are inputs of the committed pool takes the pool, which is not in the bundle "
    "(`dynamarks check BUNDLE --pool POOL`)."
)
_READ_AT_ONCE = 256  # inputs of a pool


class Inputs(Protocol):
    """Inputs that come in batches: what `suspects.queries.as_queries` makes of a file or an array."""

    def batches(self, batch_size: int) -> Iterator[npt.NDArray[Any]]:
        """Yields arrays of shape `(n, ...)`."""
        ...


@dataclasses.dataclass(frozen=True)
class Recheck:
    """What came out of recomputing a bundle.

    Attributes:
        evidence: the result in the bundle, confirmed by all steps.
        steps: what was checked, one sentence each.
        caveats: what the bundle does not show.
        with_key: whether the signs were checked too. Without the key, the statistic T has to be believed, and
            everything else follows from it.
        clients: what was found for each client, if the bundle is that of a trace; otherwise empty.
        case: what the result was recomputed from. Confidential.
    """

    evidence: VerificationResult
    steps: tuple[str, ...]
    caveats: tuple[str, ...]
    with_key: bool
    clients: dict[str, ClientEvidence]
    case: CheckedBundle = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class CheckedBundle:
    """What a result was recomputed from. Confidential: tables of a detected surrogate give the secret signs away.

    Attributes:
        residuals: the table of each channel that was tested, as the bundle holds it.
        book: the codebook; `None` without the key.
        statement: the published commitment, if the bundle holds it.
        statement_date: what its timestamp says; `None` if it has none.
        fixed_at: when the plan was fixed, ISO 8601 in UTC.
        best_classes: the best class of each answer for clean owner model and suspect, ints of shape `(2, answers)`;
            -1 for a class that the owner model does not know.
        selected: which of the inputs that were given were asked, shape `(num_queries,)`; `None` for all.
    """

    residuals: dict[str, Residuals]
    book: Codebook | None
    statement: Statement | None
    statement_date: StatementDate | None
    fixed_at: str
    best_classes: npt.NDArray[np.int64]
    selected: npt.NDArray[np.int64] | None


def recheck(
    path: str | os.PathLike[str],
    *,
    key: MarkKey | None = None,
    pool: Inputs | None = None,
    timestamp_roots: Sequence[x509.Certificate] | None = None,
) -> Recheck:
    """Recomputes digests, tables and p-values of an evidence bundle.

    Args:
        path: a file that `verify(bundle=...)` wrote.
        key: the owner's key, if it is revealed; by default the one in the bundle, if it holds one.
        pool: the inputs that the statement commits to, if the queries were drawn from them.
        timestamp_roots: root certificates of time-stamping authorities that are trusted, as
            `keys.timestamp.load_roots` reads them. The statement must then have a timestamp that they bear out.

    Returns:
        The result and what was checked. If anything does not hold, an error is raised instead.

    Raises:
        BundleError: the bundle was changed, or does not confirm what it states; the message says what.
        CommitmentError: statement and key do not belong together, or statement and timestamp.
        FormatError: a part of it is of a version that this release does not know.
        TranscriptError: the records of the test are not those that were written.

    Example:

    >>> recheck("bundle.zip").evidence.log10_p
    -21.4
    """
    try:
        with Bundle(path) as bundle:
            return _Recheck(bundle, key, pool, timestamp_roots).run()
    except DynaMarksError:
        raise
    except Exception as error:  # a forger may put anything into a member
        raise BundleError(f"{os.fspath(path)} is malformed: {type(error).__name__}: {error}") from error


class _Recheck:
    """The steps of a recheck, in order; each returns a sentence or raises."""

    def __init__(
        self,
        bundle: Bundle,
        key: MarkKey | None,
        pool: Inputs | None,
        timestamp_roots: Sequence[x509.Certificate] | None,
    ) -> None:
        self._bundle = bundle
        self._pool = pool
        self._timestamp_roots = timestamp_roots
        if key is None and bundles.KEY in bundle:
            key = MarkKey.from_json(bundle.read(bundles.KEY), f"{bundle.path}, {bundles.KEY}")
        self._key = key
        self._seal: Any = None if key is None else Seal(key)
        source = f"{bundle.path}, {bundles.EVIDENCE}"
        self._evidence = VerificationResult.from_dict(bundle.read_json(bundles.EVIDENCE), source)
        self._plan = self._evidence.plan
        self._codebook: Codebook | None = None
        self._statement: Statement | None = None
        self._statement_date: StatementDate | None = None
        self._best_classes: list[npt.NDArray[np.int64]] = []
        self._clean: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._clients: dict[str, ClientEvidence] = {}
        self._parties: list[Exclusive] | None = None
        self._accumulator: ResidualAccumulator | None = None

    def run(self) -> Recheck:
        steps = [
            f"Every byte of {len(self._bundle.manifest['members'])} members is as it was written.",
            self._check_signature(),
            self._check_statement(),
            self._check_timestamp(),
            self._check_plan(),
        ]
        assessment = self._assess()
        kept = "; the queries are in the bundle and are those of the plan" if self._keeps_queries else ""
        sealed = ", and were written with the key" if self._key is not None else ""
        steps.append(
            f"The records of {assessment.num_queries} queries follow from the plan and from each other{sealed}{kept}."
        )
        steps.append(self._check_provenance())
        tables = self._stored_tables(assessment.residuals)
        steps.append(f"The tables ({', '.join(tables)}) follow from the recorded answers{self._of_whom()}.")
        steps.append(self._check_facts(assessment))
        steps.append(self._check_p_values(tables, assessment))
        self._check_growth(assessment)
        steps.append(self._check_clients())
        return Recheck(
            self._evidence,
            tuple(step for step in steps if step),
            tuple(self._caveats()),
            self._key is not None,
            self._clients,
            CheckedBundle(
                tables,
                self._codebook,
                self._statement,
                self._statement_date,
                self._head["fixed_at"],
                np.concatenate(self._best_classes, axis=1),
                self._selection(),
            ),
        )

    def _caveats(self) -> Iterator[str]:
        """What the bundle does not show, the gravest first."""
        if self._key is None:
            yield _WITHOUT_KEY
        if self._statement is None:
            yield _NO_STATEMENT
        elif self._statement.model_sha256 is None:
            yield _KEY_ALONE
        if (date := self._date_after_plan()) is not None:
            yield _LATER.format(date)
        if self._statement_date is not None and not self._statement_date.is_verified:
            yield self._statement_date.in_words()
        if transcript.were_answers_given(self._evidence.suspect, self._evidence.suspect_sha256):
            yield _GIVEN_ANSWERS
        yield query_provenance.caveat(self._plan.provenance)
        if self._plan.align_classes and self._plan.logged:
            yield _ALIGNED_BY_LOG
        if self._plan.provenance["kind"] == "drawn" and self._pool is None:
            yield _NO_POOL
        if self._plan.references:
            yield _REFERENCES
        yield _ANSWERS if self._head["keeps_queries"] else f"{_ANSWERS} {_NO_QUERIES}"

    def _date_after_plan(self) -> str | None:
        """When the statement existed or was made by its own word, if its test was planned before."""
        proven = self._statement_date
        dates = [] if self._statement is None else [self._statement.date]
        dates += [] if proven is None or not proven.is_verified or proven.moment is None else [proven.moment]
        planned = self._fixed_at(read_heads(self._bundle)[0])
        return next((date for date in reversed(dates) if self._instant(date) > planned), None)

    def _of_whom(self) -> str:
        count = len(self._plan.references)
        others = "1 reference model" if count == 1 else f"{count} reference models"
        with_key = ", whose own answers do not follow the secret signs" if self._codebook is not None else ""
        return f" of suspect, clean owner model and {others} that the plan names{with_key}" if count else ""

    def _selection(self) -> npt.NDArray[np.int64] | None:
        if bundles.SELECTION not in self._bundle:
            return None
        return members.read_selection(self._bundle.read(bundles.SELECTION), self._plan)

    def _check_signature(self) -> str:
        manifest = self._bundle.manifest
        signed = bundles.manifest_bytes(manifest)
        if not commitment.is_signed(signed, manifest.get("public_key", ""), manifest.get("signature", "")):
            raise BundleError(f"{self._bundle.path}: the signature of the manifest does not fit.")
        if self._key is not None and manifest["public_key"] != commitment.public_key(self._key):
            raise BundleError(f"{self._bundle.path} was signed with another key than the one given.")
        return f"The manifest is signed with the Ed25519 key {manifest['public_key']}."

    def _check_statement(self) -> str:
        if bundles.STATEMENT not in self._bundle:
            return ""
        source = f"{self._bundle.path}, {bundles.STATEMENT}"
        statement = Statement.from_dict(self._bundle.read_json(bundles.STATEMENT), source)
        if statement.commitment != self._plan.commitment or statement.owner != self._evidence.owner:
            raise BundleError(f"{source} is about another key than the plan.")
        if statement.public_key != self._bundle.manifest["public_key"]:
            raise BundleError(f"{source} and the manifest were signed with different keys.")
        statement.check_model(self._plan.owner_file_sha256)
        if self._key is not None:
            statement.check_opened_by(self._key)
        if bundles.TIMESTAMP in self._bundle:
            statement = dataclasses.replace(statement, timestamp=self._bundle.read(bundles.TIMESTAMP))
        self._statement = statement
        about = "this key" if statement.model_sha256 is None else "this key and this model file"
        return (
            f"{statement.owner} committed to {about} in a signed statement that says {statement.date}; compare it "
            "with the published one."
        )

    def _check_timestamp(self) -> str:
        if self._statement is None:
            if self._timestamp_roots is not None or bundles.TIMESTAMP in self._bundle:
                raise BundleError(f"{self._bundle.path} holds no statement that a timestamp could be of.")
            return ""
        source = f"{self._bundle.path}, {bundles.TIMESTAMP}"
        date = self._statement_date = self._statement.proven_date(self._timestamp_roots, source)
        return date.in_words() if date is not None and date.is_verified else ""

    def _check_plan(self) -> str:
        path = self._bundle.path
        heads = read_heads(self._bundle)
        self._head = chains.read_head(heads[-1], f"{path}, {chains.HEAD}")
        if self._seal is not None:
            for data in heads:
                chains.check_sealed(chains.read_head(data, str(path)), self._seal, f"{path}, {chains.HEAD},")
        self._joints = chains.joints(heads, f"{path}, {chains.HEAD}")
        plan = TestPlan.from_dict(self._head["plan"], f"{path}, {chains.HEAD}")
        if plan != self._plan or self._head["plan_sha256"] != plan.digest:
            raise BundleError(f"{path}: the evidence is not about the plan that was fixed beforehand.")
        self._blocks = chains.blocks_of_head(self._head, plan, str(path))
        if self._bundle.manifest["commitment"] != plan.commitment:
            raise BundleError(f"{path}: plan and manifest name different commitments.")
        if (self._evidence.suspect, self._evidence.suspect_sha256) != (
            self._head["suspect"],
            self._head["suspect_sha256"],
        ):
            raise BundleError(f"{path}: the evidence names another suspect than the plan.")
        given = transcript.were_answers_given(self._evidence.suspect, self._evidence.suspect_sha256)
        before = "the given answers were looked up" if given else "the first question"
        selected = "" if plan.log is None else f" {_selected(plan.log, plan.num_queries)}"
        fixed = f"The plan (sha256 {plan.digest}) was fixed at {self._head['fixed_at']}, before {before}."
        return f"{fixed}{selected}{self._check_extended(heads)}"

    def _check_extended(self, heads: Sequence[bytes]) -> str:
        """Checks that this test goes on with those that it extends."""
        where, found = str(self._bundle.path), []
        first = TestPlan.from_dict(chains.read_head(heads[0], where)["plan"], where)
        if first.sequential and first.looks != looks_of(first.num_fresh):
            raise BundleError(f"{where}: its looks at the class channel are not those of a sequential test.")
        for data, batches in zip(heads[:-1], self._joints, strict=True):
            head = chains.read_head(data, where)
            if (head["suspect"], head["suspect_sha256"]) != (self._head["suspect"], self._head["suspect_sha256"]):
                raise BundleError(f"{where}: it extends a test of another suspect.")
            earlier = TestPlan.from_dict(head["plan"], where)
            blocks = chains.blocks_of_head(head, earlier, where)[:batches]
            check_continues(self._plan, self._blocks, earlier, blocks)
            found.append(f"{sum(block.rows for block in blocks)} questions planned at {head['fixed_at']}")
        return f" It extends a sequential test: {', then '.join(found)}." if found else ""

    def _check_provenance(self) -> str:
        """Repeats the draw, if there was one; other claims about who chose the queries are told only."""
        provenance, where = self._plan.provenance, str(self._bundle.path)
        told = f"By the plan, the queries are {query_provenance.in_words(provenance)}."
        if provenance["kind"] != "drawn":
            if self._pool is not None:
                raise BundleError(f"{where}: its queries were not drawn from a pool. Check it without one. {told}")
            return told
        pool = CommittedPool(**provenance["pool"])
        if self._statement is None or self._statement.pool != pool:
            raise BundleError(f"{where}: the statement in it does not name the pool that the plan names.")
        if not pool.num_queries == self._plan.num_queries == self._plan.max_queries:
            raise BundleError(f"{where}: its number of queries is not the one that was committed to.")
        drawn = draw(pool, self._plan.commitment, provenance["beacon"])
        classes, confidences = members.read_draw(self._bundle.read(bundles.DRAW), self._plan)
        if choice_sha256(drawn, classes, confidences) != provenance["choice_sha256"]:
            raise BundleError(f"{where}: what was drawn is not what commitment, pool and public value give.")
        positions = surest(classes, confidences, pool.num_queries)
        order = np.argsort(drawn[positions])
        asked, positions = drawn[positions][order], positions[order]
        selected = self._selection()
        if selected is None or not np.array_equal(asked, selected):
            raise BundleError(f"{where}: the queries are not those that the draw and the clean answers give.")
        of_asked = [np.concatenate(column) for column in zip(*self._clean, strict=True)]
        answered = positions[: len(of_asked[0])]  # a sequential test may have stopped before the last
        if not np.array_equal(of_asked[0], classes[answered]) or not np.allclose(of_asked[1], confidences[answered]):
            raise BundleError(f"{where}: {bundles.DRAW} does not agree with the clean answers to the queries.")
        if self._pool is not None:
            self._check_pool(self._pool, pool, asked)
        kept = "" if self._pool is None else " The pool given is the committed one, and holds these queries."
        return (
            f"{told} The draw of {pool.num_drawn} of them, repeated from pool, commitment and public value, and the "
            f"choice of the {pool.num_queries} of which the clean model is surest give the queries of the plan.{kept}"
        )

    def _check_pool(self, given: Inputs, pool: CommittedPool, asked: npt.NDArray[np.int64]) -> None:
        """Compares the pool that was given with the statement, and what was asked with its inputs."""
        whole, part, start, rows = ArrayDigest(), ArrayDigest(), 0, []
        for batch in given.batches(_READ_AT_ONCE):
            whole.update(batch)
            low, high = np.searchsorted(asked, [start, start + len(batch)])
            if high > low:
                rows.append(batch[asked[low:high] - start])
                part.update(rows[-1])
            start += len(batch)
        if (start, whole.hexdigest()) != (pool.size, pool.sha256):
            raise BundleError(
                f"{self._bundle.path}: the statement commits to a pool of {pool.size} inputs with SHA-256 "
                f"{pool.sha256}; given are {start} with {whole.hexdigest()}."
            )
        found = part.hexdigest()
        if self._plan.sequential:
            ends = np.cumsum([block.rows for block in self._blocks])[:-1]
            blocks = np.split(np.concatenate(rows), ends)
            found = chains.blocks_sha256([chains.Block(len(block), query_digest(block)) for block in blocks])
        if found != self._plan.queries_sha256:
            raise BundleError(f"{self._bundle.path}: the queries are not the inputs of the pool that were drawn.")

    @property
    def _keeps_queries(self) -> bool:
        return bool(self._head["keeps_queries"])

    def _batches(self) -> Iterator[TranscriptBatch]:
        """The recorded batches, each checked against the chain that starts with the plan."""
        where, plan = str(self._bundle.path), self._plan
        heads = read_heads(self._bundle)
        fixed_at = dict(zip((0, *self._joints), (self._fixed_at(head) for head in heads), strict=True))
        chain, previous_time = hashlib.sha256(heads[0]).hexdigest(), fixed_at[0]
        queries = ArrayDigest()
        index = 0
        while chains.batch_names(index)[1] in self._bundle:
            name, record_name = chains.batch_names(index)
            data, record = self._bundle.read(name), self._bundle.read_json(record_name)
            chains.check_record(record, data, index, chains.follows(chain, index, self._joints), where)
            fixed = fixed_at.get(index, previous_time)
            asked, answered = self._instant(record["asked_at"]), self._instant(record["answered_at"])
            if not previous_time <= fixed <= asked <= answered:
                raise BundleError(f"{where}, batch {index}: it was asked or answered before what precedes it.")
            if self._seal is not None:
                chains.check_sealed(record, self._seal, f"{where}, batch {index},")
            chain, previous_time = record["chain"], answered
            batch = members.read_batch(data, self._plan, record["rows"])
            if plan.sequential and (record["rows"], record["queries_sha256"]) != (*self._blocks[index],):
                raise BundleError(f"{where}, batch {index}: it is not the block of queries that was planned.")
            if (batch.queries is not None) != self._keeps_queries:
                raise BundleError(f"{where}, batch {index}: the plan and the batch disagree about keeping queries.")
            if batch.queries is not None:
                queries.update(batch.queries)
                if query_digest(batch.queries) != record["queries_sha256"]:
                    raise BundleError(f"{where}, batch {index}: its queries are not those that were asked.")
            yield batch
            index += 1
        if self._instant(self._evidence.tested_at) < previous_time.replace(microsecond=0):
            raise BundleError(f"{where}: its result is dated {self._evidence.tested_at}, before the last answer.")
        if self._joints and max(self._joints) > index:
            raise BundleError(f"{where}: it holds fewer batches than the test that it extends.")
        if self._keeps_queries and not plan.sequential and queries.hexdigest() != self._plan.queries_sha256:
            raise BundleError(f"{where}: its queries are not those of the plan.")

    def _fixed_at(self, head: bytes) -> datetime.datetime:
        return self._instant(chains.read_head(head, str(self._bundle.path))["fixed_at"])

    def _instant(self, text: str) -> datetime.datetime:
        try:
            return instant(text)
        except ValueError:
            raise BundleError(f"{self._bundle.path}: there is no time {text}.") from None

    def _assess(self) -> Assessment:
        plan = self._plan
        keyed_hash = members.read_keyed_hash(self._bundle.read(bundles.KEYED_HASH), plan)
        pairs = members.read_pairs(self._bundle.read(bundles.PAIRS), plan) if "class-choice" in plan.channels else None
        if self._key is not None:
            self._codebook, pairs = self._expand(self._key, keyed_hash, pairs)
        met_before = None
        if plan.logged:
            met_before = members.read_met_before(self._bundle.read(bundles.MET_BEFORE), plan)
        if plan.parties_sha256 is not None or plan.client_keys_sha256 is not None:
            source = f"{self._bundle.path}, {bundles.TRACE}"
            self._clients = clients_from_dict(self._bundle.read_json(bundles.TRACE), source)
        if plan.client_keys_sha256 is not None:
            check_client_keys(self._clients, plan)
        if plan.parties_sha256 is not None:
            self._parties = members.read_parties(self._bundle.read(bundles.PARTIES), [*self._clients], plan)
        self._keyed_hash = keyed_hash
        accumulator = self._accumulator = accumulator_of(plan, keyed_hash, pairs, met_before, self._parties)
        check = None if self._codebook is None else ReferenceCheck(plan, self._codebook, met_before)
        assessment = assess(
            self._answers() if check is None else check.watching(self._answers()),
            accumulator,
            self._codebook,
            rule=plan.rule,
            looks=plan.looks,
            align_classes=plan.align_classes,
        )
        if check is not None and (following := check.following()) is not None:
            raise BundleError(
                f"{self._bundle.path}: the answers of reference model {following} follow the secret signs of the key, "
                "so it was marked, trained on marked answers or made to fit the key."
            )
        self._align_best_classes(assessment.class_order)
        stopped = plan.sequential and self._evidence.detected()
        if assessment.num_queries != plan.num_queries and not (stopped and assessment.num_queries < plan.num_queries):
            raise BundleError(
                f"{self._bundle.path} holds the answers to {assessment.num_queries} queries; the plan was to ask "
                f"{plan.num_queries}."
            )
        return assessment

    def _expand(
        self, key: MarkKey, keyed_hash: KeyedHash, pairs: npt.NDArray[np.int32] | None
    ) -> tuple[Codebook, npt.NDArray[np.int32] | None]:
        """The codebook that the key gives, and its pairs; what the bundle holds of both must agree."""
        plan = self._plan
        if key.commitment != plan.commitment or key.owner != self._evidence.owner:
            raise BundleError(
                f"{self._bundle.path} is about the key {plan.commitment[:16]} of "
                f"{foreign_text.quoted(self._evidence.owner)}; given is {key.key_id} of "
                f"{foreign_text.quoted(key.owner)}."
            )
        expanded = codebook_of(plan, key)
        if not members.same_keyed_hash(expanded.keyed_hash, keyed_hash):
            raise BundleError(f"{self._bundle.path}: its keyed hash is not the one that the key gives.")
        contrasts = expanded.contrasts()
        if pairs is not None and not ((pairs == contrasts) | (pairs < 0)).all():
            raise BundleError(f"{self._bundle.path}: its pairs are not those that the key gives.")
        return expanded, contrasts

    def _answers(self) -> Iterator[tuple[npt.NDArray[Any], ...]]:
        for batch in self._batches():
            labels = batch.suspect if batch.suspect.ndim < batch.clean.ndim else batch.suspect.argmax(axis=-1)
            if self._plan.provenance["kind"] == "drawn":
                self._clean.append((main_class(batch.clean), confidence(batch.clean)))
            self._best_classes.append(np.stack([batch.clean.argmax(axis=-1).ravel(), labels.ravel()]))
            yield batch.answers

    def _align_best_classes(self, order: tuple[int, ...] | None) -> None:
        if order is not None:
            aligned = (in_order(suspect, order, labels=True) for _, suspect in self._best_classes)
            pairs = zip(self._best_classes, aligned, strict=True)
            self._best_classes = [np.stack([clean, suspect]) for (clean, _), suspect in pairs]

    def _stored_tables(self, residuals: dict[str, Residuals]) -> dict[str, Residuals]:
        """The tables of the bundle, which p-values follow from to the last digit, once the answers confirm them."""
        if tuple(residuals) != tuple(channel.channel for channel in self._evidence.channels):
            raise BundleError(f"{self._bundle.path}: its channels are not those that the answers can be tested in.")
        shapes = {channel: found.values.shape for channel, found in residuals.items()}
        stored = members.read_residuals(self._bundle.read(bundles.RESIDUALS), shapes)
        for channel, found in residuals.items():
            size = float(np.abs(found.values).max(initial=0))
            if not np.allclose(
                stored[channel], found.values, rtol=_RELATIVE_TOLERANCE, atol=_RELATIVE_TOLERANCE * size
            ):
                raise BundleError(
                    f"{self._bundle.path}: the table of the {channel} channel does not follow from the answers."
                )
        return {channel: dataclasses.replace(found, values=stored[channel]) for channel, found in residuals.items()}

    def _check_facts(self, assessment: Assessment) -> str:
        """Compares all that the result states and that needs no secret sign."""
        evidence, residuals = self._evidence, assessment.residuals
        facts: dict[str, tuple[Any, Any]] = {
            "key_id": (evidence.key_id, self._plan.commitment[:16]),
            "answers": (evidence.answers, "labels" if assessment.labels_only else "probabilities"),
            "untested": (evidence.untested, untested_channels(self._plan, tuple(residuals))),
            "class_order": (evidence.class_order, assessment.class_order),
            "warnings": (
                evidence.warnings,
                warnings_of(self._plan, assessment.confusion, assessment.clean_spread),
            ),
        }
        for channel in evidence.channels:
            found = residuals[channel.channel]
            facts[f"num_queries of the {channel.channel} channel"] = channel.num_queries, found.num_queries
            facts[f"num_cells of the {channel.channel} channel"] = channel.num_cells, found.num_cells
            self._compare(f"slope of the {channel.channel} channel", channel.slope, found.slope)
        for name, (stated, expected) in facts.items():
            if stated != expected:
                raise BundleError(f"{self._bundle.path}: {name} is stated as {stated!r} and comes out as {expected!r}.")
        self._compare("fidelity", evidence.fidelity, assessment.fidelity)
        return (
            "What is stated about the answers (form, fidelity, warnings, queries and secret signs of each channel) "
            "follows from them."
        )

    def _check_p_values(self, tables: dict[str, Residuals], assessment: Assessment) -> str:
        if self._plan.rule == anytime.RULE:
            return self._check_e_values(assessment)
        evidence = self._evidence
        if evidence.log10_e is not None:
            raise BundleError(f"{self._bundle.path}: it states an e-value, which a test of its plan does not have.")
        (channel,) = evidence.channels
        found = self._channel_evidence(channel, tables[channel.channel])
        for name, stated, expected in (
            (f"T of the {channel.channel} channel", channel.statistic, found.statistic),
            ("largest T", channel.largest_possible, found.largest_possible),
            ("log10 p of the channel", channel.log10_p, found.log10_p),
            ("log10 p", evidence.log10_p, found.log10_p),
        ):
            self._compare(name, stated, expected, _EXACT_TOLERANCE, _EXACT_TOLERANCE)
        if self._codebook is None:
            return (
                f"The p-value (10^{found.log10_p:.2f}) follows from the table and the statistic T. That T is the sum "
                "of sign times residual, and how it grew, can be checked with the key only."
            )
        return f"With the key, signs, statistics and p-values come out as stated (10^{found.log10_p:.2f})."

    def _check_e_values(self, assessment: Assessment) -> str:
        evidence, where = self._evidence, str(self._bundle.path)
        log10_e = evidence.log10_e
        if log10_e is None or evidence.log10_p != min(-log10_e, 0.0):
            raise BundleError(f"{where}: p is not stated as the reciprocal of the e-value.")
        for channel in evidence.channels:
            largest = float(np.abs(assessment.residuals[channel.channel].values).sum())
            self._compare(f"largest T of the {channel.channel} channel", channel.largest_possible, largest)
            if not abs(channel.statistic) <= largest * (1 + _RELATIVE_TOLERANCE) + _RELATIVE_TOLERANCE:
                raise BundleError(f"{where}: T of the {channel.channel} channel is larger than it can be.")
        guesses = sum(channel.num_cells for channel in evidence.channels) * math.log10(2)
        if not -guesses - 1 <= log10_e <= guesses + _RELATIVE_TOLERANCE:
            raise BundleError(
                f"{where}: no signs give the e-value that is stated; at most 10^{guesses:.1f} is possible."
            )
        if self._codebook is None:
            return (
                f"The p-value (10^{evidence.log10_p:.2f}) is the reciprocal of the e-value, and one that this many "
                "secret signs can give. That it is the true one, and how it grew, can be checked with the key only."
            )
        for ours, theirs in zip(assessment.channels, evidence.channels, strict=True):
            of_channel = f"of the {ours.channel} channel"
            close = _RELATIVE_TOLERANCE * max(1.0, ours.largest_possible)
            self._compare(f"T {of_channel}", theirs.statistic, ours.statistic, absolute=close)
            self._compare(f"log10 p {of_channel}", theirs.log10_p, ours.log10_p, absolute=_GROWTH_TOLERANCE)
        found = assessment.log10_e or 0.0
        self._compare("log10 e", log10_e, found, absolute=_GROWTH_TOLERANCE)
        limit = -math.log10(self._plan.alpha)
        if (log10_e >= limit) != (found >= limit):
            raise BundleError(
                f"{where}: log10 e is stated as {log10_e:.6g} and comes out as {found:.6g}; alpha lies between."
            )
        return f"With the key, signs, statistics and p-values come out as stated (10^{evidence.log10_p:.2f})."

    def _check_growth(self, assessment: Assessment) -> None:
        """Checks where growth is stated, that it ends in the result, and with the key each of its values."""
        growth, where = self._evidence.growth, str(self._bundle.path)
        if [point.num_queries for point in growth] != growth_points(assessment.num_queries):
            raise BundleError(f"{where}: the growth of the evidence is not stated where it is computed.")
        values = [point.log10_p for point in growth]
        if values[-1] != self._evidence.log10_p or not all(math.isfinite(value) and value <= 0 for value in values):
            raise BundleError(f"{where}: the growth of the evidence does not end in the result.")
        for ours, theirs in zip(assessment.growth, growth, strict=False):
            what = f"log10 p after {ours.num_queries} queries"
            self._compare(what, theirs.log10_p, ours.log10_p, absolute=_GROWTH_TOLERANCE)

    def _channel_evidence(self, stated: ChannelEvidence, table: Residuals) -> ChannelEvidence:
        if self._codebook is not None:
            return channel_evidence(stated.channel, self._codebook.signs(stated.channel), table)
        try:
            return evidence_of_stated(stated.channel, stated.statistic, table)
        except ValueError as error:
            raise BundleError(
                f"{self._bundle.path}: T of the {stated.channel} channel is stated as {stated.statistic:.6g}; {error}."
            ) from error

    def _check_clients(self) -> str:
        if isinstance(self._accumulator, KeepingAccumulator):
            return check_evidence_of_keys(self._clients, self._accumulator, self._keyed_hash, self._plan, self._key)
        if not isinstance(self._accumulator, TracingAccumulator):
            return ""
        check_evidence(self._clients, self._accumulator, self._codebook)
        if self._codebook is None:
            return (
                f"The adjusted p-values of {len(self._clients)} clients and groups follow from the stated ones, and "
                "these are possible. That they are true can be checked with the key only."
            )
        return f"The p-values of {len(self._clients)} clients and groups, with the key, come out as stated."

    def _compare(
        self,
        what: str,
        stated: float,
        found: float,
        relative: float = _RELATIVE_TOLERANCE,
        absolute: float = _RELATIVE_TOLERANCE,
    ) -> None:
        """Compares two numbers that were computed on different processors."""
        if not math.isclose(stated, found, rel_tol=relative, abs_tol=absolute):
            raise BundleError(f"{self._bundle.path}: {what} is stated as {stated:.6g} and comes out as {found:.6g}.")


def _selected(log: dict[str, Any], num_asked: int) -> str:
    """What was selected from a request log, in a sentence."""
    wanted = {"clients": log["clients"], "model": log["model"], "versions": log["versions"]}
    named = "; ".join(f"{name}: {value!a}" for name, value in wanted.items() if value is not None)
    return (
        f"It asks {num_asked} of the {log['num_queries']} queries of a log in {len(log['files'])} file(s)"
        f"{f', of selected requests only ({named})' if named else ''}. Only secret signs count that these queries met "
        "first in the whole log."
    )


def public_summary(result: Recheck) -> dict[str, Any]:
    """What may be published of a bundle: aggregates only, and what was checked; plain values for JSON.

    Of the clients of a trace it gives the number, and how many were found: their names are the owner's customers.
    """
    date = result.case.statement_date
    checked = {
        "with_key": result.with_key,
        "statement_date": None if date is None else dataclasses.asdict(date),
        "steps": [*result.steps],
        "caveats": [*result.caveats],
    }
    summary = {**result.evidence.to_dict(), "checked": checked}
    if result.clients:
        found = num_found(result.clients, result.evidence.plan.alpha)
        summary["client_counts"] = {"tested": len(result.clients), "found": found}
    return summary


def summary(result: Recheck) -> dict[str, Any]:
    """The same with what was found for each client, whose names are not for publication."""
    clients = {"clients": [client.to_dict() for client in result.clients.values()]} if result.clients else {}
    return {**public_summary(result), **clients}


def report(result: Recheck) -> str:
    """The steps and the result for people."""
    evidence = result.evidence
    lines = [*(f"ok  {step}" for step in result.steps), *(f"but {caveat}" for caveat in result.caveats)]
    lines += [f"warning: {warning}" for warning in evidence.warnings]
    outcome = "MARK FOUND" if evidence.detected() else "mark not found"
    whose = "master key: " if has_keys(result.clients) else ""
    lines.append(
        f"{whose}{outcome}: log10 p = {evidence.log10_p:.2f} (threshold {evidence.plan.alpha:g}) for "
        f"{evidence.suspect}, claimed by {evidence.owner}"
    )
    if result.clients:
        lines += ["", *client_lines(result.clients, evidence.plan.alpha)]
    return foreign_text.lines(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The shell's side of `recheck`; returns 0 if the bundle holds, 2 if not."""
    parser = argparse.ArgumentParser(prog="python -m dynamarks_tf.recheck", description="Recompute an evidence bundle.")
    parser.add_argument("bundle", help="file that dynamarks verify --bundle wrote")
    parser.add_argument("--key", help="key file of the owner, if it is revealed")
    parser.add_argument("--timestamp-roots", help="PEM file with root certificates of time-stamping authorities")
    parser.add_argument("--public", action="store_true", help="print what may be published: aggregates only, as JSON")
    options = parser.parse_args(arguments)
    try:
        key = None if options.key is None else load_key(options.key)
        roots = None if options.timestamp_roots is None else load_roots(options.timestamp_roots)
        result = recheck(options.bundle, key=key, timestamp_roots=roots)
    except DynaMarksError as error:
        print(foreign_text.lines([f"error: {error}"]), file=sys.stderr)
        return 2
    print(json.dumps(public_summary(result), indent=2).replace("\x7f", "\\u007f") if options.public else report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
