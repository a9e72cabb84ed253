"""A SavedModel folder as a suspect, run by TensorFlow alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.saved_model import check_saved_model
from dynamarks_tf.suspects.batches import brief, closed, refusal
from dynamarks_tf.suspects.signature import SuspectSignature, choose_name, choose_signature

Array = npt.NDArray[Any]


class SavedModelSuspect:
    """A SavedModel of any origin with a signature of one input, in this process.

    A SavedModel is a program, so its operators are checked first; `IsolatedSuspect` runs it in a process of its own.

    Args:
        path: the SavedModel, or a folder of its numbered versions, of which the highest is taken.
        description: its name in reports; by default the path.
        run_untrusted_code: whether to load it unchecked.
        signature: name of the signature to call. By default `serving_default`, otherwise the only one.
        output: name of the output to read. By default the one called `probabilities`, otherwise the only one.

    Raises:
        SuspectError: there is no SavedModel, it is refused, cannot be loaded, or lacks signature or output.

    Example:
        >>> SavedModelSuspect("served/clf").description
        'served/clf/2'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        description: str | None = None,
        run_untrusted_code: bool = False,
        signature: str | None = None,
        output: str | None = None,
    ) -> None:
        import tensorflow as tf

        folder = highest_version(Path(path))
        self.description = str(folder) if description is None else description
        if not run_untrusted_code:
            check_saved_model(folder, self.description)
        try:
            self._loaded = tf.saved_model.load(str(folder))
        except Exception as error:  # TensorFlow raises many types for damaged files
            raise SuspectError(f"{self.description} cannot be loaded as a SavedModel: {brief(error)}") from error
        self._function = self._loaded.signatures[choose_name(self.description, self._loaded.signatures, signature)]
        self.signature = _describe(self._function, self.description, output)
        self.input_shape = self.signature.shape

    def predict(self, batch: Array) -> Array:
        """Answers one batch."""
        import tensorflow as tf

        if self._function is None:
            raise closed(self.description)
        array = self.signature.fit(batch)
        try:
            answers = self._function(**{self.signature.input: tf.convert_to_tensor(array)})
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise refusal(self.description, array, error) from error
        return np.asarray(answers[self.signature.output])

    def close(self) -> None:
        """Releases the model."""
        self._loaded = self._function = None


def _describe(function: Any, description: str, output: str | None) -> SuspectSignature:
    inputs = {
        name: (None if spec.shape.rank is None else tuple(spec.shape.as_list()), np.dtype(spec.dtype.as_numpy_dtype))
        for name, spec in function.structured_input_signature[1].items()
    }
    return choose_signature(description, inputs, function.structured_outputs, output)


def highest_version(path: Path) -> Path:
    """The SavedModel in `path`, or its highest version there.

    Raises:
        SuspectError: there is none.
    """
    if _is_saved_model(path):
        return path
    children = path.iterdir() if path.is_dir() else ()
    versions = [child for child in children if child.name.isdecimal() and _is_saved_model(child)]
    if not versions:
        raise SuspectError(
            f"{path} holds no SavedModel. Give a folder with saved_model.pb, or one with numbered versions: 1, 2, ..."
        )
    return max(versions, key=lambda version: int(version.name))


def _is_saved_model(path: Path) -> bool:
    return any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))
