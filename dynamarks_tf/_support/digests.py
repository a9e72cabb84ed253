"""SHA-256 digests that do not depend on batch sizes or on the order of JSON keys."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt


class ArrayDigest:
    """Digest of an array that comes in batches: its type, the shape of one row, every byte, the number of rows."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._rows = 0

    def update(self, batch: npt.NDArray[Any]) -> None:
        """Adds a batch of rows."""
        if not self._rows:
            self._hash.update(f"{batch.dtype.newbyteorder('<').str}{list(batch.shape[1:])}".encode())
        little_endian = batch.astype(batch.dtype.newbyteorder("<"), copy=False)
        self._hash.update(np.ascontiguousarray(little_endian).tobytes())
        self._rows += len(batch)

    def hexdigest(self) -> str:
        """64 hexadecimal digits for everything added so far."""
        total = self._hash.copy()
        total.update(f"rows:{self._rows}".encode())
        return total.hexdigest()


def query_digest(queries: npt.NDArray[Any]) -> str:
    """Digest of the inputs of one batch."""
    digest = ArrayDigest()
    digest.update(queries)
    return digest.hexdigest()


def json_digest(content: dict[str, Any]) -> str:
    """Digest of JSON content, independent of layout and key order."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
