"""From whatever names a suspect to the adapter that asks it."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects.addresses import GRPC_FORM, REST_FORM, parse_grpc, shown
from dynamarks_tf.suspects.base import Suspect
from dynamarks_tf.suspects.function import FunctionSuspect
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.suspects.saved_model import SavedModelSuspect
from dynamarks_tf.suspects.tf_serving_grpc import GrpcSuspect
from dynamarks_tf.suspects.tf_serving_rest import RestSuspect

ACCEPTED = (
    "a Keras model, a function from a batch to probabilities, a path (.keras or .h5 file, SavedModel folder), or a URL "
    f"({GRPC_FORM}; {REST_FORM})"
)


def as_suspect(suspect: Any, *, timeout_s: float = 30.0) -> Suspect:
    """Finds the adapter for a suspect.

    Args:
        suspect: a Keras model, a callable on a batch, the path of a `.keras` or `.h5` file or of a SavedModel folder,
            the URL of a served model, or a `Suspect`, which is returned as it is.
        timeout_s: seconds that a server may take for one answer.

    Returns:
        The suspect, ready to be asked.

    Raises:
        ArgumentError: `suspect` is none of these, or a URL of another form.
        SuspectError: there is no such file, or it cannot be loaded; the server cannot be reached or does not know the
            model.

    Example:
        >>> as_suspect("grpc://localhost:8500/clf").predict(images).shape
        (256, 10)
    """
    if isinstance(suspect, (str, os.PathLike)):
        text = os.fspath(suspect)
        return _at_address(text, timeout_s) if "://" in text else _at_path(Path(text))
    if _is_keras_model(suspect):
        return KerasSuspect(suspect)
    if isinstance(suspect, Suspect) and not inspect.isclass(suspect):
        return suspect
    if callable(suspect) and not inspect.isclass(suspect):
        return FunctionSuspect(suspect)
    raise ArgumentError(f"{_name(suspect)} is no suspect; accepted: {ACCEPTED}.")


def _at_address(url: str, timeout_s: float) -> Suspect:
    scheme = url.partition("://")[0].strip()
    if scheme == "grpc":
        address = parse_grpc(url)
        return GrpcSuspect(address.host, address.port, address.name, address.version, timeout_s=timeout_s)
    if scheme in ("http", "https"):
        return RestSuspect(url, timeout_s=timeout_s)
    raise ArgumentError(f"{shown(url)!r} is no suspect; accepted: {ACCEPTED}.")


def _at_path(path: Path) -> Suspect:
    if path.is_dir():
        return SavedModelSuspect(path)
    if not path.exists():
        raise SuspectError(f"There is no file or folder {shown(str(path))}; accepted: {ACCEPTED}.")
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ArgumentError(f"{path} is no suspect; accepted: {ACCEPTED}.")
    return KerasSuspect(path)


def _is_keras_model(suspect: Any) -> bool:
    keras = sys.modules.get("keras")  # whoever has a Keras model has imported Keras
    return keras is not None and isinstance(suspect, keras.Model)


def _name(suspect: Any) -> str:
    return f"The class {suspect.__name__}" if inspect.isclass(suspect) else f"A {type(suspect).__name__}"
