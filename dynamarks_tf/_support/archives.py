"""ZIP archives and NumPy arrays of unknown makers: what they declare is checked before any of it is read.

An archive may unpack to no more than `bounds.allowed` says of its size, members are stored or deflated, and reading
stops where the declared size ends. Of an array, the header comes first: it may declare neither Python objects nor more
bytes than follow it.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from dynamarks_tf._support import bounds
from dynamarks_tf._support.own_files import open_regular
from dynamarks_tf.errors import DynaMarksError

Array = npt.NDArray[Any]

LARGEST_DIRECTORY = 2**20  # bytes; an entry takes 46 and its name
NUMBERS, TEXTS = "biuf", "SU"  # kinds of types
_ZIP_COMMENT = 2**16 + 22  # bytes in which the end of an archive is looked for
_LARGEST_HEADER = 10_000
_MOST_AXES = 32  # of NumPy 1
_MOST_EMPTY_ROWS = 2**20
_BLOCK = 2**20


class ArchiveError(ValueError):
    """An archive or array declares more than is accepted, or is damaged."""


class Header(NamedTuple):
    """What an array declares.

    Attributes:
        shape: its shape.
        is_fortran: whether its first axis is the one that varies fastest.
        dtype: its type.
        start: how many bytes stand before the values.
    """

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def nbytes(self) -> int:
        """How many bytes the values take."""
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """A ZIP archive, open for reading.

    Args:
        source: its path, its content, or an open file, which stays open.
        is_packed: whether members may be compressed.
        largest_directory: the largest size of the directory of members, in bytes.
        most: how many bytes all members that are read may take together; by default what `bounds.allowed` says.

    Attributes:
        names: of the members, in their order.

    Raises:
        ArchiveError: it is no archive, or declares what is not accepted.
        OSError: the file cannot be read.

    Example:

    >>> with Archive("answers.npz") as archive:
    ...     archive.array("answers.npy").shape
    (256, 10)
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | IO[bytes],
        *,
        is_packed: bool = True,
        largest_directory: int = LARGEST_DIRECTORY,
        most: int | None = None,
    ) -> None:
        self._opened: IO[bytes] | None = None
        if isinstance(source, (str, os.PathLike)):
            source = self._opened = open_regular(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        try:
            with reported():
                size = file.seek(0, os.SEEK_END)
                cautious = _Cautious(file, max(largest_directory, _ZIP_COMMENT))
                self._zip = zipfile.ZipFile(cautious)
                cautious.largest = None
                self._check(size, is_packed=is_packed)
        except BaseException:
            self.close()
            raise
        self.names = tuple(self._zip.namelist())
        self.comment: bytes = self._zip.comment
        self._left = bounds.allowed(size) if most is None else most

    def _check(self, size: int, *, is_packed: bool) -> None:
        accepted = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if is_packed else (zipfile.ZIP_STORED,)
        infos = self._zip.infolist()
        for info in infos:
            if info.flag_bits & 1:
                raise ArchiveError(f"its member {_shown(info.filename)} is encrypted")
            if info.compress_type not in accepted:
                how = "is neither stored nor deflated" if is_packed else "is compressed; those of such a file are not"
                raise ArchiveError(f"its member {_shown(info.filename)} {how}")
            if info.compress_type == zipfile.ZIP_STORED and info.file_size > size:
                raise ArchiveError(f"its member {_shown(info.filename)} declares more bytes than the file has")
        if len({info.filename for info in infos}) < len(infos):
            raise ArchiveError("it holds a member twice")

    def size(self, name: str) -> int:
        """The size that a member declares, unpacked, in bytes.

        Raises:
            ArchiveError: there is none of that name.
        """
        if name not in self._zip.NameToInfo:
            raise ArchiveError(f"it has no member {name}")
        return int(self._zip.getinfo(name).file_size)

    def stored_size(self, name: str) -> int:
        """How many bytes a member takes in the archive."""
        return int(self._zip.getinfo(name).compress_size)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a member, to be read up to its declared size; what goes wrong meanwhile becomes an `ArchiveError`.

        Raises:
            ArchiveError: there is none of that name, it is damaged, or takes more than may still be read.
        """
        size = self.size(name)
        if size > self._left:
            raise ArchiveError(
                f"its member {_shown(name)} unpacks to {size:,} bytes; at most {self._left:,} more are accepted"
            )
        self._left -= size
        with reported(), self._zip.open(name) as member:
            yield member

    def read(self, name: str) -> bytes:
        """Returns the content of a member.

        Raises:
            ArchiveError: as for `open`.
        """
        with self.open(name) as member:
            data = member.read(self.size(name) + 1)  # to its end, where its checksum is compared
        if len(data) != self.size(name):
            raise ArchiveError(f"its member {_shown(name)} is too short")
        return data

    def array(self, name: str, kinds: str = NUMBERS) -> Array:
        """Returns the array in a member.

        Args:
            name: of the member, with `.npy`.
            kinds: letters of the kinds of types that are accepted.

        Raises:
            ArchiveError: as for `open`; or it is no such array.
        """
        with self.open(name) as member:
            header = read_header(member, name, kinds)
            if header.nbytes != self.size(name) - header.start:
                raise ArchiveError(
                    f"{_shown(name)} is too short or too long: its header declares {header.nbytes:,} bytes, "
                    f"{self.size(name) - header.start:,} follow"
                )
            data = np.empty(header.nbytes, np.uint8)
            for start in range(0, len(data), _BLOCK):
                block = member.read(min(_BLOCK, len(data) - start))
                data[start : start + len(block)] = np.frombuffer(block, np.uint8)
                if len(block) < min(_BLOCK, len(data) - start):
                    raise ArchiveError(f"{_shown(name)} is too short")
            member.read(1)  # its checksum is compared at its end
        values = data.view(header.dtype) if header.nbytes else np.empty(0, header.dtype)
        return values.reshape(header.shape[::-1]).T if header.is_fortran else values.reshape(header.shape)

    def arrays(self, kinds: str = NUMBERS) -> dict[str, Array]:
        """Returns all arrays by name, without `.npy`.

        Raises:
            ArchiveError: as for `array`; or it holds something else.
        """
        other = next((name for name in self.names if not name.endswith(".npy")), None)
        if other is not None:
            raise ArchiveError(f"it holds {_shown(other)}, which is no array")
        return {name.removesuffix(".npy"): self.array(name, kinds) for name in self.names}

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes it. May be called twice."""
        if hasattr(self, "_zip"):
            self._zip.close()
        if self._opened is not None:
            self._opened.close()


def read_header(file: IO[bytes], name: str, kinds: str) -> Header:
    """Reads what an array declares; the file is left where its values begin.

    Args:
        file: an open `.npy` file.
        name: of the array, for messages.
        kinds: letters of the kinds of types that are accepted.

    Raises:
        ArchiveError: it is no array of such a type.
    """
    with reported():
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ArchiveError(f"the array {_shown(name)} is in version {version} of the .npy format")
        length = file.read(2 * version[0])
        size = int.from_bytes(length, "little")
        if size > _LARGEST_HEADER:
            raise ArchiveError(f"the array {_shown(name)} has a header of {size:,} bytes")
        read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(io.BytesIO(length + file.read(size)))
    header = Header(tuple(shape), is_fortran, dtype, npy.MAGIC_LEN + len(length) + size)
    if dtype.hasobject:
        raise ArchiveError(f"the array {_shown(name)} holds Python objects; save numbers and strings only")
    if dtype.kind not in kinds or not dtype.itemsize:
        raise ArchiveError(f"the array {_shown(name)} is of type {_shown(str(dtype))}, which is not accepted")
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0:
        raise ArchiveError(f"the array {_shown(name)} has an impossible shape")
    if 0 in shape and math.prod(size or 1 for size in shape) > _MOST_EMPTY_ROWS:
        raise ArchiveError(f"the array {_shown(name)} declares the shape {header.shape}, whose rows hold nothing")
    return header


def mapped(path: str | os.PathLike[str], kinds: str = NUMBERS) -> Array:
    """Maps an `.npy` file into memory, to be read as far as it is used.

    Args:
        path: the file.
        kinds: letters of the kinds of types that are accepted.

    Raises:
        ArchiveError: it is no array of such a type, or shorter than it declares.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        header = read_header(file, os.path.basename(path), kinds)
        size = file.seek(0, os.SEEK_END)
    if header.start + header.nbytes > size:
        raise ArchiveError(f"its header declares {header.nbytes:,} bytes, and {size - header.start:,} follow")
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    order: Any = "F" if header.is_fortran else "C"
    with reported():
        return np.memmap(path, header.dtype, "r", header.start, header.shape, order)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turns whatever a library raises over damaged input into an `ArchiveError`; an `OSError` stays."""
    try:
        yield
    except (ArchiveError, DynaMarksError, OSError):
        raise
    except Exception as error:  # what a damaged file raises depends on the damaged part
        raise ArchiveError(bounds.reason(error)) from error


class _Cautious:
    """A file of which a large directory of members is not read."""

    def __init__(self, file: IO[bytes], largest: int) -> None:
        self._file = file
        self.largest: int | None = largest

    def read(self, size: int = -1) -> bytes:
        if self.largest is not None and size > self.largest:
            raise ArchiveError(f"its directory of members takes more than {self.largest:,} bytes")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _shown(name: str) -> str:
    return ascii(name[:80])
