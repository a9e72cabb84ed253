"""Exports a Keras model, marked or not, as a SavedModel for TensorFlow Serving."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf import _files
from dynamarks_tf.errors import ArgumentError, ExportError, ModelError
from dynamarks_tf.export.reloaded import compare_reloaded
from dynamarks_tf.export.servable import refuse_unservable
from dynamarks_tf.export.signature import ServedInputs, only_output, output_alias, served_inputs
from dynamarks_tf.export.warmup import write_warmup

Array = npt.NDArray[Any]


def export_saved_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    warmup: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
    signature_name: str = "serving_default",
) -> Path:
    """Writes a Keras model as a SavedModel that TensorFlow runs alone, without Keras and without this package.

    The signature takes the model's inputs by their names (`inputs` where Keras made up the name, `inputs_1`,
    `inputs_2`, ... where there are several) with any batch size, and gives `probabilities` as float32, or `logits` if
    the last layer of the model has `from_logits`. Half-precision inputs are taken as float32, and inputs of another
    shape are refused. The graph is traced with `training=False`.

    The version appears in one step: it is written next to `path` under a name that TensorFlow Serving ignores, checked
    by loading it with TensorFlow alone and comparing its answers with those of `model` in memory, and renamed. The
    folder holds the codebook of a marked model as weights, so it is private to its owner (0700, files 0600); give the
    account of the server access to it on purpose.

    Args:
        model: a built `keras.Model` with one output, on the TensorFlow backend.
        path: the folder to create; its last part is the version number, its parent is named after the model,
            as in `served/clf/1`.
        warmup: example inputs of shape `(n, ...)`, 1 <= n <= 1000, or a dict of them by input name. They become the
            warm-up file `assets.extra/tf_serving_warmup_requests`, one request a row, which the server runs before the
            version answers clients. They are readable in that file: take inputs that may be seen.
        signature_name: the name of the signature. TensorFlow Serving needs `serving_default`, so with any other name
            the same function is written under both.

    Returns:
        `path`.

    Raises:
        ExportError: `path` does not end in a version number or exists, the disk is full, TensorFlow Serving could not
            run the model, or the model answers differently after loading. Nothing is left behind.
        ModelError: `model` is not a built Keras model on the TensorFlow backend with one output.
        ArgumentError: `warmup` does not fit the inputs.

    Example:
        >>> export_saved_model(marked, "served/clf/1", warmup=images[:32])
        PosixPath('served/clf/1')
    """
    target = _version_folder(Path(path))
    _check_model(model)
    inputs = served_inputs(model)
    examples = None if warmup is None else _examples(warmup, inputs)
    try:
        with _files.new_folder(target) as folder, _quiet_tensorflow():
            _write(model, inputs, folder, signature_name)
            refuse_unservable(folder)
            if examples is not None:
                write_warmup(folder, examples, model_name=target.absolute().parent.name, signature_name=signature_name)
            compare_reloaded(model, inputs, folder, signature_name, examples)
    except OSError as error:
        if target.exists():
            raise _exists(target) from error
        raise ExportError(f"Cannot write {target}: {error}. Nothing was left there.") from error
    return target


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
        f"Version {int(path.name)} exists: {path}. A version is never overwritten; take a higher number."
    )


def _check_model(model: Any) -> None:
    import keras

    if not isinstance(model, keras.Model):
        raise ModelError(f"Only a keras.Model can be exported, not {type(model).__name__}.")
    if _has_blank_tables(model):
        raise ModelError(
            f"The DynaMarkLayer of model {model.name!r} has blank tables: the model was rebuilt from its configuration "
            "and its weights were not loaded, so it would be served unmarked. Load the weights first."
        )
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"The Keras backend is {keras.backend.backend()!r}; only models on 'tensorflow' can be exported. Save the "
            "model as .keras, load it in a process with KERAS_BACKEND=tensorflow and export it there."
        )


def _has_blank_tables(model: Any) -> bool:
    """Whether a marking layer anywhere in the model waits for its tables. Told by its attribute, not by its class."""
    layers = getattr(model, "layers", ())
    return any(getattr(layer, "is_blank", False) or _has_blank_tables(layer) for layer in layers)


def _write(model: Any, inputs: ServedInputs, folder: Path, signature_name: str) -> None:
    """Traces the model and writes it, and nothing about it but the graph and the variables."""
    import keras
    import tensorflow as tf

    alias = output_alias(model)

    def serve(*tensors: Any) -> dict[str, Any]:
        """The function that clients call: flat tensors in, named float32 answers out."""
        # TensorFlow Serving compares no shapes, and a convolution may end the whole process on a wrong rank.
        checked = [tf.ensure_shape(tensor, spec.shape) for tensor, spec in zip(tensors, inputs.flat, strict=True)]
        arranged = inputs.pack([tf.cast(tensor, spec.dtype) for tensor, spec in zip(checked, inputs.flat, strict=True)])
        return {alias: tf.cast(only_output(model(arranged, training=False)), tf.float32)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    specs = [tf.TensorSpec(spec.shape, spec.served_dtype, name=spec.alias) for spec in inputs.flat]
    archive.add_endpoint(signature_name, serve, input_signature=specs)
    try:
        archive.write_out(str(folder), verbose=False)
    except tf.errors.OpError as error:  # how TensorFlow reports a full disk
        raise OSError(error.message) from error


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Silences the notes of the saver, which name the temporary folder, and of the session loader."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _examples(warmup: npt.ArrayLike | Mapping[str, npt.ArrayLike], inputs: ServedInputs) -> dict[str, Array]:
    """Brings the warm-up inputs into the served types, by alias."""
    aliases = [spec.alias for spec in inputs.flat]
    given = warmup if isinstance(warmup, Mapping) else {aliases[0]: warmup}
    if set(given) != set(aliases):
        raise ArgumentError(f"The warm-up inputs are {sorted(given)}, the model takes {sorted(aliases)}.")
    examples = {spec.alias: np.asarray(given[spec.alias], spec.numpy_dtype) for spec in inputs.flat}
    for spec in inputs.flat:
        shape = examples[spec.alias].shape
        if len(shape) != len(spec.shape) or any(
            axis not in (None, size) for axis, size in zip(spec.shape, shape, strict=True)
        ):
            raise ArgumentError(f"The warm-up input {spec.alias!r} has shape {shape}, the model takes {spec.shape}.")
    return examples
