"""Checks that an exported model answers like the model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ExportError
from dynamarks_tf.export.signature import ServedInput, ServedInputs, only_output
from dynamarks_tf.export.tflite_conversion import LiteModel

Array = npt.NDArray[Any]

_ROWS = 4
_TOLERANCE = 1e-4
_HALF_TOLERANCE = 2e-2  # float16 and bfloat16 keep 3 and 2 digits, and a graph fuses steps that eager mode rounds


def compare_reloaded(
    model: Any, inputs: ServedInputs, folder: Path, signature_name: str, examples: Mapping[str, Array] | None
) -> None:
    """Loads a SavedModel as TensorFlow Serving does and compares a few answers with those of the model in memory.

    The inputs are the first examples, otherwise made up. Inputs with an unknown axis besides the batch cannot be made
    up; then only loading is checked. Most rows must agree, not all: a row within float noise of a tie between two
    classes may be marked either way.

    Args:
        model: the Keras model.
        inputs: its inputs.
        folder: the SavedModel.
        signature_name: the signature to ask.
        examples: inputs by alias, of the served types, or None.

    Raises:
        ExportError: the model takes text, not even empty text, and there are no examples. Or most answers differ by
            more than 1e-4, absolutely and relatively (2e-2 in half precision).
    """
    batch = _batch(inputs, examples)
    if batch and examples is None and any(spec.dtype == "string" for spec in inputs.flat):
        _check_takes_made_up(model, inputs, batch)
    reloaded = _run_in_session(folder, signature_name, batch)
    if reloaded is None:
        return
    _compare(model, inputs, batch, reloaded)


def compare_lite(model: Any, inputs: ServedInputs, lite: LiteModel, *, is_exact: bool) -> None:
    """Compares a few answers of a TensorFlow Lite file with those of the model in memory.

    Args:
        model: the Keras model.
        inputs: its inputs.
        lite: the file in an interpreter.
        is_exact: whether the answers must agree; those of a quantized file differ.

    Raises:
        ExportError: the interpreter cannot run the file, or most answers differ.
    """
    batch = _batch(inputs, None)
    if not batch:
        return
    try:
        answers = lite.answer(batch)
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"The TensorFlow Lite interpreter cannot run the model: {error}") from error
    if is_exact:
        _compare(model, inputs, batch, answers)


def _check_takes_made_up(model: Any, inputs: ServedInputs, batch: Mapping[str, Array]) -> None:
    """Checks that a model takes empty text; one that decodes images does not.

    Raises:
        ExportError: it does not, so that example inputs are needed to compare the export with it.
    """
    import tensorflow as tf

    try:
        model(inputs.pack([tf.constant(batch[spec.alias]) for spec in inputs.flat]), training=False)
    except tf.errors.OpError as error:
        raise ExportError(
            "The model does not take empty text, as one that decodes images does not, so the export cannot be checked "
            "with inputs that are made up. Give some that it takes: warmup=x[:8] (--warmup FILE.npy)."
        ) from error


def _compare(model: Any, inputs: ServedInputs, batch: Mapping[str, Array], reloaded: Array) -> None:
    import tensorflow as tf

    arranged = inputs.pack([tf.cast(tf.constant(batch[spec.alias]), spec.dtype) for spec in inputs.flat])
    in_memory = tf.cast(only_output(model(arranged, training=False)), tf.float32).numpy()
    tolerance = _HALF_TOLERANCE if _computes_in_half_precision(model) else _TOLERANCE
    if _share_of_equal_rows(reloaded, in_memory, tolerance) <= 0.5:
        raise ExportError(
            f"After loading, the export answers differently from the model in memory (by up to "
            f"{np.max(np.abs(reloaded - in_memory)):.2g}). A layer of the model probably depends on "
            "something outside its weights and inputs, such as a Python or NumPy random number."
        )


def _run_in_session(folder: Path, signature_name: str, batch: Mapping[str, Array]) -> Array | None:
    """Loads a SavedModel into a session of its own, and runs a batch unless it is empty."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder))
        signature = meta_graph.signature_def[signature_name]
        if not batch:
            return None
        (output,) = signature.outputs.values()
        feeds = {signature.inputs[alias].name: values for alias, values in batch.items()}
        return np.asarray(session.run(output.name, feeds))


def _batch(inputs: ServedInputs, examples: Mapping[str, Array] | None) -> dict[str, Array]:
    """Returns a few inputs by alias; none where they cannot be made up."""
    if examples is not None:
        return {alias: values[:_ROWS] for alias, values in examples.items()}
    if any(None in spec.shape[1:] for spec in inputs.flat):
        return {}
    return {spec.alias: _made_up(spec) for spec in inputs.flat}


def _made_up(spec: ServedInput) -> Array:
    """Returns floats in [0, 1), the whole number 0, which is in every vocabulary, or empty text."""
    shape = (_ROWS, *(axis for axis in spec.shape[1:] if axis is not None))
    if spec.dtype == "string":
        return np.full(shape, b"", dtype=object)
    if "float" in spec.dtype:
        return np.random.default_rng(0).random(shape).astype(spec.numpy_dtype)
    return np.zeros(shape, spec.numpy_dtype)


def _computes_in_half_precision(layer: Any) -> bool:
    return "16" in layer.compute_dtype or any(map(_computes_in_half_precision, getattr(layer, "layers", ())))


def _share_of_equal_rows(first: Array, second: Array, tolerance: float) -> float:
    equal = np.isclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)
    return float(equal.reshape(len(equal), -1).all(axis=1).mean())
