"""SHA-256 digests that do not depend on batch sizes, on the order of JSON keys, or on how NumPy stores text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts

_TEXT = "bytes"  # in place of NumPy's name of the type


class ArrayDigest:
    """Digest of an array that comes in batches: its type, the shape of one row, every byte, the number of rows.

    Text and bytes count by their content alone: each value is preceded by its length, 8 bytes, little-endian.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._rows = 0

    def update(self, batch: npt.NDArray[Any]) -> None:
        """Adds a batch of rows.

        Raises:
            ValueError: it holds objects other than `str` and `bytes`, whose content cannot be digested.
        """
        is_text = texts.may_be_text(batch)
        if not self._rows:
            name = _TEXT if is_text else batch.dtype.newbyteorder("<").str
            self._hash.update(f"{name}{list(batch.shape[1:])}".encode())
        if is_text:
            for value in texts.as_bytes(batch).ravel().tolist():
                self._hash.update(len(value).to_bytes(8, "little") + value)
        else:
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
