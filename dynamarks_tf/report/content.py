"""What stands in the report of a case: plain data, from which the page, the pictures and the JSON file are made.

It may be published unless it holds the sign table. Nothing here draws, or knows HTML.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._version import __version__
from dynamarks_tf.case import transcript
from dynamarks_tf.case.result import Evidence
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.recheck import WHOLE_LOGS, Recheck
from dynamarks_tf.report import agreement, decoys
from dynamarks_tf.report.agreement import Group
from dynamarks_tf.report.decoys import Decoys

FORMAT = "dynamarks-report"
FORMAT_VERSION = 1
GRINDING_LOG10_P = -80 * math.log10(2)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often the models are right, on queries whose true classes are known.

    Attributes:
        owner: share of correct top-1 answers of the clean owner model.
        suspect: the same of the suspect.
        shared_errors: of the queries that the owner model gets wrong, the share on which the suspect gives the same
            wrong answer; `None` if the owner model gets none wrong.
    """

    owner: float
    suspect: float
    shared_errors: float | None


@dataclasses.dataclass(frozen=True, repr=False)
class ChannelTable:
    """The class channel's signs beside the suspect's residuals. Confidential: it is part of the key.

    Attributes:
        signs: -1 or +1, rows of columns.
        residuals: R in units of the largest, of the same shape; 0 for coins that no query has met.
    """

    signs: tuple[tuple[int, ...], ...]
    residuals: tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class BundleReport:
    """The report of a case.

    Attributes:
        evidence: the verdict.
        steps: what was checked when the report was made.
        caveats: what the bundle does not show.
        with_key: whether the key took part in the check.
        statement: the published commitment, if there is one.
        fixed_at: when the plan was fixed, ISO 8601 in UTC.
        decoys: the owner's key among decoys.
        agreement: for each channel, the agreement with the key by strength; `None` without the key.
        accuracy: how often the models are right; `None` where true classes are not known.
        sign_table: signs and residuals; `None` unless the report is confidential.
        bundle: name of the bundle's file; `None` if it was not kept.
        bundle_sha256: its digest.
        made_with: version of this package.
    """

    evidence: Evidence
    steps: tuple[str, ...]
    caveats: tuple[str, ...]
    with_key: bool
    statement: Statement | None
    fixed_at: str
    decoys: Decoys
    agreement: dict[str, tuple[Group, ...]] | None
    accuracy: Accuracy | None
    sign_table: ChannelTable | None
    bundle: str | None
    bundle_sha256: str | None
    made_with: str = __version__

    @property
    def is_confidential(self) -> bool:
        """Whether the report gives signs of the key away."""
        return self.sign_table is not None

    @property
    def were_answers_given(self) -> bool:
        """Whether the suspect was a file of answers, which were there before the plan."""
        return transcript.were_answers_given(self.evidence.suspect, self.evidence.suspect_sha256)

    @property
    def is_part_of_log(self) -> bool:
        """Whether a part of the logged queries was drawn, on which a client who repeats himself has a say."""
        return self.evidence.plan.logged and self.evidence.plan.selection not in WHOLE_LOGS

    @property
    def could_be_ground(self) -> bool:
        """Whether trying keys until one fits could give such a p-value. The statement's date is the owner's word."""
        return self.evidence.detected() and self.evidence.log10_p > GRINDING_LOG10_P

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a format version."""
        content = dataclasses.asdict(self)
        content["evidence"] = self.evidence.to_dict()
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
    """Gathers what stands in the report of a case.

    Args:
        result: a bundle that was recomputed and holds.
        bundle: name of its file, if it is kept.
        bundle_sha256: its digest.
        true_labels: class indices of the queries that were asked, in their order, or of all inputs that they were
            chosen from; ints of shape `(n,)`.
        confidential: whether to show the sign table. Whoever sees it knows a part of the key.
        num_decoys: how many decoy keys to draw.

    Raises:
        ArgumentError: there are more or fewer labels than queries, or the sign table cannot be shown.
    """
    case, evidence = result.case, result.evidence
    groups = None
    if case.book is not None:
        found = case.residuals.items()
        groups = {channel: agreement.by_strength(case.book.signs(channel), table.values) for channel, table in found}
    return BundleReport(
        evidence=evidence,
        steps=result.steps,
        caveats=result.caveats,
        with_key=result.with_key,
        statement=case.statement,
        fixed_at=case.fixed_at,
        decoys=decoys.compare(evidence, case.residuals, num_keys=num_decoys),
        agreement=groups,
        accuracy=None if true_labels is None else _accuracy(result, np.asarray(true_labels)),
        sign_table=_sign_table(result) if confidential else None,
        bundle=bundle,
        bundle_sha256=bundle_sha256,
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
