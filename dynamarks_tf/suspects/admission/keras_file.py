"""A Keras file as it lies on disk: sizes, links and the layers that it names, checked before Keras reads it."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamarks_tf._support.json_bounds import check_json
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.refusals import check_declared, reading, refused, shown

_LARGEST_CONFIG = 32 << 20  # bytes
_MOST_MEMBERS = 10_000
_MEMBERS = re.compile(r"(metadata|config|model\.weights)\.json|[\w.]+\.weights\.h5|assets/[^\0]*")
_CODE = {  # classes that hold a program, or open another file
    "Lambda": "the code of a Lambda layer",
    "__lambda__": "the code of a function",
    "__typespec__": "a type that is made from arguments",
    "TFSMLayer": "a layer that opens a SavedModel",
    "TorchModuleWrapper": "a pickled PyTorch module",
    "JaxLayer": "the code of a JAX function",
    "FlaxLayer": "the code of a Flax module",
}
_PATHS = ("vocabulary", "idf_weights", "filepath", "merges", "proto")  # a text there is the path of a file
# What a file may name of Keras: parts of models, and no functions that load or fetch something.
_PARTS = frozenset(
    "layers models initializers regularizers constraints activations random ops dtype_policies quantizers losses "
    "metrics optimizers".split()
)
_PACKAGES = frozenset("builtins keras keras_hub keras_cv keras_nlp".split())
_MODELS = frozenset(("Model", "Functional", "Sequential"))


def check_keras_file(path: Path, description: str) -> None:
    """Checks that a `.keras` or `.h5` file holds layers and weights, and neither code nor paths of other files.

    A file that is neither is left to Keras, which says so.

    Args:
        path: the file.
        description: description of the suspect.

    Raises:
        SuspectError: it holds something else, or sizes out of proportion.
    """
    with reading(description, "a Keras model"):
        if path.suffix in (".h5", ".hdf5"):  # by the name, as Keras does: a file can be HDF5 and an archive at once
            _check_weights(path, path.stat().st_size, description, holds_config=True)
        elif zipfile.is_zipfile(path):
            _check_archive(path, description)


def _check_archive(path: Path, description: str) -> None:
    stored = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS or len({member.filename for member in members}) < len(members):
            raise refused(description, f"it holds more than {_MOST_MEMBERS:,} members, or two of one name.")
        for member in members:
            parts = member.filename.split("/")
            if not _MEMBERS.fullmatch(member.filename) or ".." in parts or "\\" in member.filename:
                raise refused(description, f"it holds {shown(member.filename)}, which no Keras model has.")
        check_declared(description, sum(member.file_size for member in members), stored, "its unpacked members")
        if archive.getinfo("config.json").file_size > _LARGEST_CONFIG:
            raise refused(description, f"its config.json is larger than {_LARGEST_CONFIG >> 20} MB.")
        _check_config(archive.read("config.json"), description)
        for member in members:
            if member.filename.endswith(".h5"):
                with archive.open(member) as file:
                    _check_weights(file, stored, description)


def _check_weights(file: Path | Any, stored: int, description: str, *, holds_config: bool = False) -> None:
    """Checks links and declared sizes of an HDF5 file."""
    import h5py

    declared = 0
    with h5py.File(file, "r") as content:
        for name, group in _groups(content):
            for link in group:
                kind = group.get(link, getlink=True)
                if not isinstance(kind, h5py.HardLink):
                    raise refused(description, f"{shown(f'{name}/{link}')} of its weights is a link to elsewhere.")
                inner = group.get(link, getclass=True)
                if inner is h5py.Dataset:
                    dataset = group[link]
                    if dataset.external or dataset.is_virtual:
                        raise refused(description, f"{shown(f'{name}/{link}')} of its weights lies in another file.")
                    declared += int(dataset.nbytes)
        check_declared(description, declared, stored, "its weights")
        if holds_config and "model_config" in content.attrs:
            _check_config(content.attrs["model_config"], description)


def _groups(content: Any) -> Iterator[tuple[str, Any]]:
    """The groups of an HDF5 file, without following links."""
    import h5py

    waiting, count = [("", content)], 0
    while waiting:
        name, group = waiting.pop()
        yield name, group
        for link in group:
            hard = isinstance(group.get(link, getlink=True), h5py.HardLink)
            if hard and group.get(link, getclass=True) is h5py.Group:
                count += 1
                if count > _MOST_MEMBERS:
                    raise ValueError(f"more than {_MOST_MEMBERS:,} groups of weights")
                waiting.append((f"{name}/{link}", group[link]))


def _check_config(text: str | bytes, description: str) -> None:
    """Checks each object that a configuration names; how the model was trained does not matter and is not read.

    Of models inside the model, Keras does read it.
    """
    check_json(text)
    config = json.loads(text)
    if isinstance(config, dict):
        config.pop("compile_config", None)
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            _check_object(node, description)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _check_object(node: dict[str, Any], description: str) -> None:
    name, module = node.get("class_name"), node.get("module")
    for kind in (name, node.get("registered_name")):
        held = _CODE.get(str(kind).rpartition(">")[2])
        if held is not None:
            raise refused(description, f"it holds {held}, {shown(kind)}.")
    for key in _PATHS:
        if isinstance(node.get(key), str):
            raise refused(description, f"{key} of a layer is the path of a file, {shown(node[key])}.")
    parts = str(module).split(".")
    if isinstance(module, str) and "config" in node and parts[0] not in _PACKAGES and not _is_registered(node):
        raise SuspectError(
            f"{description} cannot be loaded as a Keras model: {shown(name)} of {shown(module)} is not known here. If "
            "it needs layers of its own, load it yourself and pass the model."
        )
    within = parts[2:] if parts[:2] == ["keras", "src"] else parts[1:]
    is_other_part = parts[0] == "keras" and len(parts) > 1 and (not within or within[0] not in _PARTS)
    if is_other_part or (module == "keras.models" and name not in _MODELS):
        raise refused(description, f"{shown(name)} of {shown(module)} is no part of a model.")


def _is_registered(node: dict[str, Any]) -> bool:
    """Whether somebody here gave the class of an object that name."""
    import keras

    names = (node.get("registered_name"), node.get("class_name"))
    return any(isinstance(name, str) and keras.saving.get_registered_object(name) is not None for name in names)
