"""Converts Keras models to TensorFlow Lite, in float32 or quantized, and runs the result."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.stderr import silent_stderr
from dynamarks_tf.errors import ArgumentError, ExportError
from dynamarks_tf.export.inference_graph import quiet_tensorflow, write_inference_graph
from dynamarks_tf.export.signature import ServedInputs, served_inputs

Array = npt.NDArray[Any]

QUANTIZATIONS = ("float16", "int8")
SIGNATURE = "serving_default"


def convert(
    model: Any,
    quantize: str | None = None,
    representative: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
) -> bytes:
    """Converts a Keras model to a TensorFlow Lite file with built-in operators only.

    Args:
        model: a built Keras model with one output, on the TensorFlow backend.
        quantize: `None`: everything in float32; `"float16"`: weights in half precision, arithmetic in float32.
            `"int8"`: weights and activations in eight bits, except in operators that have no such kernel. Inputs and
            output stay float32 in any case.
        representative: inputs of shape `(n, ...)`, or a dict of them by input name, from which `"int8"` takes the
            range of each activation.

    Returns:
        The content of the file. It has one signature, whose names are those of a SavedModel's.

    Raises:
        ArgumentError: `quantize` is unknown, or `"int8"` has no representative inputs.
        ExportError: TensorFlow Lite cannot express the model in its built-in operators.

    Reference:
        B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        CVPR 2018.
    """
    import tensorflow as tf

    inputs = served_inputs(model)
    examples = _examples(inputs, quantize, representative)
    with tempfile.TemporaryDirectory() as folder, quiet_tensorflow(), _no_output():
        path = Path(folder, "model")
        write_inference_graph(model, inputs, path, SIGNATURE)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: _one_by_one(examples)
        try:
            return bytes(converter.convert())
        except Exception as error:  # each part of the converter raises errors of its own
            named = sorted(set(re.findall(r"'(\w+\.\w+)' op", str(error))))
            raise ExportError(
                f"TensorFlow Lite cannot express the model {model.name!r} in its built-in operators: "
                f"{', '.join(named) or error}. Recurrent layers can be built with unroll=True, and layers of half "
                "precision in float32."
            ) from error


class LiteModel:
    """A TensorFlow Lite file in an interpreter with one thread, which runs built-in operators only.

    Args:
        content: a file with one signature and one output.

    Example:

    >>> LiteModel(convert(model, "int8", images)).answer({"image": images[:32]}).shape
    (32, 10)
    """

    def __init__(self, content: bytes) -> None:
        import tensorflow as tf

        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")  # about its removal: the replacement is another package
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
        self._runner = interpreter.get_signature_runner(SIGNATURE)
        self.inputs = tuple(self._runner.get_input_details())

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """Answers inputs of shape `(n, ...)`, any n, given by name."""
        with silent_stderr():  # the interpreter prints notes at the first batch of each size
            (answer,) = self._runner(**inputs).values()
        return np.asarray(answer)


def _examples(
    inputs: ServedInputs, quantize: str | None, representative: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None
) -> dict[str, Array]:
    """The representative inputs by name, if they are needed."""
    if quantize not in (None, *QUANTIZATIONS):
        raise ArgumentError(f"`quantize` is None or one of {', '.join(QUANTIZATIONS)}. Received: quantize={quantize!r}")
    if quantize != "int8":
        return {}
    examples = {} if representative is None else inputs.arrays(representative, "representative")
    if not examples or not all(map(len, examples.values())):
        raise ArgumentError(
            "int8 takes the range of each activation from `representative` inputs, and there are none. Give a few "
            "hundred unlabeled ones as the model takes them: representative=x[:200]"
        )
    return examples


def _one_by_one(examples: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    for row in range(min(map(len, examples.values()))):
        yield {alias: values[row : row + 1] for alias, values in examples.items()}


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Keeps the converter's prints and warnings off the screen."""
    with contextlib.redirect_stdout(io.StringIO()), silent_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
