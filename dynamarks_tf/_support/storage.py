"""Stored files, named by a path, an fsspec URL or a glob. Files of gzip and Zstandard are unpacked while they are read.

fsspec is imported for URLs only, and no message holds the secrets of a URL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import gzip
import hashlib
import importlib
import io
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import IO, Any

from dynamarks_tf._support.own_files import NotRegularError, open_regular
from dynamarks_tf.foreign_text import shown

BUFFER = 2**20  # bytes
REMOTE_BLOCK = 2**22  # bytes asked of a server at once
LARGEST_PLAIN_ENTRY = 2**31 - 1  # bytes; protocol buffers can be no larger
LARGEST_PACKED_ENTRY = 2**28  # bytes: a small packed file can unpack to any size
MOST_UNPACKED = 2**30  # bytes, or `MOST_RATIO` times the size of the packed file, if that is more
MOST_RATIO = 2000  # above gzip's largest, which is 1,032
LONGEST_PATH = 4096  # characters that a message shows of one
MOST_SPOOLED = 2**32  # bytes on the disk

DRIVERS = {  # the extra of this package that brings the driver of a protocol
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "abfs"),
}

_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?=://|::)")


class StorageError(OSError):
    """A file cannot be found or read; the message is complete, and holds no secrets."""


class CutOffError(StorageError, EOFError):
    """The end of a file is missing; what could be read before is whole."""


class OpenFile(io.BufferedReader):
    """A stored file while it is read, unpacked.

    Attributes:
        is_packed: whether the file is compressed, so that offsets are not those in the file.
        largest_entry: how many bytes to read at once, at most.
    """

    def __init__(self, raw: io.RawIOBase, *, is_packed: bool) -> None:
        super().__init__(raw, BUFFER)
        self.is_packed = is_packed
        self.largest_entry = LARGEST_PACKED_ENTRY if is_packed else LARGEST_PLAIN_ENTRY


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file on a disk or at a server, with the size that it had when it was found: later bytes are not read.

    Attributes:
        name: its path or URL, for messages.
        size: how many bytes it has, compressed ones if it is compressed.
        identity: equal for the same file, by whatever name it was found.
        open_raw: opens it.
        is_local: whether it is on a disk.
    """

    name: str
    size: int
    identity: Hashable = dataclasses.field(repr=False)
    open_raw: Callable[[], IO[bytes]] = dataclasses.field(repr=False, compare=False)
    is_local: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def last_name(self) -> str:
        """The last part of its name."""
        return _last(self.name)

    def sha256(self) -> str:
        """Digest of its bytes as they are stored, 64 hexadecimal digits.

        Raises:
            StorageError: it cannot be read.
        """
        digest = hashlib.sha256()
        with io.BufferedReader(_Part(self), BUFFER) as raw:
            while block := raw.read(BUFFER):
                digest.update(block)
        return digest.hexdigest()

    def open(self) -> OpenFile:
        """Opens it to be read from its start; by its first bytes, it is unpacked.

        Raises:
            StorageError: it cannot be read. So may every read fail, and with `CutOffError` where the end is missing.
        """
        raw = _Part(self)
        try:
            plain = OpenFile(raw, is_packed=False)
            head = plain.peek(len(_ZSTANDARD))
            if head.startswith(_GZIP):
                return OpenFile(_Unpacked(self, plain, gzip.GzipFile(fileobj=plain)), is_packed=True)
            if head.startswith(_ZSTANDARD):
                zstd = _zstandard(self)
                return OpenFile(_Unpacked(self, plain, zstd.ZstdFile(plain), zstd.ZstdError), is_packed=True)
            return plain
        except BaseException:
            raw.close()
            raise

    def open_seekable(self) -> IO[bytes]:
        """Opens it to be read in any order: through a copy on the disk unless it lies there, unpacked.

        Raises:
            StorageError: it cannot be read, or the copy would be too large.
        """
        opened = self.open()
        if self.is_local and not opened.is_packed:
            return opened
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            with opened:
                while block := opened.read(BUFFER):
                    if copy.tell() + len(block) > MOST_SPOOLED:
                        raise StorageError(
                            f"{self} has more than {MOST_SPOOLED} bytes to be copied. Download and unpack it first."
                        )
                    copy.write(block)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy


