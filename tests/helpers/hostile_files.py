"""Model files that an adversary could hand over. `CASES` names each after what it tries."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SECRET = "/etc/hostname"  # any file of the machine


# Keras


def _keras(path: Path, layer: dict[str, Any], *, module: str = "keras.layers", **members: bytes) -> Path:
    """A `.keras` file with one layer, written by hand, as the adversary would."""
    shape = {"batch_shape": [None, 1], "dtype": "string", "name": "x"}
    layers = [
        {"class_name": "InputLayer", "module": "keras.layers", "registered_name": None, "config": shape, "name": "x"},
        {"module": module, "registered_name": None, "name": "hostile", **layer},
    ]
    config = {
        "module": "keras",
        "class_name": "Sequential",
        "registered_name": None,
        "config": {"name": "model", "layers": layers},
        "build_config": {"input_shape": [None, 1]},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.0"}))
        archive.writestr("config.json", json.dumps(config))
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _layer(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": name, "config": {"name": "hostile", **config}}


def _lambda_layer(folder: Path) -> Path:
    function = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
    return _keras(folder / "lambda.keras", _layer("Lambda", function=function))


def _lambda_h5(folder: Path) -> Path:
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": [_layer("Lambda", function=["4wEA"])]}}
    return _h5(folder / "lambda.h5", lambda file: file.attrs.__setitem__("model_config", json.dumps(config)))


def _both(folder: Path) -> Path:
    """HDF5 to Keras, which goes by the name, and an archive of harmless layers to whoever looks at its end."""
    path, harmless = _lambda_h5(folder), _keras(folder / "harmless.keras", _layer("Flatten"))
    path.write_bytes(path.read_bytes() + harmless.read_bytes())
    harmless.unlink()
    return path


def _trained(folder: Path) -> Path:
    """How the model itself was trained is not read; of one inside it, Keras does so."""
    metric = {"module": "keras.layers", "registered_name": None, **_layer("StringLookup", vocabulary=SECRET)}
    return _keras(folder / "trained.keras", {**_layer("Sequential"), "compile_config": {"metrics": [metric]}})


def _type_spec(folder: Path) -> Path:
    spec = {"class_name": "__typespec__", "spec_name": "TFSMLayer", "module": "keras.layers", "config": [str(folder)]}
    return _keras(folder / "spec.keras", _layer("Activation", activation=spec))


def _deep_module(folder: Path) -> Path:
    fetching = {"module": "keras.src.utils.file_utils", "class_name": "function", "config": "get_file"}
    return _keras(folder / "deep.keras", _layer("Activation", activation=fetching))


def _packed_weights(folder: Path) -> Path:
    return _keras(folder / "npz.keras", _layer("Flatten"), **{"model.weights.npz": b""})


def _vocabulary(layer: str) -> Callable[[Path], Path]:
    return lambda folder: _keras(folder / f"{layer}.keras", _layer(layer, vocabulary=SECRET))


def _other_model(folder: Path) -> Path:
    return _keras(folder / "other.keras", _layer("TFSMLayer", filepath=str(folder), call_endpoint="serve"))


def _module(folder: Path) -> Path:
    return _keras(folder / "module.keras", {**_layer("system"), "registered_name": "os>system"}, module="os")


def _download(folder: Path) -> Path:
    fetching = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "function"}
    return _keras(folder / "download.keras", _layer("Activation", activation=fetching))


def _archive_bomb(folder: Path) -> Path:
    return _keras(folder / "bomb.keras", _layer("Flatten"), **{"model.weights.h5": bytes(80 << 20)})


def _archive_escape(folder: Path) -> Path:
    return _keras(folder / "escape.keras", _layer("Flatten"), **{"assets/../../escaped": b"x"})


def _h5(path: Path, fill: Callable[[Any], Any]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        fill(file)
    return path


def _h5_link(folder: Path) -> Path:
    import h5py

    return _h5(folder / "link.h5", lambda file: file.__setitem__("weights", h5py.ExternalLink("other.h5", "/w")))


def _h5_outside(folder: Path) -> Path:
    return _h5(
        folder / "outside.h5",
        lambda file: file.create_dataset("w", (4,), "u1", external=[(SECRET, 0, 4)]),
    )


def _h5_declared(folder: Path) -> Path:
    return _h5(folder / "declared.h5", lambda file: file.create_dataset("w", (1 << 40,), "f4", chunks=(1024,)))


# ONNX


def _onnx(path: Path, nodes: list[Any], tensors: list[Any] = (), *, domains: tuple[str, ...] = ("",)) -> Path:  # type: ignore[assignment]
    import onnx

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "model",
        [value("x", onnx.TensorProto.FLOAT, [None, 4])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [*tensors],
    )
    opsets = [onnx.helper.make_opsetid(domain, 17 if not domain else 1) for domain in domains]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


def _onnx_domain(domain: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import onnx

        node = onnx.helper.make_node("EPContext", ["x"], ["y"], domain=domain, name="n\x1b[2J")
        return _onnx(folder / "domain.onnx", [node], domains=("", domain))

    return write


def _onnx_filled(folder: Path) -> Path:
    """The 200 bytes that took 2 GB."""
    import onnx

    size = onnx.numpy_helper.from_array(np.array([500_000_000]), "size")
    return _onnx(folder / "filled.onnx", [onnx.helper.make_node("ConstantOfShape", ["size"], ["y"])], [size])


def _onnx_declared(folder: Path) -> Path:
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1 << 30])
    return _onnx(folder / "declared.onnx", [onnx.helper.make_node("Identity", ["w"], ["y"])], [tensor])


def _onnx_outside(location: str, *, linked: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if linked:
            (folder / location).symlink_to(SECRET)
        return onnx_with_weights_beside(folder / "outside.onnx", location)

    return write


def onnx_with_weights_beside(path: Path, location: str) -> Path:
    """An ONNX model `x + w` whose w, four numbers, lies in another file."""
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value=location)
    return _onnx(path, [onnx.helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


# TFLite


def _tflite(path: Path, *, custom: bytes | None = None, shape: tuple[int, ...] = (1, 4)) -> Path:
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    if custom is not None:
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = custom
    tensors = [schema.TensorT(), schema.TensorT()]
    for name, tensor in zip((b"x", b"y"), tensors, strict=True):
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), schema.TensorType.FLOAT32, 0
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return path


def _tflite_custom(folder: Path) -> Path:
    return _tflite(folder / "flex.tflite", custom=b"FlexReadFile")


def _tflite_declared(folder: Path) -> Path:
    return _tflite(folder / "declared.tflite", shape=(1 << 15, 1 << 15))


# SavedModel


def saved_model(folder: Path) -> Path:
    """A SavedModel with a signature for each thing that it tries: `read`, `write`, `loop`, `harmless`.

    Files are `secret` and `written` beside its folder.
    """
    import tensorflow as tf

    beside = folder.parent

    class Hostile(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
        def read(self, x: Any) -> Any:
            return {
                "probabilities": x + tf.cast(tf.strings.length(tf.io.read_file(str(beside / "secret"))), tf.float32)
            }

        @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
        def write(self, x: Any) -> Any:
            with tf.control_dependencies([tf.io.write_file(str(beside / "written"), "x")]):
                return {"probabilities": x + 0.0}

        @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
        def loop(self, x: Any) -> Any:
            return {"probabilities": tf.while_loop(lambda i: i > -1.0, lambda i: [i + 1.0], [0.0])[0] + x}

        @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
        def harmless(self, x: Any) -> Any:
            return {"probabilities": x * 2.0}

    module = Hostile()
    names = ("read", "write", "loop", "harmless")
    tf.saved_model.save(module, str(folder), signatures={name: getattr(module, name) for name in names})
    return folder


def _read_and_write(folder: Path) -> Path:
    return saved_model(folder / "model")


def _initializer(folder: Path) -> Path:
    """Loading alone writes a file."""
    import tensorflow as tf

    class Resource(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            return tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int64)

        def _initialize(self) -> None:
            tf.io.write_file(str(folder / "written"), "x")

    module = tf.Module()
    module.resource = Resource()
    module.call = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec((None, 2), name="x")])
    tf.saved_model.save(module, str(folder / "model"), signatures=module.call)
    return folder / "model"


def _large_constant(folder: Path) -> Path:
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    node = content.meta_graphs.add().graph_def.node.add(name="c", op="Const")
    node.attr["value"].tensor.dtype = 1
    node.attr["value"].tensor.tensor_shape.dim.add(size=1 << 40)
    (folder / "model").mkdir()
    (folder / "model" / "saved_model.pb").write_bytes(content.SerializeToString())
    return folder / "model"


def _pipe(folder: Path) -> Path:
    path = _large_constant(folder)
    (path / "variables").mkdir()
    os.mkfifo(path / "variables" / "variables.index")
    return path


def _linked_variables(folder: Path) -> Path:
    path = _large_constant(folder)
    os.symlink("/etc", path / "variables")
    return path


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "SavedModel that reads and writes files": (
        _read_and_write,
        r"node \w+ of its function \S+ is the operator (Read|Write)File",
    ),
    "SavedModel whose initializer writes": (
        _initializer,
        r"of its function \S*initializer\S* is the operator WriteFile",
    ),
    "SavedModel with a constant of 8 TB": (_large_constant, "constants of its graph would take 8,796,093 MB in memory"),
    "SavedModel with a pipe": (_pipe, "variables/variables.index is no regular file"),
    "SavedModel with a link to a folder": (_linked_variables, "variables is a link"),
    "Keras: Lambda layer": (_lambda_layer, "it holds the code of a Lambda layer"),
    "Keras: Lambda layer in HDF5": (_lambda_h5, "it holds the code of a Lambda layer"),
    "Keras: Lambda layer in HDF5 that is an archive too": (_both, "it holds the code of a Lambda layer"),
    "Keras: file in how a model inside was trained": (_trained, "vocabulary of a layer is the path of a file"),
    "Keras: type made from arguments": (_type_spec, "it holds a type that is made from arguments, __typespec__"),
    "Keras: get_file by its inner name": (_deep_module, "function of keras.src.utils.file_utils is no part of a model"),
    "Keras: weights in NPZ": (_packed_weights, "it holds model.weights.npz, which no Keras model has"),
    "Keras: StringLookup of a file": (_vocabulary("StringLookup"), "vocabulary of a layer is the path of a file"),
    "Keras: IntegerLookup of a file": (_vocabulary("IntegerLookup"), "vocabulary of a layer is the path of a file"),
    "Keras: TextVectorization of a file": (_vocabulary("TextVectorization"), "vocabulary of a layer is the path of a"),
    "Keras: layer that opens a SavedModel": (_other_model, "a layer that opens a SavedModel, TFSMLayer"),
    "Keras: os.system as a layer": (_module, "cannot be loaded as a Keras model: system of os is not known here"),
    "Keras: get_file as an activation": (_download, "function of keras.utils is no part of a model"),
    "Keras: 84 MB in 84 kB": (_archive_bomb, "its unpacked members would take 84 MB in memory"),
    "Keras: member outside the archive": (_archive_escape, "it holds assets/../../escaped, which no Keras model has"),
    "HDF5: link to another file": (_h5_link, "/weights of its weights is a link to elsewhere"),
    "HDF5: weights in another file": (_h5_outside, "/w of its weights lies in another file"),
    "HDF5: 4 TB declared": (_h5_declared, "its weights would take 4,398,047 MB in memory"),
    "ONNX: custom domain": (_onnx_domain("evil"), r"node n\\x1b\[2J is evil:EPContext, which is no standard operator"),
    "ONNX: domain of a runtime": (_onnx_domain("com.microsoft"), "com.microsoft:EPContext, which is no standard"),
    "ONNX: 2 GB in 200 bytes": (_onnx_filled, "the tensor y would take 2,000 MB in memory"),
    "ONNX: tensor declared larger than it is": (_onnx_declared, "its tensor w is declared larger than it is"),
    "ONNX: tensors in a parent folder": (
        _onnx_outside("../weights"),
        "its tensors lie in ../weights, outside its folder",
    ),
    "ONNX: tensors at an absolute path": (_onnx_outside(SECRET), f"its tensors lie in {SECRET}, outside its folder"),
    "ONNX: tensors behind a link": (_onnx_outside("linked", linked=True), "its tensors lie in linked, outside"),
    "TFLite: operator of TensorFlow": (_tflite_custom, "it has the custom operator FlexReadFile"),
    "TFLite: 4 GB declared": (_tflite_declared, "a tensor of it would take 4,295 MB in memory"),
}
"""What is tried, by name: what writes it into an empty folder, and how it is refused."""
