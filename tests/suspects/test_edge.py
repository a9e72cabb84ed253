"""Suspects in TFLite and ONNX files: numbers in and out, batches, outputs, and runtimes that are not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.isolated import IsolatedSuspect
from dynamarks_tf.suspects.onnx_model import OnnxSuspect
from dynamarks_tf.suspects.tflite import TFLiteSuspect

Array = np.ndarray[Any, Any]


# TFLite


def convert(
    function: Callable[..., Any], shape: tuple[int | None, ...], path: Path, *, int8: bool = False, named: bool = True
) -> Path:
    """Writes a function of one tensor as TFLite, with or without a signature."""
    module = tf.Module()
    module.call = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
    concrete = module.call.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    if int8:
        rows = np.random.default_rng(0).random((32, 1, *shape[1:]), np.float32)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row] for row in rows)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(converter.convert()))
    if not named:
        content.signatureDefs = None
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(content))
    return path


def quantization(path: Path) -> tuple[float, int]:
    """Scale and zero point of the input of a TFLite model that takes int8."""
    graph = flatbuffer_utils.read_model(str(path)).subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    assert tensor.type == schema.TensorType.INT8
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])


WEIGHTS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def softmax(x: Any) -> Any:
    return tf.nn.softmax(tf.matmul(x, WEIGHTS))


@pytest.fixture
def rows() -> Array:
    return np.random.default_rng(2).random((5, 4), np.float32)


def expected(rows: Array) -> Array:
    return np.asarray(softmax(rows))


@pytest.mark.parametrize("named", [True, False])
def test_tflite_whole_numbers_are_converted_by_scale_and_zero_point(tmp_path: Path, rows: Array, named: bool) -> None:
    path = convert(softmax, (None, 4), tmp_path / "m.tflite", int8=True, named=named)
    suspect = TFLiteSuspect(path)
    answers = suspect.predict(rows)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected(rows), atol=0.02)
    np.testing.assert_allclose(answers * 256, np.round(answers * 256), atol=1e-4)  # in steps of 1/256
    with pytest.raises(SuspectError, match="takes int8, and was given NaN or infinity"):
        suspect.predict(np.full((1, 4), np.nan))
    scale, zero_point = quantization(path)
    largest = np.full((10, 4), (127 - zero_point) * scale)
    beyond = largest.copy()
    beyond[0, :3] *= 3
    np.testing.assert_array_equal(suspect.predict(beyond), suspect.predict(largest))  # no overflow
    with pytest.raises(SuspectError, match=r"inputs from 0 to 0\.99\d+; 100% of the values given are beyond"):
        suspect.predict(largest * 3)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_tflite_batches_are_cut_to_the_size_that_the_model_takes(
    tmp_path: Path, rows: Array, named: bool, size: int | None
) -> None:
    suspect = TFLiteSuspect(convert(softmax, (size, 4), tmp_path / "m.tflite", named=named))
    assert suspect.input_shape == (4,)
    for count in (5, 1, 4):
        np.testing.assert_allclose(suspect.predict(rows[:count]), expected(rows[:count]), atol=1e-6)


def test_tflite_output_is_chosen_by_its_name(tmp_path: Path, rows: Array) -> None:
    path = convert(lambda x: {"a": softmax(x), "b": tf.argmax(x, axis=1)}, (None, 4), tmp_path / "m.tflite")
    with pytest.raises(SuspectError, match="has the outputs a, b; it is not clear which to read"):
        as_suspect(path)
    np.testing.assert_array_equal(as_suspect(path, output="b").predict(rows), rows.argmax(axis=1))
    with pytest.raises(SuspectError, match="has no signature 'other'; it has: serving_default"):
        as_suspect(path, signature="other")


def test_tflite_without_signatures_has_none_to_name(tmp_path: Path) -> None:
    path = convert(softmax, (None, 4), tmp_path / "m.tflite", named=False)
    with pytest.raises(SuspectError, match="has no signature 'serving_default'; it has: none"):
        as_suspect(path, signature="serving_default")


def test_tflite_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "damaged.tflite").write_bytes(b"damaged" * 10)
    with pytest.raises(SuspectError, match="damaged.tflite cannot be loaded as a TFLite model: "):
        as_suspect(tmp_path / "damaged.tflite")


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tflite_runs_on_tensorflow_where_litert_is_missing(
    tflite_file: Path, classifier: keras.Model, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    answers = TFLiteSuspect(tflite_file).predict(images)
    np.testing.assert_allclose(answers, classifier.predict(images, verbose=0), atol=1e-5)
    monkeypatch.delattr(tf.lite, "Interpreter")
    with pytest.raises(
        SuspectError, match=r"needs the package ai_edge_litert, .* pip install 'dynamarks_tf\[tflite\]'"
    ):
        TFLiteSuspect(tflite_file)


# ONNX


def write_onnx(path: Path, nodes: list[Any], outputs: list[tuple[str, Any]], arrays: dict[str, Array]) -> Path:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        nodes,
        "model",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 4])],
        [onnx.helper.make_value_info(name, kind) for name, kind in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def labels_and_probabilities(path: Path, *, zipped: list[Any] | None, name: str = "probabilities") -> Path:
    """Labels and probabilities, as converters of scikit-learn write them; `zipped` with a map for each input."""
    onnx = pytest.importorskip("onnx")
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_type_proto
    nodes = [
        node("MatMul", ["x", "weights"], ["logits"]),
        node("Softmax", ["logits"], ["table" if zipped else name], axis=1),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    kind = tensor(onnx.TensorProto.FLOAT, [None, 3])
    if zipped:
        key = "classlabels_strings" if isinstance(zipped[0], str) else "classlabels_int64s"
        key_type = onnx.TensorProto.STRING if isinstance(zipped[0], str) else onnx.TensorProto.INT64
        nodes.append(node("ZipMap", ["table"], [name], domain="ai.onnx.ml", **{key: zipped}))
        value = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
        kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(key_type, value))
    label = ("label", tensor(onnx.TensorProto.INT64, [None]))
    return write_onnx(path, nodes, [label, (name, kind)], {"weights": WEIGHTS})


@pytest.mark.parametrize("name", ["probabilities", "output_probability"])
@pytest.mark.parametrize("zipped", [None, [0, 1, 2], ["shirt", "bag", "shoe"]])
def test_onnx_probabilities_are_read_beside_labels(
    tmp_path: Path, rows: Array, name: str, zipped: list[Any] | None
) -> None:
    suspect = as_suspect(labels_and_probabilities(tmp_path / "m.onnx", zipped=zipped, name=name))
    assert isinstance(suspect, IsolatedSuspect)
    answers = suspect.predict(rows)
    classes = suspect.classes
    assert classes is None if zipped is None else sorted(classes or ()) == sorted(zipped)
    order = range(3) if zipped is None or classes is None else [classes.index(name) for name in zipped]
    np.testing.assert_allclose(answers[:, list(order)], expected(rows), atol=1e-6)


def test_onnx_output_is_chosen_by_its_name(tmp_path: Path, rows: Array) -> None:
    path = labels_and_probabilities(tmp_path / "m.onnx", zipped=None, name="scores")
    with pytest.raises(SuspectError, match="has the outputs label, scores; it is not clear which to read"):
        as_suspect(path)
    np.testing.assert_array_equal(as_suspect(path, output="label").predict(rows), expected(rows).argmax(axis=1))
    with pytest.raises(ArgumentError, match=r"`signature` \(--signature\) does not go with .*m.onnx"):
        as_suspect(path, signature="serving_default")


def test_onnx_names_as_answers(tmp_path: Path, rows: Array) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node
    nodes = [
        node("MatMul", ["x", "weights"], ["logits"]),
        node("ArgMax", ["logits"], ["number"], axis=1, keepdims=0),
        node(
            "LabelEncoder",
            ["number"],
            ["name"],
            domain="ai.onnx.ml",
            keys_int64s=[0, 1, 2],
            values_strings=["shirt", "bag", "shoe"],
        ),
    ]
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.STRING, [None])
    answers = as_suspect(write_onnx(tmp_path / "m.onnx", nodes, [("name", kind)], {"weights": WEIGHTS})).predict(rows)
    names = np.array(["shirt", "bag", "shoe"], object)[expected(rows).argmax(axis=1)]
    np.testing.assert_array_equal(answers, names)


def test_onnx_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "damaged.onnx").write_bytes(b"damaged")
    with pytest.raises(SuspectError, match="damaged.onnx cannot be loaded as an ONNX model: "):
        as_suspect(tmp_path / "damaged.onnx")


def test_onnx_runtime_that_is_not_installed(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SuspectError, match=r"needs the package onnxruntime, .* pip install 'dynamarks_tf\[onnx\]'"):
        OnnxSuspect(onnx_file)
