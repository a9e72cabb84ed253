"""Would a mark survive? Extractions and removal attacks, run on the owner's own model and data.

Imports `verification`, `attacks`, `datasets` and `report`; `cli` may import it.
"""

from dynamarks_tf.audit.attack_runner import AttackRunner
from dynamarks_tf.audit.audit import AuditResult, run_audit
from dynamarks_tf.audit.recommendation import Recommendation, recommend
from dynamarks_tf.audit.results import Results
from dynamarks_tf.audit.scenario import Scenario, crossed

__all__ = ["AttackRunner", "AuditResult", "Recommendation", "Results", "Scenario", "crossed", "recommend", "run_audit"]
