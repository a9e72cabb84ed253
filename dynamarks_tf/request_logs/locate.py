"""From the path of a request log to its reader."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from dynamarks_tf._support import storage
from dynamarks_tf._support.storage import OpenFile, StoredFile, StoredFolder
from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.foreign_text import escaped
from dynamarks_tf.request_logs import cloud_events, reduction_file, rotation, tf_record
from dynamarks_tf.request_logs.entries import LogFile
from dynamarks_tf.request_logs.json_lines import JsonLinesFile
from dynamarks_tf.request_logs.lines import longest_line
from dynamarks_tf.request_logs.npz import NpzFile
from dynamarks_tf.request_logs.prediction_log import PredictionLogFile
from dynamarks_tf.request_logs.query_log import QueryLog, Selection
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.request_logs.reduction import merge

ACCEPTED = (
    "TFRecord files of PredictionLog (.tfrecord), JSON lines (.jsonl), CloudEvents of KServe's logger as JSON lines, "
    ".npz files with an array 'inputs', each also compressed by gzip or Zstandard, and folders that a server logs to"
)
HEAD_BYTES = 64
MOST_FOLDERS = 1000
SHOWN = 5
_JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")  # also where the first line is damaged

_PATTERN = f"{rotation.PREFIX}NUMBER-TIME{rotation.SUFFIX}"


def open_log(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    client: str | Sequence[str] | None = None,
    model: str | None = None,
    version: int | Sequence[int] | None = None,
    input: str | None = None,
    input_shape: Sequence[int | None] | None = None,
    dtype: str = "float32",
) -> QueryLog | ReducedLog:
    """Opens request logs, to read the inputs that clients sent.

    The content of a file decides its format, not its name, and whether gzip or Zstandard has compressed it: then it is
    unpacked while it is read. The length of each file is fixed now, so the log of a running server can be read too:
    requests logged later do not appear.

    Requests come in the order of their times, also where several files cover the same period, as those of replicas do.
    Requests and files without times keep the order given.

    Args:
        paths: one path or several: TFRecord files of `PredictionLog`, JSON lines, CloudEvents of KServe's logger,
            `.npz` files, folders that a server logs to, folders that hold such folders, one of each replica, or files
            that `dynamarks reduce` wrote. Each is a path, an [fsspec](https://filesystem-spec.readthedocs.io) URL such
            as `"s3://BUCKET/logs"` (the extras `s3`, `gs` and `abfs` bring drivers), or a glob of either, such as
            `"logs/*.jsonl.gz"`. A file that is given twice is read once.
        client: take the requests of this client only, or of these clients.
        model: take the requests to the model of this name only, and those of which no model was recorded.
        version: take the requests that this version of the model answered only, or these versions. A mark's key
            belongs to one version, so reading fails if several answered and none is chosen. Name several if they were
            marked with one key.
        input: name of the input, if the model has several.
        input_shape: shape of one input, `None` for unknown axes. Requests of another shape are left out; by default
            the first request decides.
        dtype: type of the inputs in JSON lines and events, which do not state it.

    Returns:
        The log: `batches(n)` yields the inputs. Of reduced logs, a `ReducedLog`.

    Raises:
        ArgumentError: no path is given, `version` is no number of a version, or `dtype` is no type of numbers.
        LogError: a file is missing, cannot be read or is no request log.

    Warns:
        UserWarning: a file is given twice, or a folder lacks files that were in it.

    Example:
        >>> log = open_log("logs", client="alice")
        >>> dm.verify("suspect.keras", owner=model, key=key, queries=log)
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise ArgumentError(f"`paths` is empty. Give at least one request log: {ACCEPTED}.")
    try:
        is_number = np.dtype(dtype).kind in "biuf"
    except TypeError:
        is_number = False
    if not is_number:
        raise ArgumentError(f"`dtype` must be a type of numbers, such as 'float32' or 'uint8'. Received: {dtype!r}")
    selection = Selection(
        clients=None if client is None else frozenset(map(escaped, [client] if isinstance(client, str) else client)),
        model=model,
        versions=None if version is None else _versions(version),
        input=input,
    )
    try:
        found, problems = located(given)
        are_reduced = [reduction_file.is_reduction(file) for file in found]
        if any(are_reduced) and not all(are_reduced):
            raise LogError("Some of the files are reduced logs, others are not. Reduce these too: dynamarks reduce.")
        files = [] if any(are_reduced) else [open_file(file, dtype) for file in found]
        reduced = [reduction_file.read(file) for file in found] if any(are_reduced) else []
    except OSError as error:
        raise LogError(str(error)) from error
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    if reduced:
        return ReducedLog(merge(reduced), selection, tuple(file.name for file in found))
    log = QueryLog(files, selection, found=problems)
    return log if input_shape is None else log.taking(input_shape)


def _versions(version: int | Sequence[int]) -> frozenset[int]:
    given: list[Any] = list(version) if isinstance(version, (list, tuple, set, frozenset)) else [version]
    if not given or not all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in given):
        raise ArgumentError(f"`version` must be the number of a version, such as 2, or several. Received: {version!r}")
    return frozenset(map(int, given))


