"""Atomic writes: a file or folder is written under a temporary name, then renamed, so none is left half-written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dynamarks_tf._support.own_files import make_folders

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


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
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
