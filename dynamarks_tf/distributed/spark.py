"""Log reduction on Spark: an engine for `reduce_log`.

Only the driver knows the key. Workers get the files' paths, which must be the same there, and a kit (`kit.py`).
"""

from __future__ import annotations

import dataclasses
import math
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dynamarks_tf.distributed import kit
from dynamarks_tf.distributed.worker import SCHEMA, ReduceFiles, TaskFile, merge_parts, merged
from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs.reduction import Reduction
from dynamarks_tf.verification.reduce_log import Job
from dynamarks_tf.verification.reducing import PlacedFile

TASK_BYTES = 2**26  # of files, at least, unless there are fewer tasks than are worth while
FEW_TASKS = 64
FAN_IN = 8  # reductions that one task merges
FETCHES = 4  # in which the result comes to the driver
_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"


@dataclasses.dataclass(frozen=True)
class SparkEngine:
    """Reduces a log on a Spark cluster, in the session at hand or in one of its own.

    Each task reads one or several files, further tasks merge `FAN_IN` reductions each, and the driver gets the last
    one. Tasks are deterministic and can run twice: what a machine did that fails is done again elsewhere.

    Attributes:
        master: the master's address, or `sc://HOST:PORT` for Spark Connect; by default what Spark's own settings say
            (`spark.master`, `SPARK_REMOTE`).
        modules: modules that register layers of the owner model; installed on the workers too.
        allow_code: whether workers may run code inside the owner model, such as that of `Lambda` layers.

    Example:

    >>> dm.reduce_log("/logs", owner="marked.keras", key=key, out="log.reduced", engine=SparkEngine("yarn"))
    """

    master: str | None = None
    modules: tuple[str, ...] = ()
    allow_code: bool = False

    def __call__(self, files: Sequence[PlacedFile], job: Job) -> Iterator[Callable[[], Reduction]]:
        """Reduces files; see `verification.reduce_log.Engine`.

        Raises:
            ArgumentError: PySpark is not installed, or there is no Spark to be had.
            LogError: a worker could not read a file, or use the model.
        """
        session, is_own = self._session()
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = self._reduced(session, files, job, Path(folder, f"dynamarks-{secrets.token_hex(8)}.kit"))
        finally:
            if is_own:
                session.stop()
        yield lambda: found

    def _session(self) -> tuple[Any, bool]:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # otherwise whatever `python3` is there
        try:
            import pandas  # noqa: F401 -- Spark refuses `mapInArrow` without it
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise ArgumentError("Spark is needed: pip install 'dynamarks_tf[spark]', and Java 17.") from error
        active = SparkSession.getActiveSession()
        builder = SparkSession.builder.appName("dynamarks reduce")
        if self.master is not None:
            is_remote = self.master.startswith("sc://")
            builder = builder.remote(self.master) if is_remote else builder.master(self.master)
        try:
            return builder.getOrCreate(), active is None
        except Exception as error:  # of Java, of the network, of Spark's settings
            raise ArgumentError(
                f"There is no Spark session to be had from {self.master or 'the settings of Spark'}: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__:.300}"
            ) from error

    def _reduced(self, session: Any, files: Sequence[PlacedFile], job: Job, path: Path) -> Reduction:
        settings = {
            "activation": job.owner.activation,
            "from_logits": job.owner.from_logits,
            "input": job.input,
            "batch_size": job.batch_size,
            "modules": self.modules,
            "allow_code": self.allow_code,
        }
        kit.write(path, job.owner.model, job.marked, settings)
        session.addArtifacts(str(path), file=True)
        tasks = grouped(files)
        rows_before = session.conf.get(_ROWS)
        session.conf.set(_ROWS, "1")  # a row is large
        try:
            count = len(tasks)
            rows = session.range(0, count, 1, count).mapInArrow(ReduceFiles(path.name, tasks), SCHEMA)
            while count > 1:
                count = math.ceil(count / FAN_IN)
                rows = rows.repartition(count, rows.part % count).mapInArrow(merge_parts, SCHEMA)
            found = merged(rows.repartition(FETCHES, rows.piece).toLocalIterator())
        finally:
            session.conf.set(_ROWS, rows_before)
        if found is None:
            raise LogError("Spark gave no result. Run it again.")
        return found[1]


def grouped(files: Sequence[PlacedFile]) -> list[list[TaskFile]]:
    """The files of each task: one, or several that are small."""
    least = min(TASK_BYTES, sum(file.file.size for file, _ in files) / FEW_TASKS)
    tasks: list[list[TaskFile]] = [[]]
    size = 0
    for log, position in files:
        file = log.file
        if tasks[-1] and size + file.size > least:
            tasks.append([])
            size = 0
        tasks[-1].append(TaskFile(os.path.abspath(file.name) if file.is_local else file.name, file.size, position))
        size += file.size
    return tasks
