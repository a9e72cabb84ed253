"""Joins TensorFlow Lite models, so that the mark after a quantized model stays in float32.

The quantizer of TensorFlow Lite gives every number of a graph eight bits if it can. For probabilities these are steps
of 1/256: the mark would be a few steps, and the keyed hash would depend on rounding. So model and mark are converted
one by one, and the files are joined here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_FLOAT32 = 0  # TensorType.FLOAT32 of the file format
_NO_TENSOR = -1


def with_float_softmax(content: bytes) -> bytes:
    """Computes a softmax that ends a model in float32, where the quantizer left it in eight bits.

    Of the last two operators, softmax and dequantize become dequantize and softmax.

    Args:
        content: a TensorFlow Lite file.

    Returns:
        The same file where it ends otherwise.
    """
    model = _read(content)
    graph = model.subgraphs[0]
    last = graph.operators[-2:]
    if [_name(model, operator.opcodeIndex) for operator in last] != ["SOFTMAX", "DEQUANTIZE"]:
        return content
    softmax, dequantize = last
    logits, between, answer = softmax.inputs, softmax.outputs, dequantize.outputs
    dequantize.inputs, dequantize.outputs = logits, between
    softmax.inputs, softmax.outputs = between, answer
    tensor = graph.tensors[between[0]]
    tensor.type, tensor.quantization = _FLOAT32, None
    graph.operators[-2:] = [dequantize, softmax]
    return _written(model)


def joined(first: bytes, second: bytes) -> bytes:
    """Joins two models: the answer of the first becomes the input of the second.

    Every operator stays as it is.

    Args:
        first: a TensorFlow Lite file with one signature and one output in float32.
        second: a second file, without loops, with one input of the shape of that output.

    Returns:
        The file of both, which takes the inputs of the first and gives the outputs of the second, by their names.

    Example:

    >>> joined(with_float_softmax(convert(clean_model, "int8", images)), convert(mark))
    """
    model, more = _read(first), _read(second)
    graph, (added,) = model.subgraphs[0], more.subgraphs  # further ones are the bodies of loops
    number = _numbering(graph, added)
    for tensor in added.tensors:
        tensor.buffer += len(model.buffers)
    for operator in added.operators:
        operator.opcodeIndex += len(model.operatorCodes)
        operator.inputs = [number(index) for index in operator.inputs]
        operator.outputs = [number(index) for index in operator.outputs]
        if operator.intermediates is not None:
            operator.intermediates = [number(index) for index in operator.intermediates]
    graph.outputs = [number(index) for index in added.outputs]
    answers = more.signatureDefs[0].outputs
    for answer in answers:
        answer.tensorIndex = number(answer.tensorIndex)
    model.signatureDefs[0].outputs = answers
    graph.tensors += added.tensors
    graph.operators += added.operators
    model.operatorCodes += more.operatorCodes
    model.buffers += more.buffers
    model.metadata = None  # the converter's notes describe the first model alone
    return _written(model)


def _numbering(graph: Any, added: Any) -> Callable[[int], int]:
    """The index in the joined graph, by the index of a tensor in the second graph."""
    (given,), (taken,) = graph.outputs, added.inputs
    offset = len(graph.tensors)

    def number(index: int) -> int:
        if index == _NO_TENSOR:
            return _NO_TENSOR
        return int(given if index == taken else index + offset)

    return number


def _read(content: bytes) -> Any:
    from tensorflow.lite.tools import flatbuffer_utils

    return flatbuffer_utils.convert_bytearray_to_object(bytearray(content))


def _written(model: Any) -> bytes:
    from tensorflow.lite.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _name(model: Any, index: int) -> str:
    from tensorflow.lite.tools import flatbuffer_utils

    return str(flatbuffer_utils.opcode_to_name(model, index))
