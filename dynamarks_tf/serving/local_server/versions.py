"""One version of a model: its folder on disk, its state from loading to end, and the requests that hold it."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from dynamarks_tf import foreign_text
from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.local_server.served_model import ServedModel
from dynamarks_tf.serving.local_server.warm_up import warm_up
from dynamarks_tf.serving.protocol.status import Code, StatusError

LOG = foreign_text.logger(__name__)

State = get_model_status_pb2.ModelVersionStatus

_NUMERIC = re.compile(r"[0-9]+")
_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


def scan_versions(base_path: Path) -> dict[int, Path]:
    """Finds the versions in a model's folder: the children whose name is a number, as in TensorFlow Serving.

    Raises:
        OSError: there is no such folder.
    """
    return {int(child.name): child for child in sorted(base_path.iterdir()) if _NUMERIC.fullmatch(child.name)}


def find_versions(base_path: str | os.PathLike[str]) -> dict[int, Path]:
    """Finds the versions in a model's folder, which must have at least one.

    Args:
        base_path: the model's folder, with one numbered folder per version.

    Returns:
        The folders by version.

    Raises:
        ServingError: there is no such folder, or no version in it.
    """
    base = Path(base_path).absolute()
    if not base.is_dir():
        raise ServingError(f"{base} is not a folder. Give the folder that holds one numbered folder for each version.")
    versions = scan_versions(base)
    if versions:
        return versions
    if any((base / name).exists() for name in _SAVED_MODEL_FILES):
        raise ServingError(
            f"{base} is a version itself, because it holds a saved_model.pb. Give the folder above it, {base.parent}. "
            "The name of each version's folder must be a number; rename this one if it is not."
        )
    raise ServingError(
        f"{base} holds no version: none of its folders has a number as its name. Export a model to {base / '1'}."
    )


class Version:
    """One version, from the discovery of its folder to its end.

    Args:
        name: the name clients ask for.
        number: the version.
        path: its folder.

    Attributes:
        state: its state, for the status call.
        error: the reason why it could not be loaded; `None` if there is none.
    """

    def __init__(self, name: str, number: int, path: Path) -> None:
        self.name = name
        self.number = number
        self.path = path
        self.state: int = State.START
        self.error: StatusError | None = None
        self._model: ServedModel | None = None
        self._users = 0
        self._lock = threading.Lock()

    @property
    def is_available(self) -> bool:
        """Whether requests are answered."""
        return bool(self.state == State.AVAILABLE)

    def load(self) -> None:
        """Loads the model and warms it up.

        Raises:
            ServingError: it cannot be loaded or warmed up. `state` and `error` are set then.
        """
        self.state = State.LOADING
        try:
            self._model = ServedModel(self.path, name=self.name, version=self.number)
            warm_up(self._model)
        except ServingError as error:
            self._free()
            self.error = _load_status(error)
            self.state = State.END
            raise
        self.state = State.AVAILABLE
        LOG.info("loaded version %d of %s from %s", self.number, self.name, self.path)

    def acquire(self) -> ServedModel | None:
        """Returns the model, which stays loaded until `release` is called; `None` if it no longer answers."""
        with self._lock:
            if not self.is_available:
                return None
            self._users += 1
            return self._model

    def release(self) -> None:
        """Ends what `acquire` began."""
        with self._lock:
            self._users -= 1
            self._end_if_unused()

    def unload(self) -> None:
        """Takes no more requests, and frees the model once those under way have been answered."""
        with self._lock:
            if self.is_available:
                self.state = State.UNLOADING
                LOG.info("unloading version %d of %s", self.number, self.name)
                self._end_if_unused()

    def close(self) -> None:
        """Frees the model at once; runs under way are canceled."""
        with self._lock:
            self.state = State.END
            self._free()

    def _end_if_unused(self) -> None:
        if self.state == State.UNLOADING and not self._users:
            self._free()
            self.state = State.END

    def _free(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None


def _load_status(error: ServingError) -> StatusError:
    """Returns the status of a failed load for the status call, with TensorFlow's own code if it gave one."""
    cause = error.__cause__
    if isinstance(cause, StatusError):
        return StatusError(cause.code, str(error))
    if isinstance(cause, tf.errors.OpError):
        return StatusError(Code(cause.error_code), str(error))
    return StatusError(Code.NOT_FOUND if isinstance(cause, OSError) else Code.UNKNOWN, str(error))
