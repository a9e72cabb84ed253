"""Classify, Regress and MultiInference: signatures that take serialized `tf.train.Example`s.

A Keras model exported as it is does not have such a signature, and then the answer is TensorFlow Serving's refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from dynamarks_tf.serving.local_server.served_model import ServedModel
from dynamarks_tf.serving.protocol.status import Code, StatusError, invalid
from dynamarks_tf.serving.protocol.tensors import DEFAULT_SIGNATURE, Array

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_INPUT, _CLASSES, _SCORES, _VALUES = "inputs", "classes", "scores", "outputs"


def run(
    model: ServedModel,
    tasks: Sequence[tuple[str, str]],
    given: input_pb2.Input,
    *,
    unknown: str = "No signature was found with the name: ",
    timeout_s: float | None = None,
) -> list[Any]:
    """Runs signatures on examples.

    Args:
        model: the model.
        tasks: what to run: the name of a signature, "" for the default one, and `CLASSIFY` or `REGRESS`.
        given: the examples.
        unknown: how the error for a signature that is not there begins.
        timeout_s: seconds after which the run is given up.

    Returns:
        A ClassificationResult or RegressionResult a task.

    Raises:
        StatusError: a signature or its outputs do not fit the method, worded as TensorFlow Serving words it.
    """
    wanted: dict[str, list[str]] = {}
    for name, method in tasks:
        name = name or DEFAULT_SIGNATURE
        if name in wanted:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        signature = model.signatures.get(name)
        if signature is None:
            raise invalid(unknown + name)
        if method not in _OUTPUT_NAMES:
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")
        wanted[name] = _OUTPUT_NAMES[method](signature.definition)
    examples = _serialized(given)
    outputs = model.run_examples(examples, wanted, timeout_s=timeout_s)
    return [_RESULTS[method](outputs[name or DEFAULT_SIGNATURE], len(examples)) for name, method in tasks]


def _serialized(given: input_pb2.Input) -> list[bytes]:
    """Returns each example as bytes; the context, if there is one, is put before each."""
    kind = given.WhichOneof("kind")
    chosen = getattr(given, kind) if kind else given.example_list
    if not chosen.examples:
        raise invalid("Input is empty.")
    context = chosen.context.SerializeToString() if kind == "example_list_with_context" else b""
    return [context + example.SerializeToString() for example in chosen.examples]


def _classify_outputs(definition: meta_graph_pb2.SignatureDef) -> list[str]:
    _check_one_input(definition)
    if len(definition.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    _check_input_name(definition, "classification")
    names = [name for name in (_CLASSES, _SCORES) if name in definition.outputs]
    if not names:
        raise invalid(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {definition}"
        )
    return names


def _regress_outputs(definition: meta_graph_pb2.SignatureDef) -> list[str]:
    _check_one_input(definition)
    if len(definition.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    _check_input_name(definition, "regression")
    if _VALUES not in definition.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {definition}")
    return [_VALUES]


def _check_one_input(definition: meta_graph_pb2.SignatureDef) -> None:
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")


def _check_input_name(definition: meta_graph_pb2.SignatureDef, kind: str) -> None:
    if _INPUT not in definition.inputs:
        raise invalid(f"No {kind} inputs found in SignatureDef: {definition}")


def _classifications(outputs: Mapping[str, Array], rows: int) -> classification_pb2.ClassificationResult:
    classes, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for name, array, dtype, dtype_name in (
        (_CLASSES, classes, np.object_, "DT_STRING"),
        (_SCORES, scores, np.float32, "DT_FLOAT"),
    ):
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if array.dtype != dtype:
            raise invalid(f"Expected {name} Tensor of {dtype_name}. Got: {array.dtype}")
        if len(array) != rows:
            raise invalid(f"Expected {name} output batch size of {rows}. Got: {len(array)}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    result = classification_pb2.ClassificationResult()
    width = next(array.shape[1] for array in (classes, scores) if array is not None)
    for row in range(rows):
        entries = result.classifications.add().classes
        for column in range(width):
            entry = entries.add()
            if classes is not None:
                entry.label = classes[row, column].decode("utf-8", errors="replace")
            if scores is not None:
                entry.score = scores[row, column]
    return result


def _regressions(outputs: Mapping[str, Array], rows: int) -> regression_pb2.RegressionResult:
    values = outputs[_VALUES]
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(values)}"
        )
    if len(values) != rows:
        raise invalid(f"Input batch size did not match output batch size: {rows} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype}")
    result = regression_pb2.RegressionResult()
    for value in values.ravel().tolist():
        result.regressions.add(value=value)
    return result


def _shape(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


_OUTPUT_NAMES: Mapping[str, Callable[[meta_graph_pb2.SignatureDef], list[str]]] = {
    CLASSIFY: _classify_outputs,
    REGRESS: _regress_outputs,
}
_RESULTS: Mapping[str, Callable[[Mapping[str, Array], int], Any]] = {
    CLASSIFY: _classifications,
    REGRESS: _regressions,
}
