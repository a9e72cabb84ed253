"""What goes into an evidence bundle, and how it is read back: the one description of its members for both sides."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import archives
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case.assessment import Assessment
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.result import VerificationResult
from dynamarks_tf.case.trace import ClientEvidence, check_entries, clients_to_dict, parties_sha256
from dynamarks_tf.case.transcript import Transcript, TranscriptBatch
from dynamarks_tf.errors import BundleError, SuspectError
from dynamarks_tf.evidence import answers
from dynamarks_tf.evidence.meetings import MetBefore, num_class_cells, num_tie_cells
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.evidence.tracing import Exclusive
from dynamarks_tf.keys import commitment
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark.keyed_hash import (
    HASH_SIZE,
    HASHED_CLASSES,
    MULTIPLIERS,
    KeyedHash,
    num_class_groups,
    num_label_groups,
)
from dynamarks_tf.watermark.probabilities import probability_problem

_KEYED_HASH_ARRAYS = (
    "row_of_class",
    "column_of_class",
    "group_of_class",
    "hashed_classes",
    "offsets",
    "multipliers",
    "group_of_label",
)


def write(
    path: str | os.PathLike[str],
    result: VerificationResult,
    assessment: Assessment,
    keyed_hash: KeyedHash,
    transcript: Transcript,
    key: MarkKey,
    statement: Statement | None,
    *,
    reveal_key: bool,
    met_before: MetBefore | None = None,
    selected: npt.NDArray[np.intp] | None = None,
    parties: Sequence[Exclusive] | None = None,
    clients: dict[str, ClientEvidence] | None = None,
    draw: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None = None,
) -> None:
    """Writes the evidence bundle of a finished test.

    Args:
        path: the file to write.
        result: of the test.
        assessment: what it follows from.
        keyed_hash: which secret signs each output gets.
        transcript: of the test.
        key: the owner's key; it signs the bundle.
        statement: the published commitment.
        reveal_key: whether the bundle holds the key.
        met_before: of logged queries, the secret signs that count as met before the first; `None` for fresh ones.
        selected: which of the inputs that were given were asked, shape `(num_queries,)`; `None` for all.
        parties: the secret signs of each client and group; `None` if clients are not told apart.
        clients: what was found for each of them.
        draw: of a draw from a committed pool, classes and confidences of the clean model, in the order of the draw.
    """
    members = {
        bundles.EVIDENCE: _json(result.to_dict()),
        bundles.KEYED_HASH: _npz({name: getattr(keyed_hash, name) for name in _KEYED_HASH_ARRAYS}),
        bundles.RESIDUALS: _npz(_sparse(assessment.residuals)),
    }
    if assessment.pairs is not None:
        members[bundles.PAIRS] = _npz({"pairs": assessment.pairs})
    if met_before is not None:
        members[bundles.MET_BEFORE] = _npz(_packed(met_before))
    if parties is not None:
        members[bundles.PARTIES] = _npz(
            {
                "sizes": np.array([len(party.entries) for party in parties], np.int64),
                "entries": np.concatenate([np.zeros(0, np.int64), *(party.entries for party in parties)]),
            }
        )
    if clients:
        members[bundles.TRACE] = _json(clients_to_dict(clients))
    if selected is not None:
        members[bundles.SELECTION] = _npz({"indices": selected.astype(np.int64)})
    if draw is not None:
        members[bundles.DRAW] = _npz({"classes": draw[0], "confidences": draw[1]})
    if statement is not None:
        members[bundles.STATEMENT] = statement.to_bytes()
        if statement.timestamp is not None:
            members[bundles.TIMESTAMP] = statement.timestamp
    if reveal_key:
        members[bundles.KEY] = key.to_json()
    bundles.write_bundle(
        path,
        members,
        transcript.files(),
        commitment=key.commitment,
        public_key=commitment.public_key(key),
        sign=lambda data: commitment.sign(data, key),
    )


def read_keyed_hash(data: bytes, plan: TestPlan) -> KeyedHash:
    """Reads the member `keyed_hash.npz`.

    Raises:
        BundleError: it does not fit the plan.
    """
    arrays = _arrays(data, bundles.KEYED_HASH)
    n, hashed = plan.num_classes, min(plan.num_classes, HASHED_CLASSES)
    rows, columns = plan.params.table_shape(n)
    expected: dict[str, tuple[tuple[int, ...], type, float]] = {
        "row_of_class": ((n,), np.int32, rows),
        "column_of_class": ((n,), np.int32, columns),
        "group_of_class": ((n,), np.int32, num_class_groups(n)),
        "hashed_classes": ((hashed,), np.int32, n),
        "offsets": ((hashed,), np.float32, 1),
        "multipliers": ((hashed, 2), np.float32, MULTIPLIERS),
        "group_of_label": ((plan.num_labels,), np.int32, num_label_groups(plan.num_labels)),
    }
    if set(arrays) != set(expected):
        raise BundleError(f"{bundles.KEYED_HASH} does not hold {', '.join(expected)}.")
    for name, (shape, dtype, limit) in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != dtype or not ((array >= 0) & (array < limit)).all():
            raise BundleError(f"{bundles.KEYED_HASH}: {name} is not {dtype.__name__} of shape {shape} below {limit}.")
    return KeyedHash(**arrays)


def read_pairs(data: bytes, plan: TestPlan) -> npt.NDArray[np.int32]:
    """Reads the member `pairs.npz`: two classes beside the predicted one, or -1 twice, ints of shape `(C, 4096, 2)`.

    Raises:
        BundleError: it does not fit the plan.
    """
    pairs = _arrays(data, bundles.PAIRS).get("pairs", np.zeros(0))
    n = plan.num_classes
    fits = pairs.shape == (n, HASH_SIZE, 2) and pairs.dtype == np.int32 and _in_range(pairs, n)
    if not fits or ((pairs < 0).sum(axis=2) == 1).any():
        raise BundleError(f"{bundles.PAIRS} does not hold pairs of {n} classes.")
    return pairs


def same_keyed_hash(one: KeyedHash, other: KeyedHash) -> bool:
    """Whether two bucketings are equal."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _KEYED_HASH_ARRAYS)


