"""Everything about a test that is fixed before the suspect is asked, and its digest."""

from __future__ import annotations

import dataclasses
from typing import Any

from dynamarks_tf import _digests
from dynamarks_tf.evidence import residuals

FORMAT = "dynamarks-plan"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TestPlan:
    """What will be asked and how the answers will be judged. Its digest in a report shows that nothing was tuned.

    Attributes:
        commitment: commitment to the owner's key.
        owner_model_sha256: digest of the clean owner model, its configuration and weights; the evidence rests on its
            answers as much as on the key.
        from_logits: whether the owner model answers logits.
        suspect_from_logits: whether the suspect's answers are read as logits.
        num_classes: number of classes C.
        table_rows: rows of the sign table.
        table_columns: columns of the sign table.
        num_queries: how many inputs will be asked.
        queries_sha256: digest of those inputs, in order.
        max_queries: the number asked for, balanced over the owner's predicted classes; `None` for all.
        seed: seed of that choice.
        transform: name and version of the residual transform.
        log_floor: the floor of probabilities in that transform.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    commitment: str
    owner_model_sha256: str
    from_logits: bool
    suspect_from_logits: bool
    num_classes: int
    table_rows: int
    table_columns: int
    num_queries: int
    queries_sha256: str
    max_queries: int | None
    seed: int
    transform: str = residuals.TRANSFORM
    log_floor: float = residuals.LOG_FLOOR

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT, "version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @property
    def digest(self) -> str:
        """SHA-256 over the plan, 64 hexadecimal digits."""
        return _digests.json_digest(self.to_dict())
