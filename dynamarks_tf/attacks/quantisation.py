"""A surrogate as a quantised TensorFlow Lite model, as it would run on a phone."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._stderr import silent_stderr
from dynamarks_tf.errors import ArgumentError

Array = npt.NDArray[Any]

KINDS = ("float16", "int8")
_CALIBRATION_INPUTS = 200
_BATCH = 250


class QuantisedModel:
    """A classifier converted to TensorFlow Lite with quantised weights, called like a function.

    Args:
        model: a Keras classifier with one input of fixed shape.
        kind: `"float16"`: weights of half precision; `"int8"`: weights and activations of eight bits, with inputs and
            outputs left in float32.
        calibration: inputs of shape `(n, ...)` from which the range of activations is taken; needed for `"int8"`.

    Raises:
        ArgumentError: `kind` is something else, or calibration inputs are missing.

    Reference:
        B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        CVPR 2018.

    Example:

    >>> QuantisedModel(surrogate, "int8", x_train)(images).shape
    (256, 10)
    """

    def __init__(self, model: keras.Model, kind: str, calibration: Array | None = None) -> None:
        if kind not in KINDS:
            raise ArgumentError(f"`kind` of quantisation is one of {', '.join(KINDS)}. Received: kind={kind!r}")
        if kind == "int8" and (calibration is None or not len(calibration)):
            raise ArgumentError(
                "int8 quantisation takes the range of activations from `calibration` inputs; give some."
            )
        import tensorflow as tf

        self.content = _converted(model, kind, calibration)
        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")  # of its removal; what shall replace it is a package of its own
            self._interpreter = tf.lite.Interpreter(model_content=self.content, num_threads=1)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._shape: tuple[int, ...] | None = None

    def __call__(self, inputs: Array) -> Array:
        """Answers inputs of shape `(n, ...)` with probabilities of shape `(n, C)`."""
        return np.concatenate([self._answer(inputs[start : start + _BATCH]) for start in range(0, len(inputs), _BATCH)])

    def _answer(self, batch: Array) -> Array:
        if self._shape != batch.shape:
            self._interpreter.resize_tensor_input(self._input, batch.shape)
            with silent_stderr():
                self._interpreter.allocate_tensors()
            self._shape = batch.shape
        self._interpreter.set_tensor(self._input, batch.astype(np.float32))
        self._interpreter.invoke()
        return np.array(self._interpreter.get_tensor(self._output))


def _converted(model: keras.Model, kind: str, calibration: Array | None) -> bytes:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model"
        model.export(path, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = lambda: _examples(calibration)
        return bytes(converter.convert())


def _examples(calibration: Any) -> Iterator[list[Array]]:
    for example in calibration[:_CALIBRATION_INPUTS]:
        yield [example[None].astype(np.float32)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter's notes off the screen."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), silent_stderr():
            yield
    finally:
        logger.setLevel(level)
