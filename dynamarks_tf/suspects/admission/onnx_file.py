"""An ONNX file as it lies on disk: operators, files beside it and declared sizes, checked before it is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamarks_tf.suspects.admission.refusals import (
    SMALL_ACTIVATION,
    check_declared,
    inside,
    reading,
    refused,
    shown,
    unreadable,
)
from dynamarks_tf.suspects.base import load

_KIND = "an ONNX model"
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
# What ONNX Runtime's quantization and fusion put into models: it computes, from and to tensors of the graph.
_RUNTIME_DOMAIN = "com.microsoft"
_OF_RUNTIME = frozenset(
    "Attention BiasAdd BiasGelu BiasSoftmax BiasSplitGelu DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul "
    "EmbedLayerNormalization FastGelu FusedConv FusedGemm FusedMatMul GatherBlockQuantized Gelu GemmFastGelu "
    "GroupNorm GroupQueryAttention MatMulInteger16 MatMulIntegerToFloat MatMulNBits MulInteger MultiHeadAttention "
    "NhwcConv NhwcFusedConv NhwcMaxPool QAttention QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool "
    "QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid "
    "QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu ReduceSumInteger RotaryEmbedding SkipGroupNorm "
    "SkipLayerNormalization SkipSimplifiedLayerNormalization TransposeMatMul".split()
)
_MEMORY = "*/_ORT_MEM_ADDR_/"  # as the folder of a file, ONNX Runtime takes it for its own memory
_LARGEST = 2**31 - 1  # bytes; protocol buffers hold no more
_LARGE_TENSOR = 1 << 16  # bytes that sizes are not computed from


def check_onnx_file(path: Path, description: str) -> None:
    """Checks that an ONNX model has standard operators, tensors in its own folder, and no sizes out of proportion.

    Args:
        path: the file.
        description: description of the suspect.

    Raises:
        SuspectError: it has others, or cannot be read.
    """
    with reading(description, _KIND):
        model = _parsed(path, description)
        _check_operators(model, description)
        beside = _external(path, model, description)
        stored = sum(file.stat().st_size for file in (path, *(path.parent / name for name in beside)))
        declared = 0
        for tensor in _tensors(model):
            declared += _declared_bytes(tensor.dims, tensor.data_type)
            if _declared_bytes(tensor.dims, tensor.data_type) > _held_bytes(tensor, path.parent):
                raise refused(description, f"its tensor {shown(tensor.name)} is declared larger than it is.")
        check_declared(description, declared, stored, "all its tensors")  # many can lie at one place of a file
        _check_computed_sizes(model, stored, description)


def external_files(path: str | os.PathLike[str], *, description: str) -> list[str]:
    """The names of the files beside a model that hold some of its tensors, sorted.

    Raises:
        SuspectError: one lies outside the model's folder, is a link or missing; or the model cannot be read.
    """
    with reading(description, _KIND):
        return _external(Path(path), _parsed(Path(path), description), description)


def _external(path: Path, model: Any, description: str) -> list[str]:
    names = {_location(tensor)["location"] for tensor in _tensors(model) if _is_external(tensor)}
    for name in names:
        if not inside(path.parent, name) or name.startswith(_MEMORY):
            raise refused(description, f"its tensors lie in {shown(name)}, outside its folder or behind a link.")
        if not (path.parent / name).is_file():
            raise unreadable(description, _KIND, f"the file {shown(name)} with its tensors is missing.")
    return sorted(names)


def _parsed(path: Path, description: str) -> Any:
    onnx = load("onnx", "onnx", description)
    if path.stat().st_size > _LARGEST:
        raise unreadable(description, _KIND, "it is larger than 2 GB.")
    return onnx.load_model_from_string(path.read_bytes())


def _check_operators(model: Any, description: str) -> None:
    onnx = load("onnx", "onnx", description)
    own = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        known = node.domain in _DOMAINS and onnx.defs.has(node.op_type, node.domain)
        known = known or (node.domain == _RUNTIME_DOMAIN and node.op_type in _OF_RUNTIME)
        if not known and (node.domain, node.op_type) not in own:
            name = f"{node.domain or 'ai.onnx'}:{node.op_type}"
            raise refused(description, f"node {shown(node.name)} is {shown(name)}, which is no standard operator.")


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, the functions, and the graphs inside their nodes."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors that the model holds."""
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from attribute.tensors
                sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                for sparse in (*sparse_tensors, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location) or bool(tensor.external_data)


def _location(tensor: Any) -> dict[str, str]:
    return {"location": "", **{entry.key: entry.value for entry in tensor.external_data}}


def _held_bytes(tensor: Any, folder: Path) -> int:
    """Bytes that a tensor has, at most."""
    if _is_external(tensor):
        return (folder / _location(tensor)["location"]).stat().st_size
    fields = "float_data double_data int32_data int64_data uint64_data string_data".split()
    return len(tensor.raw_data) + sum(8 * len(getattr(tensor, field)) for field in fields)


def _declared_bytes(dims: Any, data_type: int) -> int:
    import onnx

    try:
        size = onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except KeyError:
        size = 8
    count = math.prod(max(0, dim) for dim in dims)
    return int(count * size if size > 1 else count // 2)  # types of four bits are packed


def _check_computed_sizes(model: Any, stored: int, description: str) -> None:
    """Checks the sizes of what the graph computes, where they are fixed: a few bytes can ask for a tensor of any size.

    The model loses its large tensors.
    """
    import onnx

    for tensor in _tensors(model):
        if len(tensor.raw_data) > _LARGE_TENSOR:
            tensor.raw_data = b""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # a graph whose shapes contradict each other does not run
        inferred = model.graph
    for value in (*inferred.value_info, *inferred.output, *inferred.input):
        kind = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in kind.shape.dim]
        check_declared(
            description,
            _declared_bytes(dims, kind.elem_type),
            stored,
            f"the tensor {shown(value.name)}",
            small=SMALL_ACTIVATION,
        )
