"""A model file as a suspect: opened and asked in a process of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.refusals import inside
from dynamarks_tf.suspects.batches import closed, refusal
from dynamarks_tf.suspects.isolation import launcher
from dynamarks_tf.suspects.isolation.frames import MOST_ANSWERS
from dynamarks_tf.suspects.isolation.launcher import Process
from dynamarks_tf.suspects.signature import SuspectSignature

Array = npt.NDArray[Any]

_NUMBER = 8  # bytes at most
_LONGER = 10  # than a server may take: a file is asked on this machine's processor
_TENSORFLOW = ("tensorflow", "keras")
KINDS = {".keras": "keras", ".h5": "keras", ".hdf5": "keras", ".tflite": "tflite", ".onnx": "onnx"}
_OPENERS = {
    "keras": ("dynamarks_tf.suspects.keras_model:KerasSuspect", _TENSORFLOW),
    "saved_model": ("dynamarks_tf.suspects.saved_model:SavedModelSuspect", _TENSORFLOW),
    "tflite": ("dynamarks_tf.suspects.tflite:TFLiteSuspect", ("ai_edge_litert.interpreter",)),
    "onnx": ("dynamarks_tf.suspects.onnx_model:OnnxSuspect", ("onnx", "onnxruntime")),
}


class IsolatedSuspect:
    """A `.keras`, `.h5`, `.tflite` or `.onnx` file, or a SavedModel folder, of any origin.

    The file is checked before it is loaded: it may compute, and do nothing else. It is loaded and asked in a process of
    its own with a folder of its own, without this process's environment, with limits on memory, files and time, and
    where Linux allows it without network and without a view of other files (docs/security-suspects.md).

    Args:
        kind: `"keras"`, `"saved_model"`, `"tflite"` or `"onnx"`.
        path: the file or folder.
        description: its name in reports; by default the path.
        timeout_s: a tenth of the seconds that it may take to load, and for each batch.
        run_untrusted_code: whether to run what the check refuses, such as `Lambda` layers and operators that read
            files. The process is confined all the same.
        most_values: how many numbers it may answer one batch with; by default 1 GiB of them.
        options: `signature` and `output` of the adapter.

    Attributes:
        path: the file or folder.
        files: all files that its answers depend on.
        signature: how it is called; `None` for a Keras model.
        confined: what the system keeps the process from beside limits: `"files"`, `"network"`.
        classes: what the columns of its answers stand for, if it says so.

    Raises:
        SuspectError: it is refused, cannot be loaded, or not in time.

    Example:
        >>> IsolatedSuspect("keras", Path("surrogate.keras")).predict(images).shape
        (256, 10)
    """

    def __init__(
        self,
        kind: str,
        path: Path,
        *,
        description: str | None = None,
        timeout_s: float = 30.0,
        run_untrusted_code: bool = False,
        most_values: int | None = None,
        **options: Any,
    ) -> None:
        self.path = path
        self._most_bytes = MOST_ANSWERS if most_values is None else min(MOST_ANSWERS, _NUMBER * most_values)
        self.description = str(path) if description is None else description
        seconds = _LONGER * timeout_s
        beside = _files_beside(path, self.description, seconds) if kind == "onnx" else []
        self.files = tuple(_files_of(path)) + tuple(beside)
        opener, preload = _OPENERS[kind]
        self._process = Process(
            opener,
            path,
            self.description,
            preload=preload,
            options={"run_untrusted_code": run_untrusted_code, **options},
            seconds=seconds,
            readable=beside,
            modules=_modules_with_layers() if kind == "keras" else None,
        )
        said = self._process.opened
        try:
            self.confined = tuple(map(str, said["confined"]))
            self.input_shape = _shape(said["input_shape"])
            self.classes = _classes(said)
            self.signature = None if said["signature"] is None else _signature(self.description, said["signature"])
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a program that has taken it over
            self.close()
            raise SuspectError(
                f"{self.description} gave no answer: its process described it in no known form."
            ) from error

    def predict(self, batch: Array) -> Array:
        """Answers one batch."""
        if self._process.has_ended:
            raise closed(self.description)
        try:
            header, answers = self._process.ask(np.asarray(batch), len(batch), self._most_bytes)
        except ValueError as error:  # a batch that cannot be sent
            raise refusal(self.description, batch, error) from error
        if answers is None:
            raise refusal(self.description, batch, "it sent no array")
        self.classes = _classes(header)
        return answers

    def close(self) -> None:
        """Ends the process."""
        self._process.close()


def prepare(place: Any) -> None:
    """Starts the process for a suspect that seems to be a model file, without waiting for it."""
    path = Path(place) if isinstance(place, (str, os.PathLike)) else None
    kind = None if path is None or not path.exists() else "saved_model" if path.is_dir() else KINDS.get(path.suffix)
    if kind is not None:
        launcher.prepare(_OPENERS[kind][1])


def described(opener: str, path: Path, *, seconds: float = 300.0) -> Any:
    """What a function says of a model file, called in a process of its own.

    Args:
        opener: the function, `module:name`; takes the path and `description`, and returns plain values for JSON.
        path: the file.
        seconds: how long it may take.
    """
    with contextlib.closing(Process(opener, path, str(path), preload=_TENSORFLOW, seconds=seconds)) as process:
        return process.opened.get("result")


def _files_beside(path: Path, description: str, seconds: float) -> list[Path]:
    """The files that hold the tensors of an ONNX model, if it has any outside; they are checked again when it opens."""
    opener = "dynamarks_tf.suspects.admission.onnx_file:external_files"
    process = Process(opener, path, description, preload=_OPENERS["onnx"][1], seconds=seconds)
    with contextlib.closing(process):
        names = process.opened.get("result")
    if not isinstance(names, list) or not all(isinstance(name, str) and inside(path.parent, name) for name in names):
        raise SuspectError(f"{description} is refused: it names files outside its folder, or links.")
    return [path.parent / name for name in names]


def _files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _modules_with_layers() -> dict[str, str]:
    """Modules of layers and functions that were registered here, so that a file may name them there too."""
    keras = sys.modules.get("keras")
    found = keras.saving.get_custom_objects().values() if keras is not None else ()
    names = {str(getattr(one, "__module__", "")) for one in found} - {"__main__"}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in names}
    return {name: str(_root(Path(file), name)) for name, file in files.items() if file is not None}


def _root(file: Path, module: str) -> Path:
    """The folder that a module is imported from."""
    return file.absolute().parents[module.count(".") + (file.stem == "__init__")]


def _shape(given: Any) -> tuple[int | None, ...] | None:
    return None if given is None else tuple(None if axis is None else int(axis) for axis in given)


def _classes(said: dict[str, Any]) -> tuple[Any, ...] | None:
    given = said.get("classes")
    if not isinstance(given, list) or not all(isinstance(name, (int, str)) for name in given):
        return None
    return tuple(given)


def _signature(description: str, said: dict[str, Any]) -> SuspectSignature:
    names = [str(name) for name in said["outputs"]]
    dtype = np.dtype(object) if said["dtype"] == "|O" else np.dtype(str(said["dtype"]))
    return SuspectSignature(
        description, str(said["input"]), _shape(said["shape"]), dtype, str(said["output"]), tuple(names)
    )
