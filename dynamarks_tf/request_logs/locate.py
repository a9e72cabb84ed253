"""From the path of a request log to its reader."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamarks_tf.errors import ArgumentError, LogError
from dynamarks_tf.request_logs import cloud_events, json_lines, npz, prediction_log, rotation, tf_record
from dynamarks_tf.request_logs.query_log import LogFile, QueryLog, Selection

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
    output: str | None = None,
    input_shape: Sequence[int | None] | None = None,
    dtype: str = "float32",
) -> QueryLog:
    """Opens request logs, to read the inputs that clients sent and the answers they got.

    The format is told by the content of a file, not by its name. The length of each file is fixed now, so the log of
    a running server can be read too: what is logged later does not appear.

    Records come in the order of their times, also where several files cover the same period, as those of replicas do;
    records and files without times keep the order given.

    Args:
        paths: one path or several: TFRecord files of `PredictionLog`, JSON lines, CloudEvents of KServe's logger,
            `.npz` files, or folders that a server logs to.
        client: take the requests of this client only, or of these clients.
        model: take the requests to the model of this name only, and those of which no model was recorded.
        version: take the requests that this version of the model answered only, or these versions. A mark's key
            belongs to one version, so batches are refused if several answered and none is chosen. Name several if
            they were marked with one key.
        input: name of the input, if the model has several.
        output: name of the output, if the model has several.
        input_shape: shape of one input, `None` for unknown axes. Requests of another shape are left out; by default
            the first request decides.
        dtype: type of the inputs in JSON lines and events, which do not tell it.

    Returns:
        The log: `batches(n)` yields inputs, `answered_batches(n)` inputs with answers, `requests()` single requests.

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
        output=output,
        input_shape=None if input_shape is None else tuple(input_shape),
    )
    files = [file for path in given for file in _expanded(Path(path))]
    return QueryLog([_log_file(file, dtype) for file in files], selection)


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


def _log_file(path: Path, dtype: str) -> LogFile:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            is_event = head.lstrip().startswith(b"{") and cloud_events.is_event(file.readline())
    except OSError as error:
        raise LogError(f"Cannot read the request log {path}: {error.strerror}") from error
    if tf_record.is_header(head):  # before the rest: a length may begin with any character
        return LogFile(path, size, prediction_log.read)
    if head.startswith(b"PK"):
        return LogFile(path, size, npz.read)
    if is_event:
        return LogFile(path, size, functools.partial(cloud_events.read, dtype=dtype))
    if head.lstrip().startswith(b"{"):
        return LogFile(path, size, functools.partial(json_lines.read, dtype=dtype))
    if path.name.endswith(rotation.SUFFIX):  # empty, or its very first record is truncated or corrupt
        return LogFile(path, size, prediction_log.read)
    if head.startswith(b"\x1f\x8b"):
        raise LogError(f"{path} is compressed. Unpack it first: gunzip -k {path}")
    raise LogError(f"{path} is no request log; accepted: {ACCEPTED}.")