def located(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[StoredFile], list[str]]:
    """Returns the files of all that was given, each once and in order, and what is wrong with them."""
    files: dict[Hashable, StoredFile] = {}
    problems: dict[str, None] = {}
    for path in paths:
        found = storage.find(path)
        part: list[StoredFile] = []
        for each in found:
            part += [each] if isinstance(each, StoredFile) else _logged_to(each, problems)
        if not part:
            raise LogError(
                f"{', '.join(map(str, found[:SHOWN]))} holds no request log: neither it nor a folder in it has files "
                f"called {_PATTERN}."
            )
        own = {file.identity: file for file in part}  # a glob may match a folder and what is in it
        for identity, file in own.items():
            if identity in files:
                problems[f"{file} was given more than once; it is read once."] = None
            files.setdefault(identity, file)
    return list(files.values()), list(problems)


def _logged_to(folder: StoredFolder, problems: dict[str, None]) -> list[StoredFile]:
    """Returns the files that servers logged to a folder and to the folders in it, one of each replica."""
    content = folder.content()
    files = _rotated(folder, content, problems)
    folders = [each for each in content if isinstance(each, StoredFolder)]
    if len(folders) > MOST_FOLDERS:
        raise LogError(
            f"{folder} holds {len(folders)} folders, at most {MOST_FOLDERS} are searched. Name the logs' own."
        )
    for each in folders:
        files += _rotated(each, each.content(), problems)
    return files


def _rotated(
    folder: StoredFolder, content: list[StoredFile | StoredFolder], problems: dict[str, None]
) -> list[StoredFile]:
    files: dict[tuple[int, str], StoredFile] = {}
    for each in content:  # in the order of the names: what is not compressed comes before what is
        if isinstance(each, StoredFile) and (parsed := rotation.parse_name(each.last_name)):
            if parsed in files:
                problems[f"{each} is left out: {files[parsed]} is the same file."] = None
            files.setdefault(parsed, each)
    numbers = sorted({number for number, _ in files})
    gaps = [(low + 1, high - 1) for low, high in itertools.pairwise(numbers) if high > low + 1]
    if gaps:
        named = ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in gaps[:SHOWN])
        more = f" and {len(gaps) - SHOWN} more gaps" if len(gaps) > SHOWN else ""
        problems[
            f"{folder} seems incomplete: it lacks the {_PATTERN} with number {named}{more}. A test needs the whole "
            "log: restore the files."
        ] = None
    return [files[key] for key in sorted(files)]


def open_file(file: StoredFile, dtype: str) -> LogFile:
    """The reader of one file, which is no reduced log.

    Raises:
        LogError: it is no request log.
        StorageError: it cannot be read.
    """
    is_record = file.last_name.removesuffix(".gz").removesuffix(".zst").endswith(rotation.SUFFIX)
    try:
        with file.open() as opened:
            head = opened.read(HEAD_BYTES)
            opened.seek(0)
            is_json = head.lstrip().startswith(b"{") or file.last_name.endswith(_JSON_LINES)
            is_event = is_json and _is_event(opened)
    except storage.CutOffError:  # nothing in it is whole
        if not is_record:
            raise
        head, is_json, is_event = b"", False, False
    if tf_record.is_header(head):  # before the rest: a length may begin with any character
        return PredictionLogFile(file)
    if head.startswith(b"PK"):
        return NpzFile(file)
    if is_event:
        return cloud_events.EventsFile(file, dtype)
    if is_json:
        return JsonLinesFile(file, dtype)
    if is_record:  # empty, or its very first record is truncated or corrupt
        return PredictionLogFile(file)
    raise LogError(f"{file} is no request log; accepted: {ACCEPTED}.")


def _is_event(opened: OpenFile) -> bool:
    try:
        return cloud_events.is_event(opened.readline(longest_line(opened)))
    except storage.CutOffError:
        return False
