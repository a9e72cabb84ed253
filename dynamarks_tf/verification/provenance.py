"""What a test was about, so that it can be pinned down later: digest of the suspect, versions of the packages."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path
from typing import Any

import keras

from dynamarks_tf._support import files
from dynamarks_tf._support.digests import json_digest
from dynamarks_tf._version import __version__
from dynamarks_tf.errors import ModelError
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.watermark.model_digest import model_sha256


def suspect_sha256(suspect: Any) -> str | None:
    """Digest of what is tested, where it can be pinned down: a file, a folder, a Keras model in memory."""
    if isinstance(suspect, KerasSuspect) and suspect.path is not None:
        return files.file_sha256(suspect.path)
    if isinstance(suspect, keras.Model):
        try:
            return model_sha256(suspect)
        except ModelError:  # a model in memory that Keras cannot describe
            return None
    if not isinstance(suspect, (str, os.PathLike)) or not os.path.exists(suspect):
        return None
    path = Path(suspect)
    if path.is_file():
        return files.file_sha256(path)
    found = {str(file.relative_to(path)): files.file_sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return json_digest(found)


def package_versions() -> dict[str, str]:
    """Versions of what took part in a verification."""
    modules = (importlib.import_module(name) for name in ("tensorflow", "keras", "numpy", "cryptography"))
    return {
        "dynamarks_tf": __version__,
        "python": platform.python_version(),
        # Not what pip calls them: TensorFlow also comes as tensorflow-cpu, tf-nightly and others.
        **{module.__name__: module.__version__ for module in modules},
    }
