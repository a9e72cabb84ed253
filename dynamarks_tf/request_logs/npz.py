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
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from dynamarks_tf._support import bounds
from dynamarks_tf._support.archives import NUMBERS, TEXTS, Archive, read_header
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import Array, LogEntry, LogFile, TruncatedError

INPUT_NAMES = ("inputs", "queries", "x")
BLOCK_ROWS = 256
_LARGEST_ROW = 2**22  # bytes


class NpzFile(LogFile):
    """An `.npz` file. One at a server, or compressed once more, is copied to the disk for each pass."""

    def entries(self) -> Iterator[LogEntry]:
        """Reads the file.

        Raises:
            TruncatedError: the file is damaged from a certain row on; those before it are whole.
            LogError: the file is damaged, has no inputs, or its arrays do not go together.
        """
        done = 0
        try:
            with (
                self.file.open_seekable() as opened,
                Archive(opened, most=sys.maxsize) as archive,  # never in memory as a whole
                ExitStack() as columns,
            ):
                for start, entries in self._blocks(archive, columns):
                    yield from entries
                    done = start
        except (OSError, ValueError) as error:
            if not done:
                raise LogError(f"{self.file} is damaged: {error}") from error
            raise TruncatedError(
                f"{self.file} is damaged: {error}. Its first {done} rows are read, some of which may be damaged too"
            ) from error

    def _blocks(self, archive: Archive, columns: ExitStack) -> Iterator[tuple[int, list[LogEntry]]]:
        """Yields where each block ends, and what it holds."""
        names = {name.removesuffix(".npy") for name in archive.names}
        input_name = next((name for name in INPUT_NAMES if name in names), None)
        if input_name is None:
            found = ", ".join(sorted(names)) or "(none)"
            raise LogError(f"{self.file} holds the arrays {found}; expected one called 'inputs'.")
        inputs = _Column(archive, columns, input_name)
        clients, times, versions = (
            _Column(archive, columns, name) if name in names else None for name in ("client", "time", "version")
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
            rows = inputs.rows(start, count)
            beside = [None if column is None else column.rows(start, count) for column in (clients, times, versions)]
            yield start + count, list(self._split(start, rows, *beside))

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

    def __init__(self, archive: Archive, columns: ExitStack, name: str) -> None:
        member = f"{name}.npy"
        self._name = name
        self._file = columns.enter_context(archive.open(member))
        header = read_header(self._file, name, NUMBERS + TEXTS)
        self.shape, self.dtype = header.shape, header.dtype
        if header.start + header.nbytes > archive.size(member):
            raise ValueError(f"{member} is too short for the shape {self.shape} that it declares")
        if math.prod(self.shape[1:]) * self.dtype.itemsize > _LARGEST_ROW:
            raise ValueError(f"a row of the array {name!r} takes more than {_LARGEST_ROW:,} bytes")
        self._whole: Array | None = None
        if header.is_fortran and len(self.shape) > 1:  # rows lie scattered: only as a whole
            if header.nbytes > (allowed := bounds.allowed(archive.stored_size(member))):
                raise ValueError(f"the array {name!r} takes {header.nbytes:,} bytes; at most {allowed:,} are accepted")
            self._whole = archive.array(member, NUMBERS + TEXTS)

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
            raise ValueError(f"{self._name}.npy is too short")
        return np.frombuffer(data, self.dtype, math.prod(shape)).reshape(shape)
