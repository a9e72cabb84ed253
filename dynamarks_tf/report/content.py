"""The content of a report: plain data, from which the page, the figures and the JSON file are made.

It may be published unless it holds the sign table or names clients. Drawing and HTML are in other modules.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._version import __version__
from dynamarks_tf.case import transcript
from dynamarks_tf.case.client_table import has_keys
from dynamarks_tf.case.result import VerificationResult
from dynamarks_tf.case.trace import ClientEvidence
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.timestamp import StatementDate
from dynamarks_tf.recheck import Recheck
from dynamarks_tf.report import agreement, decoys
from dynamarks_tf.report.agreement import Group
from dynamarks_tf.report.decoys import Decoys

FORMAT = "dynamarks-report"
FORMAT_VERSION = 2
GRINDING_LOG10_P = -80 * math.log10(2)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often the models are correct, on queries whose true classes are known.

    Attributes:
        owner: fraction of correct top-1 answers of the clean owner model.
        suspect: the same of the suspect.
        shared_errors: of the queries that the owner model gets wrong, the fraction on which the suspect gives the same
            wrong answer; `None` if the owner model gets none wrong.
    """

    owner: float
    suspect: float
    shared_errors: float | None


@dataclasses.dataclass(frozen=True, repr=False)
class ChannelTable:
    """The class channel's secret signs beside the suspect's residuals. Confidential: it is part of the key.

    Attributes:
        signs: -1 or +1, rows of columns.
        residuals: R in units of the largest, of the same shape; 0 for signs that no query has met.
    """

    signs: tuple[tuple[int, ...], ...]
    residuals: tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class BundleReport:
    """The content of the report of one bundle.

    Attributes:
        evidence: the result of the test.
        steps: the checks that were made for the report.
        caveats: limits of what the bundle shows.
        with_key: whether the key took part in the check.
        statement: the published commitment, if there is one.
        statement_date: what its timestamp says; `None` if it has none.
        fixed_at: when the plan was fixed, ISO 8601 in UTC.
        decoys: the owner's key among decoys.
        agreement: for each channel, the agreement with the key by strength; `None` without the key.
        accuracy: how often the models are correct; `None` if true classes are not known.
        sign_table: signs and residuals; `None` unless the report is confidential.
        bundle: name of the bundle's file; `None` if it was not kept.
        bundle_sha256: its digest.
        clients: what was found for each client, if the bundle is that of a trace; otherwise empty.
        made_with: version of this package.
    """

    evidence: VerificationResult
    steps: tuple[str, ...]
    caveats: tuple[str, ...]
    with_key: bool
    statement: Statement | None
    statement_date: StatementDate | None
    fixed_at: str
    decoys: Decoys
    agreement: dict[str, tuple[Group, ...]] | None
    accuracy: Accuracy | None
    sign_table: ChannelTable | None
    bundle: str | None
    bundle_sha256: str | None
    clients: dict[str, ClientEvidence] = dataclasses.field(default_factory=dict)
    made_with: str = __version__

    @property
    def is_confidential(self) -> bool:
        """Whether the report reveals secret signs."""
        return self.sign_table is not None

    @property
    def by_key(self) -> bool:
        """Whether the report is about clients with keys of their own."""
        return has_keys(self.clients)

    @property
    def log10_p(self) -> float:
        """log10 of the p-value that decides: with keys per client, the smallest adjusted one."""
        if self.by_key:
            return min(client.adjusted_log10_p for client in self.clients.values())
        return self.evidence.log10_p

    @property
    def detected(self) -> bool:
        """Whether it is at most the threshold of the plan."""
        return self.log10_p <= math.log10(self.evidence.plan.alpha)

    @property
    def may_be_published(self) -> bool:
        """Whether the report neither reveals secret signs nor names clients."""
        return not self.is_confidential and not self.clients

    @property
    def were_answers_given(self) -> bool:
        """Whether the suspect was a file of answers, which existed before the plan."""
        return transcript.were_answers_given(self.evidence.suspect, self.evidence.suspect_sha256)

    @property
    def could_be_ground(self) -> bool:
        """Whether trying keys until one fits could give such a p-value. The statement's date is an unverified claim."""
        return self.detected and self.log10_p > GRINDING_LOG10_P

    @property
    def proven_date(self) -> str | None:
        """When the statement existed, ISO 8601 in UTC, by a verified timestamp; `None` without."""
        date = self.statement_date
        return date.moment if date is not None and date.is_verified else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a format version."""
        content = dataclasses.asdict(self)
        content["evidence"] = self.evidence.to_dict()
        content["clients"] = [client.to_dict() for client in self.clients.values()]
        content["statement"] = None if self.statement is None else self.statement.to_dict()
        return {"format": FORMAT, "version": FORMAT_VERSION, "confidential": self.is_confidential, **content}


def bundle_report(
    result: Recheck,
    *,
    bundle: str | None = None,
    bundle_sha256: str | None = None,
    true_labels: npt.ArrayLike | None = None,
    confidential: bool = False,
    num_decoys: int = decoys.NUM_DECOYS,
) -> BundleReport:
    """Gathers the content of a report.

    Args:
        result: a bundle that was recomputed without contradiction.
        bundle: name of its file, if it is kept.
        bundle_sha256: its digest.
        true_labels: class indices of the queries that were asked, in their order, or of all inputs that they were
            chosen from; ints of shape `(n,)`.
        confidential: whether to show the sign table. It reveals a part of the key.
        num_decoys: number of decoy keys.

    Raises:
        ArgumentError: the number of labels does not fit the queries, or the sign table cannot be shown.
    """
    checked, evidence = result.case, result.evidence
    groups = None
    if checked.book is not None:
        groups = {
            channel: agreement.by_strength(checked.book.signs(channel), table.values)
            for channel, table in checked.residuals.items()
        }
    return BundleReport(
        evidence=evidence,
        steps=result.steps,
        caveats=result.caveats,
        with_key=result.with_key,
        statement=checked.statement,
        statement_date=checked.statement_date,
        fixed_at=checked.fixed_at,
        decoys=decoys.compare(evidence, checked.residuals, num_keys=num_decoys),
        agreement=groups,
        accuracy=None if true_labels is None else _accuracy(result, np.asarray(true_labels)),
        sign_table=_sign_table(result) if confidential else None,
        bundle=bundle,
        bundle_sha256=bundle_sha256,
        clients=result.clients,
    )


def _accuracy(result: Recheck, labels: npt.NDArray[Any]) -> Accuracy:
    owner, suspect = result.case.best_classes
    selected = result.case.selected
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ArgumentError(
            "`true_labels` must be class indices, whole numbers of shape (n,). Received: "
            f"{labels.dtype} of shape {labels.shape}"
        )
    if len(labels) != len(owner) and selected is not None and selected[-1] < len(labels):
        labels = labels[selected]
    if len(labels) != len(owner):
        chosen = (
            "" if selected is None else f", or of the inputs that they were chosen from ({selected[-1] + 1} or more)"
        )
        raise ArgumentError(
            f"`true_labels` must be the classes of the {len(owner)} queries that were asked{chosen}, in their order. "
            f"Received: {len(labels)} labels"
        )
    wrong = owner != labels
    shared = float((suspect[wrong] == owner[wrong]).mean()) if wrong.any() else None
    return Accuracy(float((owner == labels).mean()), float((suspect == labels).mean()), shared)


def _sign_table(result: Recheck) -> ChannelTable:
    book, table = result.case.book, result.case.residuals.get("class")
    if has_keys(result.clients):
        raise ArgumentError(
            "There is no sign table to show: this is a trace with a key for each client, and the table is that of one "
            "key. Make the report without it, or that of `verify --key-of CLIENT`."
        )
    if book is None:
        raise ArgumentError("The sign table can be shown only with the key: give it too (--key).")
    if table is None:
        raise ArgumentError(
            "There is no sign table to show: the class channel was not tested "
            f"({result.evidence.untested.get('class', '')}). Make the report without it."
        )
    largest = float(np.abs(table.values).max(initial=0)) or 1.0
    return ChannelTable(
        tuple(tuple(row) for row in book.class_signs.tolist()),
        tuple(tuple(row) for row in (table.values / largest).round(3).tolist()),
    )
