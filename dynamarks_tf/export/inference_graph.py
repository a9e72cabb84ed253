"""Writes a Keras model for inference: its graph and its variables, nothing more."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamarks_tf.errors import ModelError
from dynamarks_tf.export.signature import ServedInputs, only_output, output_alias
from dynamarks_tf.watermark.outputs import OutputKind, check_output_kind, output_index


def check_exportable(model: Any) -> None:
    """Checks that a model can be exported, and that a marked one would not lose its mark by mistake.

    Args:
        model: the model to export.

    Raises:
        ModelError: it is no Keras model on the TensorFlow backend, its marking layer has blank tables, or its outputs
            are not what the mark takes them for.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise ModelError(f"Only a keras.Model can be exported, not {type(model).__name__}.")
    if any(layer.is_blank for layer in marking_layers(model)):
        raise ModelError(
            f"The DynaMarkLayer of model {model.name!r} has blank tables: the model was rebuilt from its configuration "
            "and its weights were not loaded, so it would be served unmarked. Load the weights first."
        )
    for layer in marking_layers(model):
        if layer is model.layers[-1]:
            kind = OutputKind(getattr(layer, "activation", "softmax"), layer.from_logits)
            check_output_kind(keras.Model(model.inputs, layer.input, name=model.name), kind)
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"The Keras backend is {keras.backend.backend()!r}; only models on 'tensorflow' can be exported. Save the "
            "model as .keras, load it in a process with KERAS_BACKEND=tensorflow and export it there."
        )


def with_output(model: Any, output: str | None) -> Any:
    """The model with one of its outputs alone, under the same name.

    Args:
        model: a Keras model.
        output: the name of the output; `None` for the only one.

    Raises:
        ModelError: there is none of that name, or there are several and none is named.
    """
    import keras

    if not isinstance(model, keras.Model) or (output is None and len(getattr(model, "outputs", None) or ()) < 2):
        return model
    if not getattr(model, "outputs", None):
        raise ModelError(f"The model {model.name!r} has no graph, so its outputs have no names. Leave `output` out.")
    index = output_index(model, output, "export")
    return model if len(model.outputs) == 1 else keras.Model(model.input, model.outputs[index], name=model.name)


def marking_layers(model: Any) -> Iterator[Any]:
    """Yields every marking layer anywhere in a model.

    The layer is recognized by an attribute: importing its class would let this folder reach the key.
    """
    yield from (layer for layer in model._flatten_layers() if hasattr(layer, "is_blank"))


def write_inference_graph(model: Any, inputs: ServedInputs, folder: Path, signature_name: str) -> None:
    """Traces a model with `training=False` and writes it as a SavedModel.

    Args:
        model: a built Keras model with one output.
        inputs: its inputs.
        folder: the folder to write to.
        signature_name: the name of the one signature. It takes flat tensors and gives a named float32 answer.

    Raises:
        ModelError: the model has several outputs.
        OSError: the disk is full.
    """
    import keras
    import tensorflow as tf

    alias = output_alias(model)

    def serve(*tensors: Any) -> dict[str, Any]:
        """Serves clients: flat tensors in, named float32 answers out."""
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
    except tf.errors.OpError as error:  # TensorFlow reports a full disk in this way
        raise OSError(error.message) from error


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Silences TensorFlow's loader and converter, and its saver, whose notes name the temporary folder."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
