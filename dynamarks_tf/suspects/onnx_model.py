"""An ONNX model as a suspect, run by ONNX Runtime."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import texts
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.onnx_file import check_onnx_file
from dynamarks_tf.suspects.base import load
from dynamarks_tf.suspects.batches import as_text, brief, closed, refusal
from dynamarks_tf.suspects.signature import choose_signature

Array = npt.NDArray[Any]

_NUMPY_TYPES = {
    "float16": "float16",
    "float": "float32",
    "double": "float64",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": "bool",
    "string": "object",
}


class OnnxSuspect:
    """An `.onnx` model with one input, run on the CPU.

    Args:
        path: the `.onnx` file.
        description: its name in reports; by default the path.
        run_untrusted_code: whether to load it unchecked.
        output: name of the output to read. By default the one called `probabilities` or `output_probability`, which
            models converted from scikit-learn have beside their labels; otherwise the only one.

    Attributes:
        classes: what the columns of the answers stand for, if each answer names them (ZipMap).

    Raises:
        SuspectError: the file is refused or cannot be loaded, a package is missing, or there is no such output.

    Example:
        >>> OnnxSuspect("suspect.onnx").predict(images).shape
        (256, 10)
    """

    classes: tuple[Any, ...] | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        description: str | None = None,
        run_untrusted_code: bool = False,
        output: str | None = None,
    ) -> None:
        self.description = str(Path(path)) if description is None else description
        runtime = load("onnxruntime", "onnx", self.description)
        if not run_untrusted_code:
            check_onnx_file(Path(path), self.description)
        try:
            session = runtime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has an error class for each status code
            raise SuspectError(f"{self.description} cannot be loaded as an ONNX model: {brief(error)}") from error
        self._session: Any = session
        inputs = {tensor.name: (_shape(tensor.shape), self._type(tensor.type)) for tensor in session.get_inputs()}
        outputs = [tensor.name for tensor in session.get_outputs()]
        self.signature = choose_signature(self.description, inputs, outputs, output)
        self.input_shape = self.signature.shape

    def predict(self, batch: Array) -> Array:
        """Answers one batch."""
        if self._session is None:
            raise closed(self.description)
        array = self.signature.fit(batch)
        if texts.may_be_text(array):
            array = as_text(array, self.description)
        try:
            (answers,) = self._session.run([self.signature.output], {self.signature.input: array})
        except Exception as error:  # as in the constructor
            raise refusal(self.description, array, error) from error
        return self._table(answers) if isinstance(answers, list) and answers else np.asarray(answers)

    def close(self) -> None:
        """Releases the model."""
        self._session = None

    def _table(self, answers: list[dict[Any, float]]) -> Array:
        """Turns the output of ZipMap, for each input a probability by class, into a table."""
        self.classes = tuple(answers[0])
        return np.array([[answer[name] for name in self.classes] for answer in answers], np.float32)

    def _type(self, name: str) -> np.dtype[Any]:
        match = re.fullmatch(r"tensor\((\w+)\)", name)
        if match is None or match[1] not in _NUMPY_TYPES:
            raise SuspectError(f"{self.description} takes inputs of type {name}; accepted are tensors of numbers.")
        return np.dtype(_NUMPY_TYPES[match[1]])


def _shape(shape: list[Any] | None) -> tuple[int | None, ...] | None:
    return None if not shape else tuple(size if isinstance(size, int) and size >= 0 else None for size in shape)
