"""A private folder for sockets, whose paths must be short. What a killed process left behind, the next one removes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dynamarks_tf._support.files import PRIVATE_FILE
from dynamarks_tf.serving.gateway.settings import ADMIN, MAX_SOCKET_PATH

PREFIX = "dynamarks-proxy-"
LOCK = "in-use"


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Makes a folder and removes it at the end; before, it removes those of this account that nothing uses."""
    import fcntl

    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_left(path):
                shutil.rmtree(path, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder / f"{LOCK}.new", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends, however it does
        os.rename(folder / f"{LOCK}.new", folder / LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _is_left(path: Path) -> bool:
    """Whether a folder is of this account, its process has ended, and so has the Envoy that it had started.

    Raises:
        OSError: it is being made or removed.
    """
    import fcntl

    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return not _answers(path / ADMIN)
    finally:
        os.close(lock)


def _answers(path: Path) -> bool:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        client.connect(os.fspath(path))
        return True
    return False