@dataclasses.dataclass(frozen=True)
class StoredFolder:
    """A folder on a disk or at a server.

    Attributes:
        name: its path or URL, for messages.
        content: lists what is in it, in the order of the names.
    """

    name: str
    content: Callable[[], list[StoredFile | StoredFolder]] = dataclasses.field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name


def find(given: str | os.PathLike[str]) -> list[StoredFile | StoredFolder]:
    """Returns what a path, a URL or a glob of either names: one file or folder, or all that match, by name.

    A name that exists is taken as it stands, also if it holds characters of globs.

    Raises:
        StorageError: there is nothing, it cannot be looked at, or a package is missing.
    """
    text = os.fspath(given)
    if is_url(text):
        return _find_remote(text)
    with _guarded(shown(text, LONGEST_PATH)):
        entry = _local(Path(text))
        if entry is not None:
            return [entry]
        if not glob.has_magic(text):
            raise FileNotFoundError
        matches = [_local(Path(name)) for name in sorted(glob.glob(text, recursive=True))]
    found = [entry for entry in matches if entry is not None]
    return found or _no_match(shown(text, LONGEST_PATH))


def local_file(path: Path) -> StoredFile:
    """Returns the file at a path.

    Raises:
        StorageError: there is none.
    """
    with _guarded(shown(str(path), LONGEST_PATH)):
        return _local_file(path, path.stat().st_size)


def without_secrets(url: str) -> str:
    """Returns a URL for messages: without user, password and query, and printable."""
    protocol, separator, rest = url.partition("://")
    authority = rest.lstrip("/").split("/", 1)[0]
    if ":" in authority or "::" in rest:  # a password may hold a slash
        end = rest.rfind("@")
    elif DRIVERS.get(protocol) == "abfs":  # CONTAINER@ACCOUNT
        end = -1
    else:
        end = authority.rfind("@")
    if end >= 0:
        rest = "***" + rest[end:]
    start, question, _ = rest.partition("?")
    return shown(f"{protocol}{separator}{start}{question and '?...'}", LONGEST_PATH)


