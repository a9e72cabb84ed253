"""What lies on the disk and is believed: files and folders that nobody but their owner, or root, can have made.

A key, a half-finished test or the folder of a log could be planted by somebody else, as a file, a link or a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dynamarks_tf.foreign_text import shown

# A pipe does not make its reader wait. Of Windows, where text is the default: O_BINARY.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class NotOwnError(PermissionError):
    """A file or folder is not one's own; the message says why, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EPERM, message)

    def __str__(self) -> str:
        return str(self.strerror)


class NotRegularError(OSError):
    """A pipe or device stands where a file is expected."""


def open_own(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a file for reading that must be one's own.

    Raises:
        NotOwnError: it is a link or no regular file, belongs to somebody else, or others can write to it.
        OSError: it cannot be opened.
    """
    try:
        handle = os.open(path, _READ | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno == errno.ELOOP or os.path.islink(path):
            raise _link(path) from None
        raise
    try:
        _check(path, os.fstat(handle), stat.S_ISREG, "no regular file")
        return os.fdopen(handle, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(handle)
        raise


def open_regular(path: str | os.PathLike[str], buffering: int = -1) -> IO[bytes]:
    """Opens a file of any origin for reading. A pipe would make its reader wait, and a device may have no end.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    handle = os.open(path, _READ)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise NotRegularError(errno.EINVAL, "It is no regular file. Write its content to one", os.fspath(path))
    return os.fdopen(handle, "rb", buffering)


def read_regular(path: str | os.PathLike[str], largest: int) -> bytes:
    """Reads a file of any origin.

    Args:
        path: the file.
        largest: number of bytes at most.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger.
    """
    with open_regular(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise OSError(errno.EFBIG, f"It is larger than {largest:,} bytes", os.fspath(path))
    return data


def read_own(path: str | os.PathLike[str], largest: int) -> bytes:
    """Reads a file that must be one's own.

    Args:
        path: the file.
        largest: number of bytes at most.

    Raises:
        NotOwnError: as for `open_own`, or it is larger.
        OSError: it cannot be read.
    """
    with open_own(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, largest) + 1)  # as much memory is taken as is asked for
    if max(size, len(data)) > largest:
        raise NotOwnError(f"{_name(path)} is larger than {largest:,} bytes, which no such file is.")
    return data


def check_own_folder(path: str | os.PathLike[str]) -> None:
    """Checks that a folder is one's own.

    Raises:
        NotOwnError: it is a link or no folder, belongs to somebody else, or others can write to it.
        OSError: there is none.
    """
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise _link(path)
    _check(path, status, stat.S_ISDIR, "no folder")


def make_folders(path: str | os.PathLike[str], mode: int) -> None:
    """Makes a folder and those above it that are missing, with at most these permissions, whatever the umask is.

    Raises:
        OSError: that is not possible.
    """
    folder = Path(path)
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode, exist_ok=True)
    if not Path(path).is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))


def _check(
    path: str | os.PathLike[str], status: os.stat_result, is_right: Callable[[int], bool], otherwise: str
) -> None:
    name = _name(path)
    if not is_right(status.st_mode):
        raise NotOwnError(f"{name} is {otherwise}. Remove it, or name another.")
    if os.name != "posix":
        return
    if status.st_uid not in (0, os.geteuid()):
        raise NotOwnError(
            f"{name} belongs to another user (user id {status.st_uid}, yours is {os.geteuid()}), who can put anything "
            "there. Name another, or copy it if you trust its content."
        )
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise NotOwnError(
            f"{name} can be changed by others (mode {mode:04o}). Run `chmod go-w {name}` if it is as it was."
        )


def _link(path: str | os.PathLike[str]) -> NotOwnError:
    return NotOwnError(f"{_name(path)} is a symbolic link, which others may have set. Name what it leads to.")


def _name(path: str | os.PathLike[str]) -> str:
    return shown(os.fspath(path), 4096)
