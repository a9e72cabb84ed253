"""Starts the process of a suspect, talks to it, and ends it at the deadline."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dynamarks_tf import errors
from dynamarks_tf.errors import DynaMarksError, SuspectError
from dynamarks_tf.suspects.isolation import frames
from dynamarks_tf.suspects.isolation.limits import Limits, usable_memory

Array = npt.NDArray[Any]

_START_S = 300.0  # imports; TensorFlow takes a while on a cold or busy disk
_END_S = 10.0
_LONGEST_ERROR = 2000
_SMALLEST_FILE_LIMIT = 64 << 20
# What a process may know of this one's environment: neither keys nor addresses.
_VARIABLES = (
    "PATH LANG LC_ALL LC_CTYPE TZ LD_LIBRARY_PATH DYLD_LIBRARY_PATH VIRTUAL_ENV PYTHONDONTWRITEBYTECODE PYTHONHASHSEED "
    "OMP_NUM_THREADS TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS TF_ENABLE_ONEDNN_OPTS KERAS_BACKEND SYSTEMROOT"
).split()
_lock = threading.Lock()
_sources: dict[tuple[str, ...], _Source] = {}


class Process:
    """A process that opened one file.

    Args:
        opener: what opens the file there, `module:name`; called with the path and the options. What it returns is a
            suspect, or plain values for JSON.
        path: the file or folder.
        description: what it is called in messages.
        preload: modules that files of this kind need.
        options: further arguments of `opener`.
        seconds: how long it may take to open, and for each batch.
        readable: files beside that it may read.
        modules: modules to import before it is confined, which define layers that the file may name, and the folder
            that each is imported from.

    Attributes:
        opened: what it said when it had opened the file: `result`, what the opener returned, or a description of the
            suspect; and `confined`, what the system keeps it from beside limits: `"files"`, `"network"`.

    Raises:
        SuspectError: the file could not be opened, or not in time.
    """

    def __init__(
        self,
        opener: str,
        path: Path,
        description: str,
        *,
        preload: Sequence[str] = (),
        options: dict[str, Any] | None = None,
        seconds: float,
        readable: Sequence[Path] = (),
        modules: Mapping[str, str] | None = None,
    ) -> None:
        if not hasattr(socket, "send_fds"):
            raise SuspectError(
                f"{description} would be asked in a process of its own, which needs Linux or macOS. If you trust the "
                "file, load the model yourself and pass it."
            )
        self._description = description
        source = _source(preload)
        self._alone = None if source.makes_copies else source
        self._folder = tempfile.mkdtemp(dir=source.folder)
        self._limits = Limits(usable_memory(), max(_SMALLEST_FILE_LIMIT, 2 * _size(path)), seconds)
        self._connection, theirs = socket.socketpair()
        self._lifeline, their_end = socket.socketpair()
        self._end = weakref.finalize(self, _end, self._connection, self._lifeline, self._folder)
        request = {
            "opener": opener,
            "path": str(path.absolute()),
            "options": {"description": description, **(options or {})},
            "readable": [str(one.absolute()) for one in (path, *readable)],
            "folder": self._folder,
            "modules": dict(modules or {}),
            "limits": dataclasses.asdict(self._limits),
        }
        try:
            with theirs, their_end, self._explained("starting it"):
                source.pass_on(theirs, their_end)
            self.opened, _ = self._ask(request, None, "loading it")
        except BaseException:
            self.close()
            raise

    def ask(
        self, batch: Array, rows: int, most_bytes: int = frames.MOST_ANSWERS
    ) -> tuple[dict[str, Any], Array | None]:
        """Sends a batch and returns the header and the array that come back, of at most so many bytes.

        Args:
            batch: the inputs.
            rows: how many answers must come back.
            most_bytes: how large they may be.

        Raises:
            SuspectError: they do not come in time, or are no answers; the process has ended then, unless it said why.
        """
        return self._ask({}, batch, "answering a batch", rows, most_bytes)

    @property
    def has_ended(self) -> bool:
        """Whether it was ended, by `close`, a deadline or itself."""
        return not self._end.alive

    def close(self) -> None:
        """Ends the process and removes its folder."""
        if self._alone is not None:
            self._alone.end()
        self._end()

    def _ask(
        self,
        header: dict[str, Any],
        batch: Array | None,
        doing: str,
        rows: int | None = None,
        most_bytes: int = frames.MOST_ANSWERS,
    ) -> tuple[dict[str, Any], Array | None]:
        deadline = frames.Deadline(self._limits.seconds)
        with self._explained(doing):
            frames.send(self._connection, header, batch, deadline)
            header, array = frames.receive(self._connection, deadline, rows=rows, most_bytes=most_bytes)
        if "error" in header:
            raise _raised(header)
        return header, array

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Any:
        try:
            yield
        except TimeoutError as error:
            self.close()
            raise SuspectError(
                f"{self._description} was stopped: {doing} took more than {self._limits.seconds:g} s. A file may take "
                "ten times as long as a server: timeout_s=... (--timeout); or ask fewer inputs at once: batch_size=... "
                "(--batch-size)."
            ) from error
        except (frames.FrameError, OSError) as error:
            self.close()
            gone = isinstance(error, OSError) or "ended" in str(error)
            reason = (
                f"its process ended while {doing}. It crashed, or needed more than the "
                f"{self._limits.memory / 1e9:.1f} GB of memory that it may take"
                if gone
                else f"its process sent {error}"
            )
            raise SuspectError(f"{self._description} gave no answer: {reason}.") from error


class _Source:
    """Where processes come from that have imported certain modules.

    Attributes:
        folder: holds the folders of its processes; removed when it ends, even if this process was killed.
        makes_copies: whether one serves all files, by copies of itself; otherwise each serves one file.
        end: ends it.
    """

    def __init__(self, preload: tuple[str, ...], backend: str) -> None:
        self.makes_copies = sys.platform == "linux" and backend == "tensorflow"  # other backends start threads
        self.folder = tempfile.mkdtemp(prefix="suspects-")
        self._owner = os.getpid()
        self._lock, self._is_ready = threading.Lock(), not self.makes_copies
        self._control, theirs = socket.socketpair()
        mode = "copies" if self.makes_copies else "one"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dynamarks_tf.suspects.isolation.child", str(theirs.fileno()), mode, *preload],
                pass_fds=[theirs.fileno()],
                env=_environment(self.folder, backend),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interruption is for this process, which ends the others
            )
        self.end = weakref.finalize(
            self, _end_source, self._control, self._process, self.folder, self._owner, at_once=not self.makes_copies
        )

    @property
    def is_usable(self) -> bool:
        """Whether it can make another process."""
        return self.makes_copies and self._owner == os.getpid() and self._process.poll() is None

    def pass_on(self, connection: socket.socket, lifeline: socket.socket) -> None:
        """Gives the other ends of two connections to a new process.

        Raises:
            OSError: it has ended.
        """
        with self._lock:
            if not self._is_ready:
                self._control.settimeout(_START_S)
                if not self._control.recv(1):
                    raise ConnectionError("it ended at once")
                self._is_ready = True
            socket.send_fds(self._control, [b"!"], [connection.fileno(), lifeline.fileno()])


def prepare(preload: Sequence[str]) -> None:
    """Starts what `Process` needs, which takes a while, without waiting for it."""
    _source(preload)


def _source(preload: Sequence[str]) -> _Source:
    """The source of processes for a kind of files, started when it is first needed."""
    keras = sys.modules.get("keras")
    backend = os.environ.get("KERAS_BACKEND", "tensorflow") if keras is None else str(keras.backend.backend())
    kind = (backend, *preload)
    with _lock:
        source = _sources.get(kind)
        if source is None or not source.is_usable:
            source = _Source(tuple(preload), backend)
            if source.makes_copies:
                _sources[kind] = source
        return source


def _environment(folder: str, backend: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    fixed = {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": path,
        "HOME": folder,
        "TMPDIR": folder,
        "CUDA_VISIBLE_DEVICES": "-1",  # this process holds the memory of the graphics card
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OPENBLAS_NUM_THREADS": "1",  # a process with threads cannot be copied
    }
    return {**kept, **fixed}


def _raised(header: dict[str, Any]) -> DynaMarksError:
    """The error that the process told of; errors of this package make one line of foreign text."""
    kind = getattr(errors, str(header.get("kind")), SuspectError)
    is_ours = isinstance(kind, type) and issubclass(kind, DynaMarksError)
    return (kind if is_ours else SuspectError)(str(header["error"])[:_LONGEST_ERROR])


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _end(connection: socket.socket, lifeline: socket.socket, folder: str) -> None:
    connection.close()
    with contextlib.suppress(OSError):
        lifeline.shutdown(socket.SHUT_WR)
        lifeline.settimeout(_END_S)
        lifeline.recv(1)  # it ends when the process has
    lifeline.close()
    shutil.rmtree(folder, ignore_errors=True)


def _end_source(
    control: socket.socket, process: subprocess.Popen[bytes], folder: str, owner: int, *, at_once: bool
) -> None:
    control.close()
    if owner != os.getpid():  # a copy of this process, whose child it is not
        return
    if at_once:
        process.kill()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@atexit.register
def _end_all() -> None:
    _sources.clear()
