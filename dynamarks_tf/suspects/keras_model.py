"""A Keras model as a suspect, from memory or from a file."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.keras_file import check_keras_file
from dynamarks_tf.suspects.batches import brief, closed, fit_shape, fit_type, refusal, several_inputs

Array = npt.NDArray[Any]

_GRAPHS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class KerasSuspect:
    """A Keras model with one input and one output, on any Keras backend.

    Args:
        model: a `keras.Model`, or the path of a `.keras` or `.h5` file. A file is loaded in this process;
            `IsolatedSuspect` does so in a process of its own.
        description: its name in reports; by default the path, or the model's name.
        run_untrusted_code: whether to load a file unchecked and to run the code inside it, such as that of `Lambda`
            layers.

    Attributes:
        path: the file; `None` for a model in memory.

    Raises:
        SuspectError: the file is refused or cannot be loaded, or the model has several inputs.

    Example:
        >>> KerasSuspect("surrogate.keras").predict(images).shape
        (256, 10)
    """

    def __init__(self, model: Any, *, description: str | None = None, run_untrusted_code: bool = False) -> None:
        self.path = Path(model) if isinstance(model, (str, os.PathLike)) else None
        name = f"Keras model {model.name!r}" if self.path is None else str(self.path)
        self.description = name if description is None else description
        self._model = model if self.path is None else _load(self.path, self.description, run_untrusted_code)
        self.input_shape = self._input_shape()
        self._whole_numbers = _whole_numbers(self._model)
        self._answer: Callable[[Array], Any] | None = _compiled(self._model)

    def predict(self, batch: Array) -> Array:
        """Answers one batch in inference mode."""
        import keras

        if self._answer is None:
            raise closed(self.description)
        array = fit_shape(batch, self.input_shape, self.description)
        if self._whole_numbers is not None:  # Keras would cut 0.9 off to 0 without a word
            array = fit_type(array, self._whole_numbers, self.description)
        try:
            outputs = keras.tree.flatten(self._answer(array))  # a single output may come in a list or a dict
            answers = [np.asarray(keras.ops.convert_to_numpy(output)) for output in outputs]
        except Exception as error:  # each backend has its own errors
            raise refusal(self.description, array, error) from error
        if len(answers) != 1:
            raise refusal(self.description, array, f"it has {len(answers)} outputs; pass a function that takes one out")
        return answers[0]

    def close(self) -> None:
        """Releases the model."""
        self._model = self._answer = None

    def _input_shape(self) -> tuple[int | None, ...] | None:
        inputs = getattr(self._model, "inputs", None)
        if not inputs:
            return None  # a subclassed model, or a Sequential one that was not called yet
        if len(inputs) > 1:
            raise several_inputs(self.description, [tensor.name for tensor in inputs])
        return tuple(inputs[0].shape[1:])


def _whole_numbers(model: Any) -> np.dtype[Any] | None:
    """The type of a model's input, if it takes whole numbers or bools alone."""
    inputs = getattr(model, "inputs", None)
    name = str(inputs[0].dtype) if inputs else ""
    return np.dtype(name) if name.startswith(("int", "uint", "bool")) else None


def _load(path: Path, description: str, run_untrusted_code: bool) -> Any:
    import keras

    if not run_untrusted_code:
        check_keras_file(path, description)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=not run_untrusted_code)
    except Exception as error:  # Keras and its file formats raise many types
        raise SuspectError(
            f"{description} cannot be loaded as a Keras model: {brief(error)} If it needs layers of its own, load it "
            "yourself and pass the model."
        ) from error


def _compiled(model: Any) -> Callable[[Array], Any]:
    """The model as a function of a batch that prints nothing.

    For TensorFlow it is a graph without XLA, which would compile again for every batch size.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return model.predict_on_batch  # type: ignore[no-any-return]
    if model.run_eagerly:
        return lambda batch: model(batch, training=False)
    import tensorflow as tf

    if model not in _GRAPHS:  # a graph for each suspect would have to be traced again
        held = weakref.ref(model)
        _GRAPHS[model] = tf.function(
            lambda batch: _alive(held)(batch, training=False), autograph=False, reduce_retracing=True
        )
    graph = _GRAPHS[model]
    return lambda batch: graph(tf.convert_to_tensor(batch))


def _alive(held: weakref.ref[Any]) -> Any:
    """The model behind a weak reference; the caller holds the model, so it is alive."""
    model = held()
    assert model is not None
    return model
