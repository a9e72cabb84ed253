"""Exports a Keras model, marked or not, as a TensorFlow Lite file for phones and other edge devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dynamarks_tf._support import files
from dynamarks_tf.errors import ExportError, ModelError
from dynamarks_tf.export import tflite_graph
from dynamarks_tf.export.inference_graph import check_exportable, marking_layers, with_output
from dynamarks_tf.export.reloaded import compare_lite
from dynamarks_tf.export.signature import served_inputs
from dynamarks_tf.export.tflite_conversion import LiteModel, convert

SUFFIX = ".tflite"


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    representative: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
    output: str | None = None,
) -> Path:
    """Writes a Keras model as a TensorFlow Lite file that needs built-in operators only.

    The mark, and the softmax before it, are computed in float32 whatever the rest is quantized to. The clean model and
    the mark are converted one by one, and the two files are joined. So the file marks the answers of *the clean model's
    file*, exported in the same way, as `DynaMarkLayer` does, to float precision. The total variation between the
    answers of both files is at most the budget; quantization adds nothing to it. With `tie_margin` 0 their top-1
    answers are the same.

    The signature `serving_default` takes the model's inputs by the names of a SavedModel's, in float32 or whole
    numbers, and gives `probabilities` or `logits` in float32. Any batch size works; it is 1 until the interpreter
    resizes it.

    The file holds the codebook of a marked model as constants: **anyone with read access can strip or forge the mark**.
    It is written private to its owner (0600). For devices in other people's hands, see docs/edge.md.

    Args:
        model: a built `keras.Model` on the TensorFlow backend. A marked one ends in its
            `DynaMarkLayer`.
        path: the file to write, `.tflite`.
        quantize: `None`: float32; `"float16"`: weights in half precision, half the size; `"int8"`: weights and
            activations in eight bits, a quarter of the size.
        representative: a few hundred unlabeled inputs of shape `(n, ...)` as the model takes them, or a dict of them by
            input name. `"int8"` takes the range of each activation from them. The file does not hold them.
        output: name of the output to export, of a model with several.

    Returns:
        `path`.

    Raises:
        ArgumentError: `quantize` is unknown, or `"int8"` has no representative inputs.
        ExportError: `path` exists or does not end in `.tflite`, cannot be written, TensorFlow Lite cannot express the
            model, or the file answers differently than the model. Nothing is left behind.
        ModelError: `model` is not a built Keras model on the TensorFlow backend, has several outputs of
            which none is named, or is marked
            elsewhere than at its end.

    Example:

    >>> dm.export_tflite(marked, "marked.tflite", quantize="int8", representative=images[:200])
    PosixPath('marked.tflite')
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise ExportError(f"{target} does not end in {SUFFIX}. Name a file: {target.with_suffix(SUFFIX)}")
    if target.exists():
        raise _exists(target)
    model = with_output(model, output)
    check_exportable(model)
    clean, mark = _parted(model)
    content = tflite_graph.with_float_softmax(convert(clean, quantize, representative))
    if mark is not None:
        content = tflite_graph.joined(content, convert(mark))
    compare_lite(model, served_inputs(model), LiteModel(content), is_exact=quantize is None)
    try:
        files.write_atomically(target, content, mode=files.PRIVATE_FILE, overwrite=False)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        raise ExportError(f"Cannot write {target}: {error}. Nothing was left there.") from error
    return target


def _parted(model: Any) -> tuple[Any, Any]:
    """The model without its mark, and a model of the mark alone, if there is one."""
    import keras

    marks = list(marking_layers(model))
    if not marks:
        return model, None
    (layer, *more) = marks
    if more or layer is not model.layers[-1]:
        raise ModelError(
            f"Model {model.name!r} holds a DynaMarkLayer that is not its last layer, so the mark cannot be kept out "
            "of the quantization. Export the inner model that ends in it."
        )
    copy = type(layer).from_config(layer.get_config())  # a second call would change the layer of the given model
    mark = keras.Sequential([keras.Input(layer.input.shape[1:], dtype=layer.input.dtype), copy])
    copy.set_weights(layer.get_weights())
    return keras.Model(model.inputs, layer.input, name=model.name), mark


def _exists(path: Path) -> ExportError:
    return ExportError(f"{path} exists. A model is never overwritten; name another file.")