class _Part(io.RawIOBase):
    """The first bytes of a file, as many as it had when it was found."""

    def __init__(self, file: StoredFile) -> None:
        super().__init__()
        self._name, self._size, self._position = file.name, file.size, 0
        with _guarded(file.name):
            self._file: Any = file.open_raw()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        if not view:
            return 0
        with _guarded(self._name):
            self._file.seek(self._position)  # fsspec's memory:// has one position for all who read a file
            count: int = self._file.readinto(view)
        if not count:
            raise CutOffError(
                f"{self._name}: the file ends at offset {self._position}; {self._size} bytes were expected"
            )
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, (0, self._position, self._size)[whence] + offset)
        return self._position

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(AttributeError):  # could not be opened
                self._file.close()
        super().close()


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to."""

    def __init__(self, file: StoredFile, packed: OpenFile, unpacked: Any, *errors: type[Exception]) -> None:
        super().__init__()
        self._name = file.name
        self._most = max(MOST_UNPACKED, MOST_RATIO * file.size)
        self._packed, self._file = packed, unpacked
        self._errors: tuple[type[Exception], ...] = (zlib.error, OSError, *errors)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._translated():
            data: bytes = self._file.read1(len(buffer))  # `read` would lose what stands before a cut
            if self._file.tell() > self._most:
                raise StorageError(f"{self._name} unpacks to more than {self._most} bytes. Unpack it first.")
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._translated():
            return int(self._file.seek(offset, whence))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._packed.close()
        super().close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except EOFError:
            raise CutOffError(
                f"{self._name}: the end of the compressed file is missing, as after a crash; what stands before it is "
                "read"
            ) from None
        except self._errors as error:
            raise StorageError(f"{self._name} is corrupt and cannot be unpacked ({type(error).__name__})") from None


def _zstandard(file: StoredFile) -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module)
    raise StorageError(
        f"{file} is compressed by Zstandard, which needs a package: pip install 'dynamarks_tf[zstd]'. Or unpack it "
        "first, by `zstd -d`."
    )


def _local(path: Path) -> StoredFile | StoredFolder | None:
    """Returns what a path names, `None` if it names nothing."""
    name = shown(str(path), LONGEST_PATH)
    with _guarded(name):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(status.st_mode):
            return StoredFolder(name, functools.partial(_local_content, path))
        return _local_file(path, status.st_size)


def _local_file(path: Path, size: int) -> StoredFile:
    return StoredFile(
        shown(str(path), LONGEST_PATH), size, os.path.realpath(path), lambda: open_regular(path, buffering=0)
    )


def _local_content(folder: Path) -> list[StoredFile | StoredFolder]:
    """A file that has vanished since is one that cannot be opened, so that it is not passed over in silence."""
    with _guarded(shown(str(folder), LONGEST_PATH)):
        return [_local(path) or _local_file(path, 0) for path in sorted(folder.iterdir())]


def is_url(text: str) -> bool:
    """Whether a text is an fsspec URL, not a path."""
    return "://" in text and _PROTOCOL.match(text) is not None


def _find_remote(url: str) -> list[StoredFile | StoredFolder]:
    files, path = _file_system(url)
    if files is None:
        return find(path)
    name = without_secrets(url)
    is_glob = glob.has_magic(path)
    with _guarded(name):
        files.invalidate_cache()  # a log grows
        try:
            return [_remote(files, files.info(path))]
        except StorageError:
            raise
        except Exception:  # of a driver that takes no such characters
            if not is_glob:
                raise
        found = files.glob(path, detail=True)
        return [_remote(files, found[each]) for each in sorted(found)] or _no_match(name)


def _file_system(url: str) -> tuple[Any, str]:
    """Returns the driver, `None` for the local disk, and the path for it."""
    name = without_secrets(url)
    match = _PROTOCOL.match(url)
    assert match
    protocol = match[1].lower()
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem
        from fsspec.registry import available_protocols
    except ImportError:
        raise StorageError(f"{name} needs the package fsspec: {_installation(protocol)}") from None
    if protocol not in available_protocols():
        raise StorageError(
            f"Cannot read {name}: the protocol {protocol}:// is unknown. Accepted are paths and the URLs of "
            "fsspec, such as s3://BUCKET/KEY, gs://BUCKET/KEY and abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH."
        )
    try:
        files, path = url_to_fs(url)
    except ImportError:
        raise StorageError(f"{name} needs the driver of {protocol}://: {_installation(protocol)}") from None
    except Exception as error:
        raise StorageError(f"Cannot read {name}: {_reason(error)}") from None
    return None if isinstance(files, LocalFileSystem) else files, path


def _installation(protocol: str) -> str:
    if protocol in DRIVERS:
        return f"pip install 'dynamarks_tf[{DRIVERS[protocol]}]'"
    return f"pip install 'dynamarks_tf[remote]', and the package that fsspec's documentation names for {protocol}://"


def _remote(files: Any, info: dict[str, Any]) -> StoredFile | StoredFolder:
    path = info["name"]
    name = without_secrets(files.unstrip_protocol(path))
    if info["type"] == "directory":
        return StoredFolder(name, functools.partial(_remote_content, files, path))
    if not isinstance(info.get("size"), int):
        raise StorageError(f"Cannot read {name}: the server does not tell its size. Download it first.")
    return StoredFile(
        name,
        info["size"],
        (files, path),
        lambda: files.open(path, "rb", block_size=REMOTE_BLOCK),
        is_local=False,
    )


def _remote_content(files: Any, folder: str) -> list[StoredFile | StoredFolder]:
    with _guarded(without_secrets(files.unstrip_protocol(folder))):
        infos = sorted(files.ls(folder, detail=True), key=lambda info: str(info["name"]))
        # Some stores keep a folder as an empty file of its name.
        return [_remote(files, info) for info in infos if info["name"].rstrip("/") != folder.rstrip("/")]


def _no_match(name: str) -> list[StoredFile | StoredFolder]:
    raise StorageError(f"Nothing matches {name}. Put a glob in quotes, so that the shell leaves it alone.")


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Turns any error into one that names the file; the words of drivers may hold secrets, so they are left out."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"Cannot read {name}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, NotRegularError):
        return "it is no regular file. Write its content to one"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return "Permission denied" if isinstance(error, PermissionError) else type(error).__name__


def _last(name: str) -> str:
    return re.split(r"[/\\]" if os.sep == "\\" else "/", name.rstrip("/"))[-1]
