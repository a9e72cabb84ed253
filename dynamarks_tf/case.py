"""What goes into an evidence bundle, and how it is read back: the one description of its members for both sides."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf import bundle as bundles
from dynamarks_tf import commitment
from dynamarks_tf.buckets import Bucketing
from dynamarks_tf.commitment import Statement
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.key import MarkKey
from dynamarks_tf.recording import Recording
from dynamarks_tf.verdict import Evidence

_BUCKETING_ARRAYS = (
    "row_of_class",
    "column_of_class",
    "group_of_class",
    "hashed_classes",
    "offsets",
    "multipliers",
)


def write(
    path: str | os.PathLike[str],
    evidence: Evidence,
    residuals: dict[str, Residuals],
    bucketing: Bucketing,
    record: Recording,
    key: MarkKey,
    statement: Statement | None,
    *,
    reveal_key: bool,
) -> None:
    """Writes the evidence bundle of a finished test.

    Args:
        path: the file to write.
        evidence: the verdict.
        residuals: the table of each channel that was tested.
        bucketing: which coin each output gets.
        record: the recording of the test.
        key: the owner's key; it signs the bundle.
        statement: the published commitment.
        reveal_key: whether the bundle holds the key.
    """
    members = {
        bundles.EVIDENCE: _json(evidence.to_dict()),
        bundles.BUCKETING: _npz({name: getattr(bucketing, name) for name in _BUCKETING_ARRAYS}),
        bundles.RESIDUALS: _npz(_sparse(residuals)),
    }
    if statement is not None:
        members[bundles.STATEMENT] = _json(statement.to_dict())
    if reveal_key:
        members[bundles.KEY] = key.to_json()
    bundles.write_bundle(
        path,
        members,
        record.files(),
        commitment=key.commitment,
        public_key=commitment.public_key(key),
        sign=lambda data: commitment.sign(data, key),
    )


def read_bucketing(data: bytes) -> Bucketing:
    """Reads the member `bucketing.npz`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        return Bucketing(**{name: content[name] for name in _BUCKETING_ARRAYS})


def same_bucketing(one: Bucketing, other: Bucketing) -> bool:
    """Whether two bucketings are equal."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _BUCKETING_ARRAYS)


def read_residuals(data: bytes) -> dict[str, npt.NDArray[np.float64]]:
    """Reads the member `residuals.npz`: the table of each channel."""
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        channels = [name.removesuffix(".shape") for name in content.files if name.endswith(".shape")]
        tables = {}
        for channel in channels:
            table = np.zeros(content[f"{channel}.shape"])
            table.ravel()[content[f"{channel}.cells"]] = content[f"{channel}.values"]
            tables[channel] = table
        return tables


def _sparse(residuals: dict[str, Residuals]) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for channel, found in residuals.items():
        flat = found.values.ravel()
        cells = np.flatnonzero(flat)
        arrays[f"{channel}.shape"] = np.array(found.values.shape)
        arrays[f"{channel}.cells"] = cells
        arrays[f"{channel}.values"] = flat[cells]
    return arrays


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
