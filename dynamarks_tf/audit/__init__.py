"""Would a mark survive? Thefts and removal attacks, rehearsed on the owner's own model and data.

Imports `verification`, `attacks`, `datasets` and `report`; `cli` may import it.
"""

from dynamarks_tf.audit.audit import AuditResult, run_audit
from dynamarks_tf.audit.recommendation import Recommendation, recommend
from dynamarks_tf.audit.rehearsal import Rehearsal
from dynamarks_tf.audit.results import Results
from dynamarks_tf.audit.scenario import Scenario, crossed

__all__ = ["AuditResult", "Recommendation", "Rehearsal", "Results", "Scenario", "crossed", "recommend", "run_audit"]
