"""The result of a verification: frozen, without secrets, and without a way to compute anything new."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

from dynamarks_tf import _files
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.evidence.channels import ChannelEvidence
from dynamarks_tf.plan import TestPlan

FORMAT = "dynamarks-evidence"
FORMAT_VERSION = 1
DEFAULT_ALPHA = 1e-6


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What `verify` found about one suspect. It holds aggregates only and may be published.

    Attributes:
        log10_p: log10 of the exact p-value: the chance that a suspect which never saw a marked answer looks at least as
            guilty. Bounded for every sample size, with no assumption about the suspect. At most 0.
        channels: the same for each channel of the mark.
        plan: what was fixed before the suspect was asked.
        owner: who claims the model.
        key_id: short name of the key.
        suspect: what was tested.
        fidelity: share of queries on which suspect and clean owner model give the same top-1 answer.
        slope: how closely the suspect's tails follow the clean owner model's (1: as its copy).
        tested_at: when, ISO 8601 in UTC.
        versions: versions of the packages that took part.
    """

    log10_p: float
    channels: tuple[ChannelEvidence, ...]
    plan: TestPlan
    owner: str
    key_id: str
    suspect: str
    fidelity: float
    slope: float
    tested_at: str
    versions: dict[str, str]

    @property
    def num_queries(self) -> int:
        """How many queries the suspect answered."""
        return self.plan.num_queries

    def detected(self, alpha: float = DEFAULT_ALPHA) -> bool:
        """Whether the mark is found: p <= alpha.

        Args:
            alpha: the chance of accusing an innocent that is accepted, in (0, 1). Fix it before testing.

        Raises:
            ArgumentError: alpha is outside (0, 1).
        """
        check_alpha(alpha)
        return self.log10_p <= math.log10(alpha)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a format version."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "log10_p": self.log10_p,
            "suspect": self.suspect,
            "owner": self.owner,
            "key_id": self.key_id,
            "commitment": self.plan.commitment,
            "num_queries": self.num_queries,
            "fidelity": self.fidelity,
            "slope": self.slope,
            "channels": [channel.to_dict() for channel in self.channels],
            "plan": self.plan.to_dict(),
            "plan_sha256": self.plan.digest,
            "tested_at": self.tested_at,
            "versions": self.versions,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the evidence as a JSON file, replacing an older one in one step."""
        _files.write_atomically(path, (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n").encode())

    def __str__(self) -> str:
        return f"log10 p = {self.log10_p:.1f} from {self.num_queries} queries to {self.suspect}"


def check_alpha(alpha: float) -> None:
    """Checks a threshold for p-values.

    Raises:
        ArgumentError: it is outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ArgumentError(f"`alpha` is a probability between 0 and 1, such as 1e-6. Received: alpha={alpha!r}")
