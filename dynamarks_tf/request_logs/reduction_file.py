"""Reduced logs on disk: a ZIP archive of one JSON text, two tables and the inputs, which no code in it can run.

The same reduction gives the same bytes, whatever machine or engine made it. The file shows the structure of the keyed
hash, so only its owner may read it.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from dynamarks_tf._support import files
from dynamarks_tf._support.archives import Archive
from dynamarks_tf._support.formats import check_format
from dynamarks_tf._support.storage import CutOffError, StoredFile, local_file
from dynamarks_tf._support.strict_json import read_json
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.entries import Array
from dynamarks_tf.request_logs.pauses import Times
from dynamarks_tf.request_logs.reduction import (
    MANY,
    MEETING,
    NO_CLIENT,
    QUERY,
    Counts,
    FilePart,
    Form,
    InputStore,
    Origin,
    Reduction,
)

FORMAT = "dynamarks-reduced-log"
FORMAT_VERSION = 1
HEAD, MEETINGS, QUERIES, INPUTS = "reduced.json", "meetings.npy", "queries.npy", "inputs.bin"
_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    ArithmeticError,
    RecursionError,
)  # what reading a damaged file raises
_DATE = (1980, 1, 1, 0, 0, 0)
_LARGEST_HEAD = 2**28
_MOST_ROWS = 2**24
_LARGEST_INPUT = 2**31


def write(reduction: Reduction, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a reduction, in one step.

    Args:
        reduction: the reduced log.
        path: the file.
        overwrite: whether an existing file may be replaced.

    Raises:
        LogError: the file exists, or cannot be written.
    """
    try:
        with files.new_file(path, overwrite=overwrite) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _member(archive, HEAD, (json.dumps(_head(reduction), sort_keys=True) + "\n").encode())
            _member(archive, MEETINGS, _npy(reduction.meetings))
            _member(archive, QUERIES, _npy(reduction.queries))
            with archive.open(zipfile.ZipInfo(INPUTS, _DATE), "w", force_zip64=True) as member:
                for number in range(len(reduction.queries)):
                    member.write(reduction.inputs.read(number))
    except FileExistsError as error:
        raise LogError(f"{os.fspath(path)} exists; a reduced log is not overwritten. Name another file.") from error
    except OSError as error:
        raise LogError(f"Cannot write the reduced log {os.fspath(path)}: {error.strerror}") from error


def is_reduction(file: StoredFile) -> bool:
    """Whether a file looks like a reduced log.

    Raises:
        StorageError: it cannot be read.
    """
    with file.open() as opened:
        try:
            start = opened.read(30 + len(HEAD))
        except CutOffError:
            return False
    return start[:2] == b"PK" and start[30:] == HEAD.encode()


def read(file: StoredFile | str | os.PathLike[str]) -> Reduction:
    """Reads what `write` wrote.

    Args:
        file: the file, or the path of a local one.

    Raises:
        LogError: the file is missing, damaged, no reduced log, or was written by another release.
    """
    try:
        stored = file if isinstance(file, StoredFile) else local_file(Path(file))
        with stored.open_seekable() as opened, Archive(opened, is_packed=False, most=sys.maxsize) as archive:
            return _read(archive, str(stored))
    except OSError as error:
        raise LogError(f"Cannot read the reduced log: {error}") from error
    except _DAMAGE as error:
        raise LogError(f"{file} is no reduced log, or is damaged. Reduce the log again.") from error


def _head(reduction: Reduction) -> dict[str, Any]:
    origin_of = {origin: number for number, origin in enumerate(reduction.origins)}
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "hash_sha256": reduction.hash_sha256,
        "input_name": reduction.input_name,
        "files": [
            {
                "name": part.name,
                "size": part.size,
                "sha256": part.sha256,
                "position": part.position,
                "problem": part.problem,
                "notes": list(part.notes),
                "counts": sorted([origin_of[origin], *counts] for origin, counts in part.counts.items()),
                **({} if part.times is None else {"times": part.times}),
            }
            for part in reduction.files
        ],
        "origins": [list(origin) for origin in reduction.origins],
        "forms": [[form.dtype, list(form.shape)] for form in reduction.forms],
    }


