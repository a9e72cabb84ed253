"""One digest for what a Keras model computes: the same for its saved copy, another for any other function.

Two models with one digest have the same graph, the same options and the same numbers in it. Names, training settings
and the order in which layers were made do not count, because they change nothing that a client sees.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import marshal
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from dynamarks_tf.errors import ModelError
from dynamarks_tf.watermark.outputs import overrides_call

_PLAIN = (str, int, float, bool)
_LIBRARIES = ("keras", "keras_hub", "builtins", "dynamarks_tf", "tensorflow", "numpy")
_TENSOR = "__keras_tensor__"
_NOT_COMPUTED = ("build_config", "compile_config", "shared_object_id", "inbound_nodes", "build_input_shape")


def model_sha256(model: keras.Model) -> str:
    """Digest of the function that a model computes at inference, 64 hexadecimal digits.

    It is the same for a model and its saved and loaded copy, compiled or not, whatever its layers are called. It is
    another if a weight, a constant, a vocabulary, an option of a layer, the wiring or the code of a `Lambda` differs.
    Options that are `None`, or `False` by default, do not count, so that a release of Keras that adds some changes
    nothing.

    Code that no model file holds is named but not read: what a registered class of the owner computes does not count.
    `code_outside` lists such names. Bytecode of a `Lambda` depends on the version of Python, as its file does.
    A model with LoRA counts as Keras saves it, with the two small matrices merged into the large one.

    Args:
        model: a Keras model with its weights.

    Raises:
        ModelError: Keras cannot describe the model, so that it could not be saved either.

    Example:

    >>> model_sha256(dm.strip(dm.mark(model, key))) == model_sha256(model)
    True
    """
    return _Description().of_object(model)


def code_outside(model: keras.Model) -> tuple[str, ...]:
    """Names of classes and functions that the model uses and that are neither Keras' nor in its file, sorted.

    The digest holds their names and settings, not what they compute.

    Args:
        model: a Keras model with its weights.

    Raises:
        ModelError: Keras cannot describe the model.
    """
    description = _Description()
    description.of_object(model)
    return tuple(sorted(description.outside))


class _Description:
    """Turns layers into digests, and remembers which code it met that no file holds."""

    def __init__(self) -> None:
        self.outside: set[str] = set()

    def of_object(self, layer: keras.Layer) -> str:
        """Digest of a layer or model with its state."""
        try:
            if getattr(layer, "outputs", None) and not overrides_call(layer):
                # What it computes is its graph, whatever class it is of and whatever that class writes down.
                is_chain = isinstance(layer, keras.Sequential)
                ends = (layer.inputs[0], layer.outputs[0]) if is_chain else (layer.input, layer.output)
                layer = keras.Model(*ends, name=layer.name)
            entry = keras.saving.serialize_keras_object(layer)
            return _hash(self._entry(entry, layer))
        except ModelError:
            raise
        except Exception as error:  # a get_config of the owner raises whatever it likes
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"Model {layer.name!r} has no digest, because Keras cannot describe it: {type(error).__name__}: "
                f"{reason:.300}. Give each class of your own a get_config() with the arguments of its constructor."
            ) from error

    def _entry(self, entry: Mapping[str, Any], layer: Any = None) -> Any:
        """An object as Keras writes it: its class, its options and, if the object is at hand, its state."""
        config = entry.get("config")
        if isinstance(config, Mapping) and "output_layers" in config and "layers" in config:
            return ["graph", self._class(entry), self._graph(config, layer), _own_state(layer)]
        if entry.get("class_name") == "Sequential" and isinstance(config, Mapping) and "layers" in config:
            inner = _by_name(layer)
            held = [*getattr(layer, "_layers", ())]
            held = held if len(held) == len(config["layers"]) else [None] * len(config["layers"])
            chain = [  # by its place, where the configuration of an owner's class holds no name
                self._entry(one, _found(one, inner.get(one["config"].get("name"), other), layer))
                for one, other in zip(config["layers"], held, strict=True)
            ]
            return ["chain", self._class(entry), chain, _own_state(layer)]
        if isinstance(config, Mapping) and "code" in config and entry.get("class_name") == "__lambda__":
            code = _code(marshal.loads(base64.b64decode(config["code"])))
            return ["lambda", code, self._value(config.get("defaults")), self._value(config.get("closure"))]
        if entry.get("class_name") == "function":
            self._remember(entry, str(config))
        options = self._options(entry, config) if isinstance(config, Mapping) else self._value(config)
        return ["object", self._class(entry), options, [] if layer is None else list(_states(layer))]

    def _class(self, entry: Mapping[str, Any]) -> Any:
        module, name = str(entry.get("module")), str(entry.get("class_name"))
        if name in ("Functional", "Model", "Sequential") and module.partition(".")[0] == "keras":
            return "keras"
        if name != "function":
            self._remember(entry, name)
        return [module, name, entry.get("registered_name")]

    def _remember(self, entry: Mapping[str, Any], name: str) -> None:
        module = entry.get("module")
        if module is not None and str(module).partition(".")[0] not in _LIBRARIES:
            self.outside.add(f"{module}.{name}")

    def _options(self, entry: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
        cls = _class_of(entry)
        is_operation = "trainable" in config or (cls is not None and issubclass(cls, keras.Operation))
        dropped = {"name", "trainable"} if is_operation else set()
        if "vocabulary" in config:
            dropped.add("vocabulary_size")  # what the table held when it was last asked; the table itself counts
        kept = {
            key: value
            for key, value in config.items()
            if key not in dropped and not (value is False and _is_false_by_default(cls, key))
        }
        return self._value(kept)

    def _value(self, value: Any) -> Any:
        """A value in a form that JSON keeps apart from every other."""
        if value is None or isinstance(value, _PLAIN):
            return value
        if isinstance(value, Mapping):
            if value.get("class_name") == "__tuple__":
                return self._value(value.get("items", value.get("config")))
            if "class_name" in value and "config" in value:
                return self._entry(value)
            items = {str(key): self._value(one) for key, one in value.items() if one is not None}
            return ["dict", {key: one for key, one in items.items() if key not in _NOT_COMPUTED}]
        if isinstance(value, (list, tuple)):
            return ["list", [self._value(one) for one in value]]
        if isinstance(value, bytes):
            return ["bytes", value.hex()]
        return self._value(keras.saving.serialize_keras_object(value))

    def _graph(self, config: Mapping[str, Any], model: Any) -> Any:
        """Digests of the outputs, each made of the digests of what it is computed from."""
        inner = _by_name(model)
        entries = {one.get("name") or one["config"]["name"]: one for one in config["layers"]}
        tensors: dict[tuple[str, int], str] = {}
        for number, (place, (name, node, _)) in enumerate(_leaves(config["input_layers"])):
            tensors[name, node] = _hash(["input", number, place, self._entry(entries[name])])
        layers = {name: _hash(self._entry(one, _found(one, inner.get(name), model))) for name, one in entries.items()}
        outputs = list(_leaves(config["output_layers"]))
        waiting = {
            (name, number): call
            for name, one in entries.items()
            for number, call in enumerate(one.get("inbound_nodes") or ())
        }
        while waiting:
            ready = []
            for key, call in waiting.items():
                arguments = self._arguments(call, tensors)
                if arguments is not None:
                    tensors[key] = _hash(["call", layers[key[0]], arguments])
                    ready.append(key)
            if not ready:
                break  # what is left is not computed from the inputs
            waiting = {key: call for key, call in waiting.items() if key not in ready}
        # Among outputs, Keras counts the calls of a model from 1: the first is the one that it was made with.
        return [
            [place, tensors[name, node - _is_functional(entries[name])], index]
            for place, (name, node, index) in outputs
        ]

    def _arguments(self, call: Any, tensors: Mapping[tuple[str, int], str]) -> Any:
        """The arguments of a call, with digests for tensors; `None` if one of them is still unknown."""
        known = True

        def replaced(value: Any) -> Any:
            nonlocal known
            if isinstance(value, Mapping) and value.get("class_name") == _TENSOR:
                name, node, index = value["config"]["keras_history"]
                found = tensors.get((name, node))
                known = known and found is not None
                return ["tensor", found, index]
            if isinstance(value, Mapping) and not {"class_name", "config"} <= set(value):
                return ["dict", {str(key): replaced(one) for key, one in value.items() if one is not None}]
            if isinstance(value, (list, tuple)):
                return ["list", [replaced(one) for one in value]]
            return self._value(value)

        arguments = replaced(call)
        return arguments if known else None


def _leaves(structure: Any, place: str = "") -> Iterator[tuple[str, tuple[str, int, int]]]:
    """The references `[layer, call, output]` in the structure that a graph names its inputs or outputs in."""
    if isinstance(structure, Mapping):
        if structure.get("class_name") == "__tuple__":
            yield from _leaves(structure.get("items", structure.get("config")), place)
            return
        for key in sorted(structure):
            yield from _leaves(structure[key], f"{place}/{key}")
    elif len(structure) == 3 and isinstance(structure[0], str):
        yield place, (structure[0], int(structure[1]), int(structure[2]))
    else:
        for one in structure:
            yield from _leaves(one, place)


def _by_name(model: Any) -> dict[str, Any]:
    """The layers and operations of a model."""
    inside: Any = getattr(model, "operations", None) or getattr(model, "layers", ())
    return {one.name: one for one in inside}


def _found(entry: Mapping[str, Any], layer: Any, model: Any) -> Any:
    """The layer behind an entry of a model that is at hand: without it, the digest would not cover its weights."""
    if layer is None and model is not None and entry.get("class_name") != "InputLayer":
        raise ModelError(
            f"Model {model.name!r} has no digest: the layer that its configuration calls {entry.get('name')!r:.80} is "
            "not among its layers. Let get_config() of your own class keep the name of the layer."
        )
    return layer if isinstance(layer, keras.Layer) else None  # operations hold nothing


def _class_of(entry: Mapping[str, Any]) -> type | None:
    """The class of a serialized object, if it is loaded."""
    found = keras.saving.get_registered_object(entry.get("registered_name") or "")
    if found is None:
        found = getattr(sys.modules.get(str(entry.get("module"))), str(entry.get("class_name")), None)
    return found if inspect.isclass(found) else None


def _is_functional(entry: Mapping[str, Any]) -> bool:
    is_graph = isinstance(entry["config"], Mapping) and "output_layers" in entry["config"]
    bases = getattr(_class_of(entry), "__mro__", ())
    return is_graph or any(base.__name__ == "Functional" and base.__module__.startswith("keras.") for base in bases)


def _is_false_by_default(cls: type | None, key: str) -> bool:
    """Whether `False` is what the constructor takes where nothing is given: elsewhere it may mean 0."""
    while cls is not None and cls is not object:
        try:
            parameter = inspect.signature(cls.__init__).parameters.get(key)  # type: ignore[misc]
        except (TypeError, ValueError):
            return False
        if parameter is not None:
            return parameter.default is False
        cls = cls.__mro__[1]
    return False


def _states(layer: Any) -> Iterator[Any]:
    """Digests of what a layer and the layers inside it hold beside their options."""
    for one in layer._flatten_layers():
        yield _own_state(one)


def _own_state(layer: Any) -> Any:
    if layer is None:
        return []
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    held = [[key, _array_hash(value)] for key, value in sorted(store.items())]
    return [held, _vocabulary(layer), _assets(layer)]


def _array_hash(value: Any) -> str:
    array = np.ascontiguousarray(ops.convert_to_numpy(value))
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _vocabulary(layer: Any) -> Any:
    # Only what is neither in the options nor an asset differs here: a table that was replaced after it was made.
    if not hasattr(layer, "get_vocabulary"):
        return None
    try:
        return [str(word) for word in layer.get_vocabulary()]
    except Exception:  # a table that was not filled yet
        return None


def _assets(layer: Any) -> Any:
    """Digests of the files that Keras would write beside the weights."""
    if not hasattr(layer, "save_assets"):
        return []
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        return [
            [os.path.relpath(os.path.join(parent, name), folder), _file_hash(os.path.join(parent, name))]
            for parent, folders, names in os.walk(folder)
            for name in (folders.sort() or sorted(names))
        ]


def _file_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _code(code: types.CodeType) -> Any:
    """What a code object does, without where it was written."""
    constants = [_code(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    return [code.co_code.hex(), constants, [list(one) for one in names], counts]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
