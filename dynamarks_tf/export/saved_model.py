"""Exports a Keras model, marked or not, as a SavedModel for TensorFlow Serving."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dynamarks_tf._support import files
from dynamarks_tf.errors import ExportError
from dynamarks_tf.export.inference_graph import check_exportable, quiet_tensorflow, with_output, write_inference_graph
from dynamarks_tf.export.reloaded import compare_reloaded
from dynamarks_tf.export.servable import refuse_unservable
from dynamarks_tf.export.signature import served_inputs
from dynamarks_tf.export.warmup import write_warmup

EXTRA = "assets.extra"
STATEMENT = "statement.json"
TIMESTAMP = f"{STATEMENT}.tsr"


def export_saved_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    warmup: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
    signature_name: str = "serving_default",
    output: str | None = None,
    statement: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a Keras model as a SavedModel that TensorFlow runs alone, without Keras and without this package.

    The signature takes the model's inputs by their names (`inputs` where Keras made up the name, `inputs_1`,
    `inputs_2`, ... where there are several) with any batch size, and gives `probabilities` as float32, or `logits` if
    the last layer of the model has `from_logits`. Half-precision inputs are taken as float32, and inputs of another
    shape are refused. The graph is traced with `training=False`.

    The version appears in one step. It is written next to `path` under a name that TensorFlow Serving ignores. Then it
    is loaded with TensorFlow alone, its answers are compared with those of `model` in memory, and it is renamed. The
    folder holds the codebook of a marked model as weights, so it is private to its owner (0700, files 0600). Give
    access to the server's account explicitly.

    Args:
        model: a built `keras.Model` on the TensorFlow backend.
        path: the folder to create; its last part is the version number, its parent is named after the model,
            as in `served/clf/1`.
        warmup: example inputs of shape `(n, ...)`, 1 <= n <= 1000, or a dict of them by input name. They become the
            warm-up file `assets.extra/tf_serving_warmup_requests`, one request a row. The server runs these requests
            before the version answers clients. They are readable in that file: use inputs that are not confidential.
        signature_name: the name of the signature. TensorFlow Serving needs `serving_default`, so with any other name
            the same function is written under both.
        output: name of the output to serve, of a model with several; the others are not exported.
        statement: file of the published statement about the key. It is copied into `assets.extra`, which the server
            ignores, with the timestamp beside it, if there is one. So whoever signs the folder signs the statement too.

    Returns:
        `path`.

    Raises:
        ExportError: `path` does not end in a version number or exists, or the disk is full. Or TensorFlow Serving could
            not run the model, or the model answers differently after loading. Nothing is left behind.
        ModelError: `model` is not a built Keras model on the TensorFlow backend, or has several outputs of
            which none is named.
        ArgumentError: `warmup` does not fit the inputs.

    Example:
        >>> export_saved_model(marked, "served/clf/1", warmup=images[:32])
        PosixPath('served/clf/1')
    """
    target = _version_folder(Path(path))
    model = with_output(model, output)
    check_exportable(model)
    inputs = served_inputs(model)
    examples = None if warmup is None else inputs.arrays(warmup, "warm-up")
    published = {} if statement is None else _published(Path(statement))
    try:
        with files.new_folder(target) as folder, quiet_tensorflow():
            write_inference_graph(model, inputs, folder, signature_name)
            refuse_unservable(folder)
            if examples is not None:
                write_warmup(folder, examples, model_name=target.absolute().parent.name, signature_name=signature_name)
            for name, content in published.items():
                (folder / EXTRA).mkdir(exist_ok=True)
                (folder / EXTRA / name).write_bytes(content)
            compare_reloaded(model, inputs, folder, signature_name, examples)
    except OSError as error:
        if target.exists():
            raise _exists(target) from error
        raise ExportError(f"Cannot write {target}: {error}. Nothing was left there.") from error
    return target


def _published(statement: Path) -> dict[str, bytes]:
    """The content of a statement's file, and of its timestamp, if it has one, by their names in the folder."""
    reply = Path(f"{statement}.tsr")
    try:
        content = {STATEMENT: statement.read_bytes()}
        return {**content, TIMESTAMP: reply.read_bytes()} if reply.exists() else content
    except OSError as error:
        raise ExportError(f"Cannot read the statement {statement}: {error.strerror or error}.") from error


def _version_folder(path: Path) -> Path:
    """Checks that `path` names a new version of a model."""
    if not re.fullmatch(r"[0-9]{1,18}", path.name):
        raise ExportError(
            f"{path} does not end in a version number. TensorFlow Serving looks for folders like MODEL/1, MODEL/2: "
            f"write to {path / '1'}."
        )
    siblings = path.absolute().parent.glob("[0-9]*")
    if any(sibling.name.isdecimal() and int(sibling.name) == int(path.name) for sibling in siblings):
        raise _exists(path)
    return path


def _exists(path: Path) -> ExportError:
    return ExportError(
        f"Version {int(path.name)} exists: {path}. A version is never overwritten; choose a higher number."
    )
