"""The versions of a model on disk, and the one of them that is served."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from dynamarks_tf.errors import ServingError
from dynamarks_tf.local_server.served_model import ServedModel
from dynamarks_tf.local_server.status import Code, StatusError, invalid

_NUMERIC = re.compile(r"[0-9]+")
_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


def find_versions(base_path: str | os.PathLike[str]) -> dict[int, Path]:
    """Finds the versions in a model's folder: the children with a number for a name, as in TensorFlow Serving.

    Args:
        base_path: the model's folder, with one numbered folder a version.

    Returns:
        The folders by version; at least one.

    Raises:
        ServingError: there is no such folder, or no version in it.
    """
    base = Path(base_path).absolute()
    if not base.is_dir():
        raise ServingError(f"{base} is not a folder. Give the folder that holds one numbered folder for each version.")
    versions = {int(child.name): child for child in sorted(base.iterdir()) if _NUMERIC.fullmatch(child.name)}
    if versions:
        return versions
    if any((base / name).exists() for name in _SAVED_MODEL_FILES):
        raise ServingError(
            f"{base} is a version itself: it has a saved_model.pb in it. Give the folder above, {base.parent}, in "
            "which each version is a folder with a number for a name; rename this one if it has none."
        )
    raise ServingError(
        f"{base} holds no version: none of its folders has a number for a name. Export a model to {base / '1'}."
    )


class Repository:
    """One model and its loaded versions.

    Args:
        base_path: the model's folder, with one numbered folder a version. The highest one is loaded.
        name: the name clients ask for; the folder's own name if not given.

    Raises:
        ServingError: there is no version, or the highest one cannot be loaded.
    """

    def __init__(self, base_path: str | os.PathLike[str], *, name: str | None = None) -> None:
        self.name = name or model_name(base_path)
        versions = find_versions(base_path)
        newest = max(versions)
        self._models = {newest: ServedModel(versions[newest], name=self.name, version=newest)}

    @property
    def latest(self) -> ServedModel:
        """The model that answers requests which name no version."""
        return self._models[max(self._models)]

    def find(self, spec: model_pb2.ModelSpec) -> ServedModel:
        """Finds the model a request is for.

        Args:
            spec: the name and, if wanted, the version or label that the request gives.

        Raises:
            StatusError: NOT_FOUND, or INVALID_ARGUMENT for a label or an empty name, as in TensorFlow Serving.
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.HasField("version_label"):  # labels are given by TensorFlow Serving's config file only
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        version = spec.version.value if spec.HasField("version") else None
        if spec.name == self.name:
            if version is None:
                return self.latest
            if version in self._models:
                return self._models[version]
        wanted = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
        raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")

    def states(self, name: str) -> dict[int, get_model_status_pb2.ModelVersionStatus.State]:
        """Returns the state of every known version of a model, highest first; empty if the model is unknown."""
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return {version: available for version in sorted(self._models, reverse=True) if name == self.name}

    def close(self) -> None:
        """Unloads everything."""
        for model in self._models.values():
            model.close()


def model_name(base_path: str | os.PathLike[str]) -> str:
    """Returns the name a model is served under when none is given: that of its folder."""
    return Path(base_path).resolve().name or "default"
