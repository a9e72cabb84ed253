"""The JSON of Classify and Regress over REST: flat examples in, results out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from dynamarks_tf.serving.protocol import json_tensor
from dynamarks_tf.serving.protocol.status import invalid

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def read_examples(document: Mapping[str, Any]) -> input_pb2.Input:
    """Reads the examples of a request.

    Args:
        document: the parsed request.

    Raises:
        StatusError: they are missing or no examples; worded as TensorFlow Serving words it.
    """
    given = input_pb2.Input()
    examples = given.example_list.examples
    if "context" in document:
        given.example_list_with_context.context.CopyFrom(_read_example(document["context"]))
        examples = given.example_list_with_context.examples
    quoted = json_tensor.quote(document)
    if "examples" not in document:
        raise invalid(f"JSON Value: {quoted} When method is classify, key 'examples' is expected and was not found")
    if not isinstance(document["examples"], list):
        raise invalid(f"JSON Value: {quoted} Expecting 'examples' value to be an list/array")
    if not document["examples"]:
        raise invalid(f"JSON Value: {quoted} 'examples' value is an empty array")
    examples.extend(map(_read_example, document["examples"]))
    return given


def write_results(result: classification_pb2.ClassificationResult | regression_pb2.RegressionResult) -> str:
    """Writes the answer: a list of [label, score] an example, or a number an example."""
    if isinstance(result, regression_pb2.RegressionResult):
        if not result.regressions:
            raise invalid("Cannot convert empty RegressionResults to JSON")
        rows = _numbers([regression.value for regression in result.regressions])
    else:
        rows = [
            "[" + ", ".join(f"[{json.dumps(entry.label)}, {score}]" for entry, score in _scored(row.classes)) + "]"
            for row in result.classifications
        ]
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'


def _scored(classes: Sequence[Any]) -> list[tuple[Any, str]]:
    return list(zip(classes, _numbers([entry.score for entry in classes]), strict=True))


def _numbers(values: list[float]) -> list[str]:
    return json_tensor.write_floats(np.array(values, np.float32))


def _read_example(value: Any) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_tensor.type_name(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[json_tensor.clean(name)]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)
    return example


def _add(feature: feature_pb2.Feature, name: str, item: Any) -> None:
    kind, value = _kind_and_value(name, item)
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {_KINDS[present]}")
    getattr(feature, kind).value.append(value)


def _kind_and_value(name: str, item: Any) -> tuple[str, bytes | float]:
    if isinstance(item, str) or json_tensor.is_base64(item):
        return "bytes_list", json_tensor.to_bytes(item)
    if isinstance(item, float):
        return "float_list", item
    if not isinstance(item, int):  # nor bool
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_tensor.type_name(item)}")
    if not -(2**63) <= item < 2**63:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    return "int64_list", int(item)