def read_batch(data: bytes, plan: TestPlan, rows: int) -> TranscriptBatch:
    """Reads the answers of one batch, which must look as `verify` writes them.

    Raises:
        BundleError: they do not.
    """
    batch = TranscriptBatch.from_bytes(data)
    clean, suspect = batch.clean, batch.suspect
    problem = None
    if (
        clean.ndim < 2
        or (len(clean), clean.shape[-1]) != (rows, plan.num_classes)
        or clean.dtype not in (np.float32, np.float64)
    ):
        problem = f"the clean answers are {clean.dtype} of shape {clean.shape}"
    elif reason := probability_problem(clean):
        problem = f"the clean answers are no probabilities: {reason}"
    elif reason := _problem_of_references(batch, plan):
        problem = reason
    elif suspect.ndim < clean.ndim:
        limit = answers.MOST_LABELS if plan.align_classes else plan.num_classes
        if suspect.shape != clean.shape[:-1] or suspect.dtype != np.int64 or not _in_range(suspect, limit):
            problem = "the suspect's labels are no class indices"
    elif not _same_shape(suspect, clean, any_classes=plan.align_classes) or suspect.dtype not in (
        np.float32,
        np.float64,
    ):
        problem = f"the suspect's answers are {suspect.dtype} of shape {suspect.shape}"
    else:
        try:
            answers.check_suspect_answers(suspect, rows, suspect.shape[-1], positions=clean.shape[1:-1])
        except SuspectError as error:
            problem = str(error)
    if problem is not None:
        raise BundleError(f"A recorded batch is malformed: {problem}.")
    return batch


def _problem_of_references(batch: TranscriptBatch, plan: TestPlan) -> str | None:
    """Why a batch's answers of reference models are not those that the plan asks for."""
    found, count = batch.references, len(plan.references)
    if found is None:
        return f"the answers of {count} reference models are missing" if count else None
    if not count:
        return "it holds answers of reference models, and the plan names none"
    if found.shape != (*batch.clean.shape[:-1], count, plan.num_classes) or found.dtype not in (np.float32, np.float64):
        return f"the answers of {count} reference models are {found.dtype} of shape {found.shape}"
    reason = probability_problem(found)
    return reason and f"the answers of the reference models are no probabilities: {reason}"


def read_residuals(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float64]]:
    """Reads the member `residuals.npz`.

    Args:
        data: the member.
        shapes: for each channel that must be there, the shape of its table.

    Raises:
        BundleError: it holds other channels, or tables that do not fit.
    """
    arrays = _arrays(data, bundles.RESIDUALS)
    if set(arrays) != {f"{channel}.{part}" for channel in shapes for part in ("shape", "cells", "values")}:
        raise BundleError(f"{bundles.RESIDUALS} does not hold the tables of {', '.join(shapes)}.")
    tables = {}
    for channel, shape in shapes.items():
        stated, cells, values = (arrays[f"{channel}.{part}"] for part in ("shape", "cells", "values"))
        fits = stated.tolist() == list(shape) and cells.dtype == np.int64 and values.dtype == np.float64
        if not fits or cells.ndim != 1 or cells.shape != values.shape or not _in_range(cells, math.prod(shape)):
            raise BundleError(f"{bundles.RESIDUALS}: the table of the {channel} channel is malformed.")
        tables[channel] = np.zeros(shape)
        tables[channel].ravel()[cells] = values
    return tables


