"""The result of a verification: frozen, without secrets, and without a way to compute anything new."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
from collections.abc import Sequence
from typing import Any

from dynamarks_tf._support import files
from dynamarks_tf._support.formats import check_format
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.errors import ArgumentError, FormatError
from dynamarks_tf.evidence.channels import ChannelEvidence

FORMAT = "dynamarks-evidence"
FORMAT_VERSION = 5
DEFAULT_ALPHA = 1e-6


@dataclasses.dataclass(frozen=True)
class GrowthPoint:
    """What the evidence was after the first queries.

    Attributes:
        num_queries: how many.
        log10_p: log10 of the p-value of those alone.
    """

    num_queries: int
    log10_p: float


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """What `verify` found about one suspect. It holds aggregates only and may be published.

    Attributes:
        log10_p: log10 of the exact p-value, all channels together: a bound on the chance that an independent
            model gives evidence at least as strong. It holds for every sample size, with no assumption about the
            suspect. At most 0.
        log10_e: of logged queries and sequential tests, log10 of the largest e-value while the test went on; p is its
            reciprocal. `None` for a test of fixed size on fresh queries.
        channels: the same for each channel of the mark that was tested.
        untested: why each of the other channels was not.
        growth: how the evidence grew with the queries, in the order in which they were asked.
        plan: what was fixed before the suspect was asked.
        owner: who claims the model.
        key_id: short name of the key.
        suspect: what was tested.
        suspect_sha256: digest of its file or weights; `None` for a server or a function, which cannot be pinned down.
        answers: what it answered: `"probabilities"` or `"labels"`.
        fidelity: share of queries on which suspect and clean owner model give the same top-1 answer.
        class_order: with `align_classes`, the suspect's class for each class of the owner, -1 if it has none; otherwise
            `None`.
        warnings: why the result may say nothing although it is computed correctly, and what to do.
        tested_at: when, ISO 8601 in UTC.
        versions: versions of the packages that took part.
    """

    log10_p: float
    log10_e: float | None
    channels: tuple[ChannelEvidence, ...]
    untested: dict[str, str]
    growth: tuple[GrowthPoint, ...]
    plan: TestPlan
    owner: str
    key_id: str
    suspect: str
    suspect_sha256: str | None
    answers: str
    fidelity: float
    class_order: tuple[int, ...] | None
    warnings: tuple[str, ...]
    tested_at: str
    versions: dict[str, str]

    @property
    def num_queries(self) -> int:
        """How many queries the suspect answered: all of the plan, or fewer if a sequential test stopped."""
        return self.growth[-1].num_queries

    def detected(self, alpha: float | None = None) -> bool:
        """Whether the mark is found: p <= alpha.

        Args:
            alpha: the accepted chance of a false detection, in (0, 1); the one that was fixed in the plan,
                if omitted.

        Raises:
            ArgumentError: alpha is outside (0, 1).
        """
        return self.log10_p <= math.log10(check_alpha(self.plan.alpha if alpha is None else alpha))

    def queries_needed(self, alpha: float | None = None) -> int | None:
        """How many queries would have been enough.

        The evidence was computed after 10, 20, 50, 100 ... of the queries, in the order in which they were asked; the
        answer is the smallest of these numbers from which on it stays at p <= alpha. Of fresh queries it is hindsight:
        a test that stops as soon as it likes what it sees has another error rate, unless it is planned as sequential.

        Args:
            alpha: as for `detected`.

        Returns:
            A number of queries, or `None` if all of them were not enough.

        Raises:
            ArgumentError: alpha is outside (0, 1).
        """
        return queries_needed(self.growth, check_alpha(self.plan.alpha if alpha is None else alpha))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a format version."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "log10_p": self.log10_p,
            "log10_e": self.log10_e,
            "detected": self.detected(),
            "suspect": self.suspect,
            "suspect_sha256": self.suspect_sha256,
            "answers": self.answers,
            "owner": self.owner,
            "key_id": self.key_id,
            "commitment": self.plan.commitment,
            "num_queries": self.num_queries,
            "queries_needed": self.queries_needed(),
            "fidelity": self.fidelity,
            "class_order": None if self.class_order is None else [*self.class_order],
            "warnings": [*self.warnings],
            "channels": [channel.to_dict() for channel in self.channels],
            "untested": self.untested,
            "growth": [dataclasses.asdict(point) for point in self.growth],
            "plan": self.plan.to_dict(),
            "plan_sha256": self.plan.digest,
            "tested_at": self.tested_at,
            "versions": self.versions,
        }

    @classmethod
    def from_dict(cls, content: Any, source: str) -> VerificationResult:
        """Reads what `to_dict` wrote.

        Args:
            content: plain values from JSON.
            source: where they come from, for messages.

        Raises:
            FormatError: it is no evidence, or of another version.
        """
        check_format(content, FORMAT, FORMAT_VERSION, source, "evidence", schema="evidence")
        try:
            evidence = cls(
                **{
                    name: content[name]
                    for name in ("log10_p", "log10_e", "untested", "owner", "key_id", "suspect", "answers")
                },
                **{name: content[name] for name in ("suspect_sha256", "fidelity", "tested_at", "versions")},
                class_order=None if content["class_order"] is None else tuple(content["class_order"]),
                warnings=tuple(content["warnings"]),
                channels=tuple(ChannelEvidence.from_dict(channel) for channel in content["channels"]),
                growth=tuple(GrowthPoint(**point) for point in content["growth"]),
                plan=TestPlan.from_dict(content["plan"], source),
            )
            same = evidence.to_dict() == content
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FormatError(f"{source} is damaged: an entry is missing or malformed ({error}).") from error
        if not same:
            raise FormatError(f"{source} is damaged: its entries contradict each other.")
        return evidence

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the evidence as a JSON file, replacing an older one in one step."""
        files.write_atomically(path, (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n").encode())

    def __str__(self) -> str:
        return f"log10 p = {self.log10_p:.1f} from {self.num_queries} queries to {self.suspect}"


def queries_needed(growth: Sequence[GrowthPoint], alpha: float) -> int | None:
    """The smallest number of queries from which on p stays at or below `alpha`; `None` if all were not enough.

    Args:
        growth: how the evidence grew, in the order in which the queries were asked.
        alpha: in (0, 1).
    """
    needed = None
    for point in reversed(growth):
        if point.log10_p > math.log10(alpha):
            break
        needed = point.num_queries
    return needed


def check_alpha(alpha: float) -> float:
    """Returns a threshold for p-values.

    Raises:
        ArgumentError: it is outside (0, 1).
    """
    value: Any = alpha
    if not isinstance(value, numbers.Real) or not 0 < alpha < 1:
        raise ArgumentError(f"`alpha` is a probability between 0 and 1, such as 1e-6. Received: alpha={alpha!r}")
    return float(alpha)


Evidence = VerificationResult  # the name of releases before 0.3; it goes with the next one