def _read(archive: Archive, source: str) -> Reduction:
    if set(archive.names) != {HEAD, MEETINGS, QUERIES, INPUTS} or archive.size(HEAD) > _LARGEST_HEAD:
        raise ValueError
    content = read_json(archive.read(HEAD), source, "a reduced log", most_values=_MOST_ROWS, error=LogError)
    head = check_format(content, FORMAT, FORMAT_VERSION, source, "a reduced log", schema="reduced-log", error=LogError)
    origins = tuple(Origin(*origin) for origin in head["origins"])
    forms = tuple(Form(dtype, tuple(shape)) for dtype, shape in head["forms"])
    parts = tuple(
        FilePart(
            each["name"],
            each["size"],
            each["sha256"],
            each["position"],
            {origins[number]: Counts(*counts) for number, *counts in each["counts"]},
            each["problem"],
            tuple(each["notes"]),
            _times(each.get("times")),
        )
        for each in head["files"]
    )
    meetings, queries = _table(archive, MEETINGS, MEETING), _table(archive, QUERIES, QUERY)
    reduction = Reduction(
        head["hash_sha256"], parts, origins, forms, meetings, queries, InputStore(), head["input_name"]
    )
    _check(reduction)
    with archive.open(INPUTS) as member:
        for size in queries["size"].tolist():
            data = member.read(size)
            if len(data) != size:
                raise ValueError
            reduction.inputs.add(data)
        if member.read(1):
            raise ValueError
    return reduction


def _check(reduction: Reduction) -> None:
    """Sees to it that all that is looked up is there.

    Raises:
        ValueError: it is not.
    """
    meetings, queries = reduction.meetings, reduction.queries
    texts = [part.name for part in reduction.files] + [part.problem for part in reduction.files]
    texts += [note for part in reduction.files for note in part.notes]
    texts += [] if reduction.input_name is None else [reduction.input_name]
    numbers = [each for part in reduction.files for each in (part.size, part.position)]
    numbers += [each for part in reduction.files for counts in part.counts.values() for each in counts]
    fits = (
        all(isinstance(text, str) for text in [reduction.hash_sha256, *texts])
        and all(type(number) is int and number >= 0 for number in numbers)
        and all(isinstance(part.sha256, str) for part in reduction.files)
        and all(_is_origin(origin) for origin in reduction.origins)
        and all(_is_form(form) for form in reduction.forms)
        and _below(queries["origin"], len(reduction.origins))
        and _below(queries["form"], len(reduction.forms))
        and _below(queries["file"], len(reduction.files))
        and _below(meetings["file"], len(reduction.files))
        and _below(queries["best"], _MOST_ROWS)
        and _below(queries["size"], _LARGEST_INPUT)
        and bool((meetings["clients"] >= MANY).all() and (meetings["clients"] < len(reduction.clients)).all())
        and bool((meetings["clients"][:, 0] != NO_CLIENT).all())
        and bool((np.diff(meetings["entry"]) > 0).all() and (meetings["entry"][:1] >= 0).all())
        and not np.isnan(queries["time"]).any()
        and not np.isnan(meetings["time"]).any()
    )
    if not fits or (reduction.query_of_meeting()[meetings["is_own"]] >= len(queries)).any():
        raise ValueError
    sizes = np.array(
        [-1 if form.is_text else math.prod(form.shape) * np.dtype(form.dtype).itemsize for form in reduction.forms]
    )
    expected = sizes[queries["form"]] if len(queries) else np.zeros(0)
    if ((expected >= 0) & (expected != queries["size"])).any():
        raise ValueError


def _times(content: Any) -> Times | None:
    """When requests were logged to a file; older releases did not say.

    Raises:
        ValueError: these are no such times.
    """
    if content is None:
        return None
    first, last, pauses = content
    times = Times(float(first), float(last), tuple((float(start), float(end)) for start, end in pauses))
    if not times.is_valid:
        raise ValueError
    return times


def _is_origin(origin: Origin) -> bool:
    client, model, version = origin
    return all(text is None or isinstance(text, str) for text in (client, model)) and (
        version is None or type(version) is int
    )


def _is_form(form: Form) -> bool:
    if not all(type(size) is int and size >= 0 for size in form.shape):
        return False
    return form.is_text or (isinstance(form.dtype, str) and np.dtype(form.dtype).kind in "biuf")


def _below(numbers: Array, limit: int) -> bool:
    return bool(((numbers >= 0) & (numbers < limit)).all())


def _table(archive: Archive, name: str, dtype: np.dtype[Any]) -> Array:
    """A table of one type, of no more rows than the file has bytes for."""
    table = archive.array(name, "V")
    if table.dtype != dtype or table.ndim != 1 or len(table) > _MOST_ROWS:
        raise ValueError
    return table


def _npy(table: Array) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, table, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _member(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _DATE), data)