def read_selection(data: bytes, plan: TestPlan) -> npt.NDArray[np.int64]:
    """Reads the member `selection.npz`: which of the inputs that were given were asked, shape `(num_queries,)`.

    Raises:
        BundleError: it does not fit the plan.
    """
    indices = _arrays(data, bundles.SELECTION).get("indices", np.zeros(0))
    fits = indices.shape == (plan.num_queries,) and indices.dtype == np.int64 and indices[0] >= 0
    if not fits or not (np.diff(indices) > 0).all():
        raise BundleError(f"{bundles.SELECTION} does not hold {plan.num_queries} increasing indices.")
    return indices


def read_draw(data: bytes, plan: TestPlan) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Reads the member `draw.npz`: classes and confidences of the clean model, in the order of the draw.

    Raises:
        BundleError: it does not fit the plan.
    """
    arrays = _arrays(data, bundles.DRAW)
    classes, confidences = (arrays.get(name, np.zeros(0)) for name in ("classes", "confidences"))
    num_drawn = plan.provenance["pool"]["num_drawn"]
    fits = classes.dtype == np.int64 and confidences.dtype == np.float64
    if not fits or not classes.shape == confidences.shape == (num_drawn,) or not np.isfinite(confidences).all():
        raise BundleError(f"{bundles.DRAW} does not hold classes and confidences of {num_drawn} inputs.")
    return classes, confidences


def met_before_sha256(met_before: MetBefore) -> str:
    """Digest of the secret signs that other requests met first, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, bits in sorted(_packed(met_before).items()):
        digest.update(f"{name}:{len(bits)}:".encode() + bits.tobytes())
    return digest.hexdigest()


def read_met_before(data: bytes, plan: TestPlan) -> MetBefore:
    """Reads the member `met_before.npz`.

    Raises:
        BundleError: it does not fit the plan.
    """
    arrays = _arrays(data, bundles.MET_BEFORE)
    shape = plan.num_classes, plan.num_labels
    sizes = {"classes": num_class_cells(*shape), "ties": num_tie_cells(*shape)}
    fits = set(arrays) == set(sizes) and all(
        arrays[name].dtype == np.uint8 and arrays[name].shape == (-(-size // 8),) for name, size in sizes.items()
    )
    if not fits:
        raise BundleError(
            f"{bundles.MET_BEFORE} does not hold bits for the secret signs of {plan.num_classes} classes."
        )
    found = MetBefore(**{name: np.unpackbits(arrays[name], count=size).astype(bool) for name, size in sizes.items()})
    if met_before_sha256(found) != plan.met_before_sha256:
        raise BundleError(f"{bundles.MET_BEFORE} is not the one of the plan.")
    return found


def read_parties(data: bytes, names: Sequence[str], plan: TestPlan) -> list[Exclusive]:
    """Reads the member `parties.npz`: the secret signs of each client and group.

    Args:
        data: the member.
        names: of the clients and groups.
        plan: of the test.

    Raises:
        BundleError: it does not fit the plan.
    """
    arrays = _arrays(data, bundles.PARTIES)
    shape = plan.num_classes, plan.num_labels
    limit = num_class_cells(*shape) + num_tie_cells(*shape)
    sizes, entries = arrays.get("sizes", np.zeros(0)), arrays.get("entries", np.zeros(0))
    fits = sizes.dtype == entries.dtype == np.int64 and sizes.shape == (len(names),) and (sizes >= 0).all()
    if not fits or sizes.sum() != len(entries) or (sizes > limit).any():
        raise BundleError(f"{bundles.PARTIES} does not hold the secret signs of {len(names)} clients.")
    parts = np.split(entries, np.cumsum(sizes)[:-1])
    found = [Exclusive(name, part) for name, part in zip(names, parts, strict=True)]
    if not all(check_entries(part, limit) for part in parts) or parties_sha256(found) != plan.parties_sha256:
        raise BundleError(f"{bundles.PARTIES} is not the one of the plan.")
    return found


def _packed(met_before: MetBefore) -> dict[str, npt.NDArray[np.uint8]]:
    assert met_before.classes is not None
    assert met_before.ties is not None
    return {"classes": np.packbits(met_before.classes), "ties": np.packbits(met_before.ties)}


def _same_shape(suspect: npt.NDArray[Any], clean: npt.NDArray[Any], *, any_classes: bool) -> bool:
    if any_classes:
        return suspect.shape[:-1] == clean.shape[:-1] and suspect.ndim == clean.ndim and suspect.shape[-1] > 1
    return suspect.shape == clean.shape


def _in_range(numbers: npt.NDArray[Any], limit: int) -> bool:
    return bool(((numbers >= answers.UNKNOWN_CLASS) & (numbers < limit)).all())


def _arrays(data: bytes, name: str) -> dict[str, npt.NDArray[Any]]:
    try:
        with archives.Archive(data, is_packed=False) as archive:
            return archive.arrays()
    except ValueError as error:
        raise BundleError(f"{name} cannot be read: {error}") from error


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
