"""From the path of a request log to its reader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs import cloud_events, reduction_file, rotation, tf_record
from dynamarks_tf.request_logs.entries import LogFile
from dynamarks_tf.request_logs.json_lines import JsonLinesFile
from dynamarks_tf.request_logs.npz import NpzFile
from dynamarks_tf.request_logs.prediction_log import PredictionLogFile
from dynamarks_tf.request_logs.query_log import QueryLog, Selection
from dynamarks_tf.request_logs.reduced_log import ReducedLog
from dynamarks_tf.request_logs.reduction import merge

ACCEPTED = (
    "TFRecord files of PredictionLog (.tfrecord), JSON lines (.jsonl), CloudEvents of KServe's logger as JSON lines, "
    ".npz files with an array 'inputs', and folders that a server logs to"
)
HEAD_BYTES = 64


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

    The content of a file decides its format, not its name. The length of each file is fixed now, so the log of a
    running server can be read too: requests logged later do not appear.

    Requests come in the order of their times, also where several files cover the same period, as those of replicas do.
    Requests and files without times keep the order given.

    Args:
        paths: one path or several: TFRecord files of `PredictionLog`, JSON lines, CloudEvents of KServe's logger,
            `.npz` files, or folders that a server logs to; or files that `dynamarks reduce` wrote.
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
        LogError: a file is missing or is no request log.

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
        clients=None if client is None else frozenset([client] if isinstance(client, str) else client),
        model=model,
        versions=None if version is None else _versions(version),
        input=input,
    )
    files = [file for path in given for file in _expanded(Path(path))]
    are_reduced = [reduction_file.is_reduction(file) for file in files]
    if any(are_reduced):
        if not all(are_reduced):
            raise LogError("Some of the files are reduced logs, others are not. Reduce these too: dynamarks reduce.")
        return ReducedLog(merge([reduction_file.read(file) for file in files]), selection, tuple(files))
    log = QueryLog([_open(file, dtype) for file in files], selection)
    return log if input_shape is None else log.taking(input_shape)


def _versions(version: int | Sequence[int]) -> frozenset[int]:
    given: list[Any] = list(version) if isinstance(version, (list, tuple, set, frozenset)) else [version]
    if not given or not all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in given):
        raise ArgumentError(f"`version` must be the number of a version, such as 2, or several. Received: {version!r}")
    return frozenset(map(int, given))


def _expanded(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = rotation.list_files(path)
    if not files:
        raise LogError(f"{path} holds no request log: no file is called {rotation.PREFIX}NUMBER-TIME{rotation.SUFFIX}.")
    return files


def _open(path: Path, dtype: str) -> LogFile:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            is_json = head.lstrip().startswith(b"{")
            is_event = is_json and cloud_events.is_event(file.readline())
    except OSError as error:
        raise LogError(f"Cannot read the request log {path}: {error.strerror}") from error
    if tf_record.is_header(head):  # before the rest: a length may begin with any character
        return PredictionLogFile(path, size)
    if head.startswith(b"PK"):
        return NpzFile(path, size)
    if is_event:
        return cloud_events.EventsFile(path, size, dtype)
    if is_json:
        return JsonLinesFile(path, size, dtype)
    if path.name.endswith(rotation.SUFFIX):  # empty, or its very first record is truncated or corrupt
        return PredictionLogFile(path, size)
    if head.startswith(b"\x1f\x8b"):
        raise LogError(f"{path} is compressed. Unpack it first: gunzip -k {path}")
    raise LogError(f"{path} is no request log; accepted: {ACCEPTED}.")
