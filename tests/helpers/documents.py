"""One small valid document of each format that is written as JSON."""

import json

from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.result import GrowthPoint, VerificationResult
from dynamarks_tf.evidence.channels import ChannelEvidence
from dynamarks_tf.keys.commitment import commit
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.pool import CommittedPool

KEY = MarkKey(bytes(range(32)), "ACME Vision")
POOL = {"sha256": "0" * 64, "size": 1000, "num_queries": 5, "num_drawn": 100}
DIGEST, TIME = "0" * 64, "2026-01-02T03:04:05.678+00:00"
CHANNEL = {"channel": "class", "log10_p": -3.0, "statistic": 1.5, "largest_possible": 2, "num_queries": 3}
CHANNEL |= {"num_cells": 4, "slope": 0.5, "agreement": 0.75}
RECORD = {"batch": 0, "rows": 7, "asked_at": TIME, "answered_at": TIME}
RECORD |= {name: DIGEST for name in ("queries_sha256", "answers_sha256", "previous", "chain", "mac")}
CLIENT = {"name": "a + b", "exclusive_signs": 3, "channels": [CHANNEL], "log10_p": -1.0, "adjusted_log10_p": 0}
LOGGED = {"name": "a.jsonl", "size": 5, "sha256": DIGEST, "position": 0, "problem": "", "notes": ["x"]}
PLAN = TestPlan(
    *(DIGEST, DIGEST, None, False, "probability", 10, "softmax", 1, True, 0.05, 0.5, True, 10, 10, False, 120, True),
    *((10, 120), False, ("class",), 120, DIGEST, "all", None, 0, None, False, True, ("layer",), 1e-6, "exact/1"),
    log={"files": [{"name": "a", "size": 1, "sha256": DIGEST}], "num_queries": 1, "clients": ["a"], "model": None}
    | {"versions": [2]},
    provenance={"kind": "drawn", "pool": POOL, "beacon": "b", "beacon_source": None, "choice_sha256": DIGEST},
)
RESULT = VerificationResult(
    *(-1.0, None, (ChannelEvidence(**{k: v for k, v in CHANNEL.items() if k != "agreement"}),), {"tie": "why"}),
    *((GrowthPoint(10, -0.5), GrowthPoint(120, -1.0)), PLAN, "ACME", "0" * 16, "suspect.keras", None, "labels", 0.9),
    *((0, -1), ("warning",), TIME, {"keras": "3.15"}),
)
HEAD = {"plan_sha256": DIGEST, "suspect": "s", "suspect_sha256": None, "keeps_queries": False, "plan": PLAN.to_dict()}
HEAD |= {"batch_size": 7, "blocks": [[10, DIGEST]], "fixed_at": TIME, "mac": DIGEST}
HEAD |= {"continues": {"head_sha256": DIGEST, "batches": 3, "chain": DIGEST}}
DOCUMENTS = {
    "plan": json.loads(json.dumps(PLAN.to_dict())),
    "evidence": json.loads(json.dumps(RESULT.to_dict())),
    "transcript": {"format": "dynamarks-transcript", "version": 5, **json.loads(json.dumps(HEAD))},
    "key": json.loads(KEY.to_json()),
    "statement": commit(KEY, model=__file__, pool=CommittedPool(**POOL)).to_dict(),
    "manifest": {
        **{"format": "dynamarks-bundle", "version": 5, "commitment": DIGEST, "public_key": "AAAA"},
        **{"members": {"evidence.json": DIGEST}, "signature": "AAAA"},
    },
    "record": RECORD,
    "trace": {"format": "dynamarks-trace", "version": 2, "clients": [{**CLIENT, "commitment": None}]},
    "clients": {
        **{"format": "dynamarks-clients", "version": 1},
        "tokens": [{"number": "a1", "name": "alice", "ends": 2_000_000_000, "is_revoked": False}],
    },
    "reduced-log": {
        **{"format": "dynamarks-reduced-log", "version": 1, "hash_sha256": DIGEST, "input_name": None},
        "files": [{**LOGGED, "counts": [[0, 1, 2, 3]], "times": [1.5, 2, [[1.5, 2.0]]]}],
        **{"origins": [["alice", None, 3]], "forms": [["float32", [8, 8, 1]]]},
    },
}
