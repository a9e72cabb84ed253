"""Request logs: what clients asked a model, and what they were answered.

Imports `_support` alone, never a key; `serving`, `verification`, `demo` and `cli` may import it.

`open_log` reads them, `PredictionLogWriter` writes them beside a server.

>>> log = open_log("logs", client="alice")
>>> for batch in log.answered_batches(256):
...     print(batch.inputs.shape, batch.answers.shape)
(256, 28, 28, 1) (256, 10)
"""

from __future__ import annotations

from dynamarks_tf.request_logs.entries import LoggedBatch, LoggedRequest
from dynamarks_tf.request_logs.locate import open_log
from dynamarks_tf.request_logs.query_log import QueryLog
from dynamarks_tf.request_logs.writer import PredictionLogWriter

__all__ = ["LoggedBatch", "LoggedRequest", "PredictionLogWriter", "QueryLog", "open_log"]
