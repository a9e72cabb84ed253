"""Running requests that come at once in one step, as TensorFlow Serving does with `--enable_batching`.

Requests are put together if they ask for the same outputs of the same model with inputs of the same dtypes and shapes;
their rows are concatenated, run once, and handed out again. TensorFlow's own batching operation would do the same, but
it has to be part of the graph, and the graph here is the exported one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from dynamarks_tf.serving.local_server.config_files import BatchingConfig
from dynamarks_tf.serving.protocol.status import Code, StatusError, internal_error, invalid
from dynamarks_tf.serving.protocol.tensors import Array

LOG = logging.getLogger(__name__)

Run = Callable[[list[Array], float | None], list[Array]]


@dataclass(eq=False)
class _Task:
    inputs: list[Array]
    rows: int
    deadline: float | None
    outputs: Future[list[Array]] = field(default_factory=Future)


@dataclass(eq=False)
class _Batch:
    signature: Hashable
    shapes: Hashable
    run: Run
    due: float
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    is_full: bool = False


class Batcher:
    """Puts requests together. Use it from as many threads as there are requests; it has its own for running them.

    Args:
        config: sizes and times.
    """

    def __init__(self, config: BatchingConfig) -> None:
        self._config = config
        self._changed = threading.Condition()
        self._waiting: list[_Batch] = []  # the oldest first
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{index}", daemon=True)
            for index in range(config.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, signature: Hashable, inputs: list[Array], run: Run, timeout_s: float | None) -> list[Array]:
        """Runs `inputs`, together with those of other requests.

        Args:
            signature: what is run; only requests with equal ones are put together.
            inputs: arrays with equally many rows.
            run: takes inputs of any number of rows, and seconds; returns outputs with as many rows.
            timeout_s: seconds the request may take.

        Returns:
            The outputs for the rows of `inputs`.

        Raises:
            StatusError: the inputs or outputs are not made of rows, there are too many, or `run` has failed, for
                whichever of the requests.
        """
        rows = _count_rows(inputs)
        if rows > self._config.max_batch_size:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {self._config.max_batch_size}")
        task = _Task(inputs, rows, None if timeout_s is None else time.monotonic() + timeout_s)
        with self._changed:
            self._place(task, signature, run)
            self._changed.notify()
        return task.outputs.result()

    def close(self) -> None:
        """Ends the threads; what waits is answered with an error."""
        with self._changed:
            self._is_closed = True
            batches, self._waiting = self._waiting, []
            self._changed.notify_all()
        for batch in batches:
            _fail(batch.tasks, StatusError(Code.UNAVAILABLE, "The server is stopping."))
        for thread in self._threads:
            thread.join()

    def _place(self, task: _Task, signature: Hashable, run: Run) -> None:
        if self._is_closed:
            raise StatusError(Code.UNAVAILABLE, "The server is stopping.")
        shapes = tuple((array.dtype, array.shape[1:]) for array in task.inputs)
        queue = [batch for batch in self._waiting if batch.signature == signature]
        fitting = [batch for batch in queue if batch.shapes == shapes and not batch.is_full]
        if fitting and fitting[-1].rows + task.rows > self._config.max_batch_size:
            fitting.pop().is_full = True
        if not fitting:
            if len(queue) >= self._config.max_enqueued_batches:
                raise StatusError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{len(queue)} batches enqueued and max_enqueued_batches is {self._config.max_enqueued_batches}",
                )
            due = time.monotonic() + self._config.batch_timeout_micros / 1e6
            fitting = [_Batch(signature, shapes, run, due)]
            self._waiting.append(fitting[0])
        batch = fitting[-1]
        batch.tasks.append(task)
        batch.rows += task.rows
        batch.is_full = batch.rows == self._config.max_batch_size

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            tasks = _drop_overdue(batch.tasks)
            try:
                if tasks:
                    self._run_batch(batch.run, tasks)
            except StatusError as error:
                _fail(tasks, error)
            except Exception:
                LOG.exception("a batch")
                _fail(tasks, internal_error())

    def _take(self) -> _Batch | None:
        """Waits for a batch that is full or due; returns `None` at the end."""
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                ready = [batch for batch in self._waiting if batch.is_full or batch.due <= now]
                if ready:
                    self._waiting.remove(ready[0])
                    return ready[0]
                self._changed.wait(min((batch.due for batch in self._waiting), default=now + 60) - now)
        return None

    def _run_batch(self, run: Run, tasks: list[_Task]) -> None:
        merged = [np.concatenate(arrays) for arrays in zip(*(task.inputs for task in tasks), strict=True)]
        rows, step = len(merged[0]), self._config.largest_step
        deadlines = [task.deadline for task in tasks]
        pieces = []
        for start in range(0, max(rows, 1), step):
            timeout_s = None if None in deadlines else max(filter(None, deadlines)) - time.monotonic()
            pieces.append(self._run_step(run, [array[start : start + step] for array in merged], timeout_s))
        outputs = [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]
        start = 0
        for task in tasks:
            task.outputs.set_result([array[start : start + task.rows] for array in outputs])
            start += task.rows

    def _run_step(self, run: Run, inputs: list[Array], timeout_s: float | None) -> list[Array]:
        rows = len(inputs[0])
        padded = next((size for size in self._config.allowed_batch_sizes if size >= rows), rows) if rows else 0
        outputs = run([_pad(array, padded) for array in inputs], timeout_s)
        for array in outputs:
            if not array.ndim:
                raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if len(array) != padded:
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        return [array[:rows] for array in outputs]


def _count_rows(inputs: Sequence[Array]) -> int:
    if not inputs:
        raise invalid("Batching session Run() must have at least one input tensor")
    if any(not array.ndim for array in inputs):
        raise invalid("Batching session Run() input tensors must have at least one dimension")
    if len({len(array) for array in inputs}) != 1:
        raise invalid("Batching session Run() input tensors must have equal 0th-dimension size")
    return len(inputs[0])


def _pad(array: Array, rows: int) -> Array:
    """Repeats the first row until there are `rows` of them."""
    return array if len(array) == rows else np.concatenate([array, np.repeat(array[:1], rows - len(array), axis=0)])


def _drop_overdue(tasks: list[_Task]) -> list[_Task]:
    now = time.monotonic()
    overdue = [task for task in tasks if task.deadline is not None and task.deadline <= now]
    _fail(overdue, StatusError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"))
    return [task for task in tasks if task not in overdue]


def _fail(tasks: Sequence[_Task], error: StatusError) -> None:
    for task in tasks:
        task.outputs.set_exception(error)
