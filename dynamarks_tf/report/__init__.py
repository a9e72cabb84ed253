"""Reports for people: one HTML page that loads nothing, made from an evidence bundle without TensorFlow.

Imports `recheck`, `case` and what they need; `audit`, `demo` and `cli` may import it.
"""

from dynamarks_tf.report.write import check_can_write, write_report

__all__ = ["check_can_write", "write_report"]
