"""Request logs: what clients asked a model.

Imports `_support` alone, never a key; `serving`, `verification`, `demo` and `cli` may import it.

`open_log` reads them, `PredictionLogWriter` writes them beside a server.

>>> log = open_log("logs", client="alice")
>>> for inputs in log.batches(256):
...     print(inputs.shape)
(256, 28, 28, 1)
(232, 28, 28, 1)
"""

from __future__ import annotations

from dynamarks_tf.request_logs.locate import open_log
from dynamarks_tf.request_logs.query_log import QueryLog
from dynamarks_tf.request_logs.writer import PredictionLogWriter

__all__ = ["PredictionLogWriter", "QueryLog", "open_log"]
