"""Numbered files in a folder, each up to a given size: where a request log grows."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from dynamarks_tf._support.files import PRIVATE_FILE, PRIVATE_FOLDER
from dynamarks_tf._support.own_files import check_own_folder, make_folders

PREFIX = "requests-"
SUFFIX = ".tfrecord"

LARGE_BYTES = 2**16  # from this size on, the parts of a record are not copied into one

_NAME = re.compile(rf"({PREFIX}(\d{{1,18}})-.*{re.escape(SUFFIX)})(\.gz|\.zst)?", re.DOTALL)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class RotatingFiles:
    """Appends records to `requests-00000001-20260102T030405Z.tfrecord`, then `requests-00000002-...`, and so on.

    Numbers go on from the last one in the folder, so names sort in the order of writing. The time is when the file was
    begun; its first record, which waited to be written, is older. A file has its final name from the start, as a crash
    must not hide its records. Each record is handed to the operating system at once and whole, so a killed process
    leaves at worst a truncated last record. Files are private to their owner (0600). Several processes may share a
    folder; each writes files of its own.

    Args:
        folder: where the files go; created (0700) if missing.
        max_bytes: a file is not grown beyond this size, except by a single record that is larger.

    Raises:
        OSError: the folder cannot be created, belongs to somebody else, or others can write to it.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._file: int | None = None
        self._size = 0
        self._synced = True
        make_folders(folder, PRIVATE_FOLDER)
        check_own_folder(folder)

    def append(self, *parts: bytes) -> None:
        """Writes a record, given in one part or several, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        size = sum(map(len, parts))
        if self._file is not None and self._size and self._size + size > self._max_bytes:
            self.close()
        if self._file is None:
            self._file, self._size = _create(self.folder), 0
        try:
            _write(self._file, parts)
        except OSError:
            self._take_back()
            raise
        self._size += size
        self._synced = False

    def sync(self) -> None:
        """Returns when all records are on the disk.

        Raises:
            OSError: the disk does not take them.
        """
        if self._file is not None and not self._synced:
            _sync(self._file)
            self._synced = True

    def close(self) -> None:
        """Ends the file; the next record begins another. May be called twice.

        Raises:
            OSError: the disk does not take the records.
        """
        file, self._file = self._file, None
        if file is not None:
            try:
                _sync(file)
            finally:
                os.close(file)

    def _take_back(self) -> None:
        """Cuts off what was written of a record; if that fails, the next record begins another file."""
        assert self._file is not None
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                os.close(file)


def list_files(folder: Path) -> list[Path]:
    """Returns the files of a log in the order in which they were begun."""
    found = [(parsed[0], path) for path in folder.iterdir() if (parsed := parse_name(path.name))]
    return [path for _, path in sorted(found, key=lambda each: each[0])]


def parse_name(name: str) -> tuple[int, str] | None:
    """Returns the number of a file of a log, and its name as it was before it was compressed.

    Args:
        name: the name of any file; `None` is returned if it is none of a log.
    """
    found = _NAME.fullmatch(name)
    return (int(found[2]), found[1]) if found else None


def _create(folder: Path) -> int:
    number = max((parsed[0] for path in folder.iterdir() if (parsed := parse_name(path.name))), default=0)
    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):  # another process has taken the number
            return os.open(folder / f"{PREFIX}{number:08}-{started}{SUFFIX}", _FLAGS, PRIVATE_FILE)


def _sync(file: int) -> None:
    os.fsync(file)
    if hasattr(os, "posix_fadvise"):  # a log, which is not read soon, would fill the page cache
        with contextlib.suppress(OSError):  # some file systems refuse; the records are on the disk all the same
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _write(file: int, parts: tuple[bytes, ...]) -> None:
    if sum(map(len, parts)) < LARGE_BYTES or not hasattr(os, "writev"):
        parts = (b"".join(parts),)
    views = [memoryview(part) for part in parts if part]
    while views:
        written = os.writev(file, views) if len(views) > 1 else os.write(file, views[0])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
