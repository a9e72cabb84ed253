"""Atomic writes: a file or folder is written under a temporary name, then renamed, so none is left half-written."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dynamarks_tf._support.own_files import make_folders, open_regular

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700

_LEFT_AFTER_S = 3600  # no writer takes so long from one change to the next
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp", re.DOTALL)


def write_atomically(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644, overwrite: bool = True) -> None:
    """Writes `data` to `path` in one step: readers see the old or the new content, never a part.

    Args:
        path: where to write. Missing parent folders are created, with mode 0700 for a private file and 0755 for
            others.
        data: the whole content.
        mode: permission bits of the new file; set before the first byte is written.
        overwrite: whether an existing file may be replaced. The check and the write are one atomic step.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false.
        OSError: the disk is full or the folder cannot be written to; `path` is then as it was before.
    """
    target = Path(path)
    make_folders(target.parent, _mode_around(mode))
    _remove_leftovers(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_to_new(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _mode_around(mode: int) -> int:
    """Permission bits of a new folder for a file: nobody else may enter where the file is private, or ever write."""
    return 0o755 if mode & 0o077 else PRIVATE_FOLDER


def _remove_leftovers(target: Path) -> None:
    """Removes what killed writers of the same file or folder left under its temporary names: if it is old, and own."""
    for path in _leftovers(os.path.abspath(target.parent)).pop(target.name, ()):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


@functools.lru_cache(maxsize=64)  # a folder is looked through once
def _leftovers(folder: str) -> dict[str, list[str]]:
    """The old and own temporary files and folders in a folder, by the name that they were to get."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and _is_left(entry.path):
                found.setdefault(match[1], []).append(entry.path)
    return found


def _is_left(path: str) -> bool:
    """Whether a file or folder is one's own, and nothing in it was changed lately."""
    paths = [path, *(os.path.join(root, each) for root, *names in os.walk(path) for each in (*names[0], *names[1]))]
    try:
        states = [os.lstat(each) for each in paths]
    except OSError:  # another process is at work on it
        return False
    is_own = not hasattr(os, "getuid") or states[0].st_uid == os.getuid()
    is_old = max(state.st_mtime for state in states) < time.time() - _LEFT_AFTER_S
    return is_own and is_old and not stat.S_ISLNK(states[0].st_mode)


def _rename_to_new(source: Path, target: Path) -> None:
    """Gives `source` the name `target`, which must be free."""
    try:
        os.link(source, target)  # unlike a rename, fails when the target exists
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(f"{target} exists") from None
        os.rename(source, target)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder, private to its owner, for a block to fill; it gets its name only if the block succeeds.

    The temporary name starts with a dot, so TensorFlow Serving, which takes numeric names only, never sees it.

    Args:
        path: the folder to create. It must not exist.

    Yields:
        The temporary folder to write into, next to `path`.

    Raises:
        FileExistsError: `path` exists, before or after the block ran.
    """
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target} exists")
    make_folders(target.parent, PRIVATE_FOLDER)
    _remove_leftovers(target)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))  # mode 0700
    try:
        yield temporary
        make_private(temporary)
        if target.exists():
            raise FileExistsError(f"{target} exists")
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str], *, mode: int = PRIVATE_FILE, overwrite: bool = True) -> Iterator[Path]:
    """A temporary name under which a library can write a file; the file gets its name only if the block succeeds.

    Args:
        path: the file to create or replace.
        mode: permission bits of the file.
        overwrite: whether an existing file may be replaced.

    Yields:
        A temporary path with the file name of `path`; nothing exists under it yet.
    """
    target = Path(path)
    make_folders(target.parent, _mode_around(mode))
    _remove_leftovers(target)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        temporary = folder / target.name
        yield temporary
        os.chmod(temporary, mode)
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_to_new(temporary, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_private(folder: str | os.PathLike[str]) -> None:
    """Restricts access to `folder` and its content to the owner (modes 0700 and 0600)."""
    for root, _, names in os.walk(folder):
        os.chmod(root, PRIVATE_FOLDER)
        for name in names:
            os.chmod(os.path.join(root, name), PRIVATE_FILE)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with open_regular(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
