"""Writing a request log beside a server, which must not wait for it."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from dynamarks_tf import foreign_text
from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs.prediction_log import encode
from dynamarks_tf.request_logs.rotation import RotatingFiles
from dynamarks_tf.request_logs.tf_record import frame

if TYPE_CHECKING:
    from tensorflow_serving.apis import predict_pb2
    from typing_extensions import Self

LOG = foreign_text.logger(__name__)

FLUSH_S = 0.5  # a crash of the process loses the requests of this time
BATCH_BYTES = 2**20  # written at once; longer work would make answers wait for the processor
WARNING_S = 60.0  # at most one warning in this time
CLOSE_S = 30.0
BYTES_EACH = 2048  # that a waiting request takes beside its tensors, about


@dataclasses.dataclass(frozen=True)
class _Waiting:
    size: int  # bytes it takes until it is written
    record: Callable[[], bytes]
    undecoded: Callable[[], bytes] | None
    client: str | None


class PredictionLogWriter:
    """Writes requests and answers as TFRecord files of `PredictionLog`, in the background.

    `log` only puts a request into a queue. One thread writes the queue every half second, or when a megabyte waits;
    every half second it syncs the file to the disk. When the queue is full, or the disk is, requests are dropped,
    counted, and reported once a minute. An answer never waits for the log nor fails because of it.

    Args:
        folder: where the files go; created if missing. Files and folder are private to their owner.
        max_file_bytes: the size of a file at most; a larger request has a file of its own.
        max_waiting_bytes: the size of all requests that wait to be written, at most; a single one waits whatever its
            size.
        on_settled: called for each request with whether it was written, as soon as that is known. It must be quick,
            and must not call the writer.

    Raises:
        ArgumentError: a size is not positive.
        LogError: the folder cannot be written to.

    Example:
        >>> with PredictionLogWriter("logs") as writer:
        ...     writer.log(request, response, client="alice")
        >>> dynamarks_tf.request_logs.open_log("logs", client="alice")
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        max_file_bytes: int = 256 * 2**20,
        max_waiting_bytes: int = 64 * 2**20,
        on_settled: Callable[[bool], None] | None = None,
    ) -> None:
        if max_file_bytes < 1 or max_waiting_bytes < 1:
            raise ArgumentError(
                "`max_file_bytes` and `max_waiting_bytes` must be at least 1. Received: "
                f"max_file_bytes={max_file_bytes}, max_waiting_bytes={max_waiting_bytes}"
            )
        self.folder = Path(folder)
        self._max_waiting_bytes = max_waiting_bytes
        self._on_settled = on_settled or (lambda _: None)
        try:
            self._files = RotatingFiles(self.folder, max_bytes=max_file_bytes)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise LogError(f"Requests cannot be logged to {self.folder}: {error.strerror}") from error
        self._changed = threading.Condition()  # guards the fields below
        self._waiting: deque[_Waiting] = deque()
        self._batch: deque[_Waiting] = deque()  # what is being written, the first one of it now
        self._waiting_bytes = 0
        self._written = 0
        self._dropped = 0
        self._reason = ""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """How many requests have been written."""
        return self._written

    @property
    def dropped(self) -> int:
        """How many requests have been lost: the queue or the disk was full, or they could not be decoded."""
        return self._dropped

    def log(
        self,
        request: predict_pb2.PredictRequest,
        response: predict_pb2.PredictResponse,
        *,
        client: str | None = None,
    ) -> None:
        """Queues a request and its answer, or drops them; returns at once.

        Args:
            request: the request. It must not be changed afterwards.
            response: the answer to it. It must not be changed afterwards.
            client: the client's name, if it is known.
        """
        size = int(request.ByteSize()) + int(response.ByteSize())
        self.log_later(
            size, functools.partial(encode, request, response, client=client, time=time.time()), client=client
        )

    def log_later(
        self,
        size: int,
        record: Callable[[], bytes],
        *,
        undecoded: Callable[[], bytes] | None = None,
        client: str | None = None,
    ) -> None:
        """Queues a record that is made when it is written, or drops it; returns at once.

        Args:
            size: how many bytes it takes until then.
            record: returns a serialized `PredictionLog`; called in the thread that writes. If it fails, the record
                counts as dropped.
            undecoded: if that fails, returns what is written in its place: client and time, but no tensors.
            client: the client's name, for the warning if it is dropped.
        """
        size += BYTES_EACH
        with self._changed:
            if self._closing:
                self._count_dropped("the log is closed", client)
            elif self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes:
                self._count_dropped(f"{self._waiting_bytes} bytes wait to be written already", client)
            else:
                self._waiting.append(_Waiting(size, record, undecoded, client))
                self._waiting_bytes += size
                if self._is_due():
                    self._changed.notify()

    def drop(self, reason: str, client: str | None) -> None:
        """Counts a request that could not even be queued."""
        with self._changed:
            self._count_dropped(reason, client)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Writes what is waiting and ends the last file; what takes too long counts as dropped. May be called twice.

        Args:
            timeout_s: how many seconds to wait for the disk, at most.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            left = [*self._batch, *self._waiting] if self._thread.is_alive() else []
            self._batch.clear()
            self._waiting.clear()
            for waiting in left:
                self._count_dropped(f"it was not written {timeout_s:g} s after the end", waiting.client)
        if left:
            LOG.warning("request log %s: %d requests still not written after %g s", self.folder, len(left), timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        reported, next_report, next_sync = 0, 0.0, 0.0
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._is_due(), FLUSH_S)
                closing = self._closing
                self._batch, self._waiting = self._waiting, deque()
            self._write()
            now = time.monotonic()
            try:
                if closing:
                    self._files.close()
                elif now >= next_sync:
                    next_sync = now + FLUSH_S  # also if it fails: otherwise each batch would report it
                    self._files.sync()
            except OSError as error:
                LOG.warning("request log %s: the last requests may be lost: %s", self.folder, error.strerror)
            if self._dropped > reported and (closing or now >= next_report):
                LOG.warning(
                    "request log %s: %d requests dropped so far, the last one because %s",
                    self.folder,
                    self._dropped,
                    self._reason,
                )
                reported, next_report = self._dropped, now + WARNING_S

    def _write(self) -> None:
        while True:
            with self._changed:
                if not self._batch:
                    return
                waiting = self._batch[0]
            try:
                problem = self._append(waiting)
            except OSError as error:
                problem = f"writing failed: {error.strerror}"
            except Exception as error:  # one bad request must not stop the next
                problem = f"it cannot be written: {_reason(error)}"
            with self._changed:
                if not self._batch:  # `close` did not wait for it, and has counted it
                    return
                self._batch.popleft()
                self._waiting_bytes -= waiting.size
                if problem is None:
                    self._written += 1
                    self._on_settled(True)
                else:
                    self._count_dropped(problem, waiting.client)

    def _append(self, waiting: _Waiting) -> str | None:
        """Returns why only the undecoded form was written, if so."""
        try:
            record = waiting.record()
        except Exception as error:
            if waiting.undecoded is None:
                raise
            self._files.append(*frame(waiting.undecoded()))
            return f"it is written undecoded: {_reason(error)}"
        self._files.append(*frame(record))
        return None

    def _is_due(self) -> bool:
        return self._waiting_bytes >= min(BATCH_BYTES, self._max_waiting_bytes / 2)

    def _count_dropped(self, reason: str, client: str | None) -> None:
        self._dropped += 1
        self._on_settled(False)
        named = "an unknown client" if client is None else f"the client {client!a}"  # without control characters
        self._reason = f"{reason} (asked by {named})"


def _reason(error: Exception) -> str:
    """Returns the reason of an error. Only the texts of this package are known not to quote what the client sent."""
    return str(error) if isinstance(error, LogError) else type(error).__name__
