"""What runs on the machines of a cluster: reduces files, and merges reductions. It knows no key and no secret sign.

A reduction travels as rows of at most `PIECE_BYTES`, since a row of Spark cannot hold more than 2 GiB. Memory is
bounded by two reductions, whose inputs beyond 64 MiB lie in a temporary file: neither by the log nor by the number of
tasks.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamarks_tf.errors import DynaMarksError, LogError
from dynamarks_tf.request_logs import QueryLog, open_log, reduction_file
from dynamarks_tf.request_logs.reduction import Reduction, merge
from dynamarks_tf.verification.reducing import PlacedFile, in_order

PIECE_BYTES = 2**22
SCHEMA = "part long, piece long, pieces long, data binary, problem string"


class TaskFile(NamedTuple):
    """A file that a task reads.

    Attributes:
        name: its absolute path or URL, without the secrets of a URL: a worker has its own.
        size: how many bytes of it are read.
        position: as for `PlacedFile`.
    """

    name: str
    size: int
    position: int

    def placed(self) -> PlacedFile:
        """The file on this machine.

        Raises:
            LogError: it is missing, or shorter here.
        """
        log = open_log(self.name)
        if not isinstance(log, QueryLog) or len(log.files) != 1:
            raise LogError(f"{self.name} is no file of a request log here")
        (file,) = log.files
        if file.file.size < self.size:
            raise LogError(f"{self.name} has {file.file.size} bytes here, {self.size} on the driver")
        file.file = dataclasses.replace(file.file, size=self.size)
        return PlacedFile(file, self.position)


@dataclasses.dataclass(frozen=True)
class ReduceFiles:
    """Reduces the files of tasks, whose numbers come in.

    Attributes:
        kit: name of the kit among the files that Spark gave to the workers.
        tasks: the files of each task.
    """

    kit: str
    tasks: Sequence[Sequence[TaskFile]]

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Takes and yields Arrow's record batches."""
        from pyspark import SparkFiles, TaskContext

        context = TaskContext.get()
        if context is not None:
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(context.cpus()))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from dynamarks_tf.distributed import kit  # loads TensorFlow, which reads the settings above

        for number in (number for batch in batches for number in batch.column(0).to_pylist()):
            try:
                reducer = kit.reducer_from(SparkFiles.get(self.kit))
                for file, position in in_order([each.placed() for each in self.tasks[number]]):
                    reducer.file(file, position=position)
                found = reducer.reduction()
            except DynaMarksError as error:  # the next try would find the same
                yield _batch(number, 0, 0, b"", f"{error} (on {socket.gethostname()})")
            else:
                yield from _pieces(number, found)


def merge_parts(batches: Iterable[Any]) -> Iterator[Any]:
    """Merges all reductions that come in as rows; takes and yields Arrow's record batches."""
    rows = (row for batch in batches for row in batch.to_pylist())
    try:
        found = merged(rows)
    except LogError as error:
        yield _batch(0, 0, 0, b"", str(error))
        return
    if found is not None:
        yield from _pieces(*found)


def merged(rows: Iterable[Any]) -> tuple[int, Reduction] | None:
    """The reduction of all rows, and the smallest number of a part; `None` if there are no rows.

    Args:
        rows: mappings as `SCHEMA` says, in any order.

    Raises:
        LogError: a part could not be made, or a piece is missing.
    """
    found: Reduction | None = None
    smallest, missing = -1, dict[int, int]()
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            if row["problem"] is not None:
                raise LogError(row["problem"])
            part = row["part"]
            path = Path(folder, str(part))
            with path.open("r+b" if part in missing else "xb") as file:
                file.seek(row["piece"] * PIECE_BYTES)
                file.write(row["data"])
            missing[part] = missing.get(part, row["pieces"]) - 1
            if not missing[part]:
                one = reduction_file.read(path)
                path.unlink()
                found = one if found is None else merge([found, one])
                smallest = part if smallest < 0 else min(smallest, part)
    if any(missing.values()):
        raise LogError("Spark lost a part of the reduction. Run it again.")
    return None if found is None else (smallest, found)


def _pieces(part: int, reduction: Reduction) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "reduction")
        reduction_file.write(reduction, path)
        pieces = -(-path.stat().st_size // PIECE_BYTES)
        with path.open("rb") as file:
            for piece in range(pieces):
                yield _batch(part, piece, pieces, file.read(PIECE_BYTES), None)


def _batch(part: int, piece: int, pieces: int, data: bytes, problem: str | None) -> Any:
    import pyarrow as pa

    types = {"part": pa.int64(), "piece": pa.int64(), "pieces": pa.int64(), "data": pa.binary(), "problem": pa.string()}
    values = (part, piece, pieces, data, problem)
    columns = [pa.array([value], kind) for value, kind in zip(values, types.values(), strict=True)]
    return pa.RecordBatch.from_arrays(columns, names=list(types))
