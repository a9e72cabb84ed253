"""What a test was about, so that it can be pinned down later: digest of the suspect, versions of the packages."""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any

import keras

from dynamarks_tf._support import files
from dynamarks_tf._support.digests import json_digest
from dynamarks_tf._version import __version__
from dynamarks_tf.errors import ModelError
from dynamarks_tf.suspects import Suspect
from dynamarks_tf.suspects.isolated import IsolatedSuspect
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.watermark.model_digest import model_sha256


def suspect_sha256(suspect: Any, adapter: Suspect) -> str | None:
    """Digest of what is tested, where it can be pinned down: a Keras model in memory, or all files that answer.

    Args:
        suspect: what the caller gave.
        adapter: what asks it.
    """
    if isinstance(suspect, keras.Model):
        try:
            return model_sha256(suspect)
        except ModelError:  # a model in memory that Keras cannot describe
            return None
    if isinstance(adapter, IsolatedSuspect) and adapter.files != (adapter.path,):
        folder = adapter.path if adapter.path.is_dir() else adapter.path.parent
        return json_digest({str(file.relative_to(folder)): files.file_sha256(file) for file in adapter.files})
    path = adapter.path if isinstance(adapter, (IsolatedSuspect, KerasSuspect)) else suspect
    return files.file_sha256(path) if isinstance(path, (str, os.PathLike)) and os.path.isfile(path) else None


def package_versions() -> dict[str, str]:
    """Versions of what took part in a verification."""
    modules = (importlib.import_module(name) for name in ("tensorflow", "keras", "numpy", "cryptography"))
    return {
        "dynamarks_tf": __version__,
        "python": platform.python_version(),
        # Not what pip calls them: TensorFlow also comes as tensorflow-cpu, tf-nightly and others.
        **{module.__name__: module.__version__ for module in modules},
    }
