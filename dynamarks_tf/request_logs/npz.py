"""Request logs as `.npz` files, read block by block: the arrays are never in memory as a whole.

- `inputs` (or `x`, `queries`), shape `(n, ...)`;
- `client` (optional), strings of shape `(n,)`, or one string for all;
- `time` (optional), seconds since 1970, of shape `(n,)`, or one number for all;
- `version` (optional), which version of the model answered, integers of shape `(n,)`, or one for all.

Other arrays, such as the answers, are ignored.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import Array, LogEntry, LogFile

INPUT_NAMES = ("inputs", "queries", "x")
BLOCK_ROWS = 256


class NpzFile(LogFile):
    """An `.npz` file. One at a server, or compressed once more, is copied to the disk for each pass."""

    def entries(self) -> Iterator[LogEntry]:
        """Reads the file.

        Raises:
            LogError: the file is damaged, has no inputs, or its arrays do not go together.
        """
        try:
            with self.file.open_seekable() as opened, zipfile.ZipFile(opened) as archive:
                yield from self._entries(archive)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise LogError(f"{self.file} is damaged: {error}") from error

    def _entries(self, archive: zipfile.ZipFile) -> Iterator[LogEntry]:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        input_name = next((name for name in INPUT_NAMES if name in names), None)
        if input_name is None:
            found = ", ".join(sorted(names)) or "(none)"
            raise LogError(f"{self.file} holds the arrays {found}; expected one called 'inputs'.")
        inputs = _Column(archive, input_name)
        clients, times, versions = (
            _Column(archive, name) if name in names else None for name in ("client", "time", "version")
        )
        total = inputs.shape[0] if inputs.shape else 0
        if versions is not None and versions.dtype.kind not in "iu":
            raise LogError(f"{self.file}: 'version' holds {versions.dtype}; expected integers, or no such array.")
        for name, column in (("client", clients), ("time", times), ("version", versions)):
            if column is not None and column.shape and column.shape[:1] != (total,):
                raise LogError(
                    f"{self.file}: {name!r} has shape {column.shape}; expected {total} rows, as many as the inputs."
                )
        for start in range(0, total, BLOCK_ROWS):
            count = min(BLOCK_ROWS, total - start)
            yield from self._split(
                start,
                inputs.rows(start, count),
                *(None if column is None else column.rows(start, count) for column in (clients, times, versions)),
            )

    def _split(
        self, start: int, inputs: Array, clients: Array | None, times: Array | None, versions: Array | None
    ) -> Iterator[LogEntry]:
        """Yields the rows of a block, those of one client, time and version together."""
        clients = None if clients is None else clients.astype(str)
        changes = np.zeros(max(0, len(inputs) - 1), bool)
        for column in (clients, times, versions):
            if column is not None:
                changes |= column[1:] != column[:-1]
        bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(inputs)]
        for low, high in itertools.pairwise(bounds):
            yield ArrayEntry(
                file=self.file,
                offset=start + low,
                client=None if clients is None else str(clients[low]) or None,
                time=None if times is None else float(times[low]),
                version=None if versions is None else int(versions[low]),
                rows=inputs[low:high],
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayEntry(LogEntry):
    """Consecutive rows of one client, time and version.

    Attributes:
        rows: the inputs.
    """

    rows: Array

    @property
    def place(self) -> str:
        return f"{self.file}, row {self.offset}"

    def inputs(self, name: str | None) -> Array:
        return self.rows


class _Column:
    """One array of the archive, read from its first row to its last."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._file: IO[bytes] = archive.open(f"{name}.npy")
        version = npy.read_magic(self._file)
        if version > (2, 0):
            raise ValueError(f"the array {name!r} is in version {version} of the .npy format")
        read_header: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, fortran, self.dtype = read_header(self._file)
        if self.dtype.hasobject:
            raise ValueError(f"the array {name!r} holds Python objects; save numbers and strings only")
        self._whole: Array | None = None
        if fortran and len(self.shape) > 1:  # rows lie scattered: only as a whole
            with archive.open(f"{name}.npy") as file:
                self._whole = np.asarray(npy.read_array(file))

    def rows(self, start: int, count: int) -> Array:
        """Returns the next `count` rows; `start` is how many came before. One value for all is repeated."""
        if not self.shape:
            if self._whole is None:
                self._whole = self._read(())
            return np.broadcast_to(self._whole, count)
        if self._whole is not None:
            return self._whole[start : start + count]
        return self._read((count, *self.shape[1:]))

    def _read(self, shape: tuple[int, ...]) -> Array:
        wanted = math.prod(shape) * self.dtype.itemsize
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise ValueError(f"{self._file.name} is too short")
        return np.frombuffer(data, self.dtype, math.prod(shape)).reshape(shape)
