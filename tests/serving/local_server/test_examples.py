"""Classify, Regress and MultiInference: they work where the signature fits, and refuse as TensorFlow Serving does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.server_clients import stub, url
from tests.helpers.tiny_models import signature, spec

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def parse(inputs: Any) -> Any:
    features = {"x": tf.io.FixedLenFeature([], tf.float32, 0.0), "n": tf.io.FixedLenFeature([], tf.int64, 0)}
    parsed = tf.io.parse_example(inputs, {**features, "s": tf.io.FixedLenFeature([], tf.string, "")})
    scores = tf.stack([parsed["x"], tf.cast(parsed["n"], tf.float32)], axis=1)
    classes = tf.stack([parsed["s"], tf.fill(tf.shape(parsed["s"]), "zero")], axis=1)
    return classes, scores


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    base = tmp_path_factory.mktemp("examples") / "clf"
    of_strings = {"inputs": spec(tf.string)}
    signatures = {
        "serving_default": signature(lambda image: {"probabilities": image}, image=spec(tf.float32, (None, 2))),
        "classify": signature(
            lambda inputs: dict(zip(("classes", "scores"), parse(inputs), strict=True)), **of_strings
        ),
        "scores": signature(lambda inputs: {"scores": parse(inputs)[1]}, **of_strings),
        "classes": signature(lambda inputs: {"classes": parse(inputs)[0]}, **of_strings),
        "regress": signature(lambda inputs: {"outputs": parse(inputs)[1][:, 0]}, **of_strings),
        "regress_2d": signature(lambda inputs: {"outputs": parse(inputs)[1][:, :1]}, **of_strings),
        "keras": signature(lambda inputs: {"output_0": inputs}, inputs=spec(tf.float32, (None, 2))),
        "keras_scores": signature(lambda inputs: {"scores": inputs}, inputs=spec(tf.float32, (None, 2))),
        "vector": signature(lambda inputs: {"scores": parse(inputs)[1][:, 0]}, **of_strings),
        "double": signature(lambda inputs: {"scores": tf.cast(parse(inputs)[1], tf.float64)}, **of_strings),
        "too_many": signature(lambda inputs: {"scores": tf.ones((tf.size(inputs) + 1, 2))}, **of_strings),
        "wide": signature(lambda inputs: {"outputs": parse(inputs)[1]}, **of_strings),
        "two_inputs": signature(lambda a, b: {"scores": a + b}, a=spec(tf.float32), b=spec(tf.float32)),
        "three_outputs": signature(lambda inputs: {name: tf.identity(inputs) for name in "abc"}, **of_strings),
    }
    tf.saved_model.save(tf.Module(), str(base / "1"), signatures=signatures)
    with LocalServer(base, grpc_port=0, rest_port=0) as running:
        yield running


def post(server: LocalServer, method: str, name: str, **body: Any) -> requests.Response:
    return requests.post(url(server, f":{method}"), json={"signature_name": name, **body}, timeout=30)


EXAMPLES = [{"x": 0.5, "n": 2, "s": "a"}, {"x": [1.5], "n": True, "s": {"b64": "Yg=="}}]


# REST


def test_classify_over_rest(server: LocalServer) -> None:
    assert post(server, "classify", "classify", examples=EXAMPLES).json() == {
        "results": [[["a", 0.5], ["zero", 2.0]], [["b", 1.5], ["zero", 1.0]]]
    }
    assert post(server, "classify", "scores", examples=EXAMPLES).json() == {
        "results": [[["", 0.5], ["", 2.0]], [["", 1.5], ["", 1.0]]]
    }
    assert post(server, "classify", "classes", examples=[{"s": 'ü"'}]).json() == {
        "results": [[['ü"', 0.0], ["zero", 0.0]]]
    }


def test_regress_over_rest(server: LocalServer) -> None:
    for name in ("regress", "regress_2d"):
        assert post(server, "regress", name, examples=EXAMPLES).json() == {"results": [0.5, 1.5]}


def test_the_context_holds_for_every_example(server: LocalServer) -> None:
    response = post(server, "classify", "scores", context={"n": 7}, examples=[{"x": 0.5}, {"x": 1.0, "n": 3}])
    assert response.json() == {"results": [[["", 0.5], ["", 7.0]], [["", 1.0], ["", 3.0]]]}


@pytest.mark.parametrize(
    ("method", "name", "body", "message"),
    [
        ("classify", "scores", {}, "When method is classify, key 'examples' is expected and was not found"),
        ("classify", "scores", {"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ("classify", "scores", {"examples": []}, "'examples' value is an empty array"),
        ("classify", "scores", {"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ("classify", "scores", {"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ("classify", "scores", {"examples": [{"x": [[1.0]]}]}, "x has element with unexpected JSON type: Array"),
        ("classify", "scores", {"examples": [{"x": {"y": 1}}]}, "x has element with unexpected JSON type: Object"),
        ("classify", "scores", {"examples": [{"x": [1.0, 1]}]}, "element type in feature: x expecting type: float"),
        ("classify", "scores", {"examples": [{"x": ["a", 1]}]}, "element type in feature: x expecting type: bytes"),
        ("classify", "scores", {"examples": [{"x": [1, "a"]}]}, "element type in feature: x expecting type: int64"),
        ("classify", "scores", {"examples": [{"n": 2**63}]}, "n has uint64_t element. Only int64_t is supported."),
        ("classify", "scores", {"examples": [{"s": {"b64": "a!"}}]}, "Unable to base64 decode"),
        (
            "classify",
            "scores",
            {"examples": [{"x": 1}]},
            "Data type: int64 but expected type: float",
        ),  # a whole number is no float
        ("classify", 1, {"examples": [{}]}, "'signature_name' key must be a string value."),
        ("classify", "x", {"examples": [{}]}, "No signature was found with the name: x"),
        ("classify", "", {"examples": [{}]}, "No classification inputs found in SignatureDef: "),
        ("classify", "keras", {"examples": [{}]}, "outputs to contain at least one of"),
        ("classify", "keras_scores", {"examples": [{}]}, "Expects arg[0] to be float but string is provided"),
        ("classify", "two_inputs", {"examples": [{}]}, "Expected one input Tensor."),
        ("classify", "three_outputs", {"examples": [{}]}, "Expected one or two output Tensors, found 3"),
        ("classify", "vector", {"examples": [{}]}, "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        ("classify", "double", {"examples": [{}]}, "Expected scores Tensor of DT_FLOAT."),
        ("classify", "too_many", {"examples": [{}]}, "Expected scores output batch size of 1. Got: 2"),
        ("regress", "", {"examples": [{}]}, "No regression inputs found in SignatureDef: "),
        ("regress", "scores", {"examples": [{}]}, "No regression outputs found in SignatureDef: "),
        ("regress", "two_inputs", {"examples": [{}]}, "Expected one input Tensor."),
        ("regress", "classify", {"examples": [{}]}, "Expected one output Tensor."),
        ("regress", "wide", {"examples": [{}]}, "to be either [batch_size] or [batch_size, 1] but got [1,2]"),
    ],
)
def test_wrong_requests(server: LocalServer, method: str, name: Any, body: Any, message: str) -> None:
    response = post(server, method, name, **body)
    assert response.status_code == 400
    assert message in response.json()["error"]


# gRPC


def given(*values: float, context: float | None = None) -> input_pb2.Input:
    message = input_pb2.Input()
    chosen = message.example_list
    if context is not None:
        chosen = message.example_list_with_context
        chosen.context.features.feature["n"].int64_list.value.append(int(context))
    for value in values:
        example = example_pb2.Example()
        example.features.feature["x"].float_list.value.append(value)
        chosen.examples.append(example)
    return message


def fill(request: Any, signature_name: str, name: str = "clf") -> Any:
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    return request


def test_classify_and_regress_over_grpc(server: LocalServer) -> None:
    with stub(server) as service:
        request = fill(classification_pb2.ClassificationRequest(input=given(0.5, 1.5, context=3)), "classify")
        response = service.Classify(request, timeout=30)
        rows = [[(entry.label, entry.score) for entry in row.classes] for row in response.result.classifications]
        assert rows == [[("", 0.5), ("zero", 3)], [("", 1.5), ("zero", 3)]]
        used = response.model_spec
        assert (used.name, used.version.value, used.signature_name) == ("clf", 1, "classify")
        request = fill(regression_pb2.RegressionRequest(input=given(0.5, 1.5)), "regress")
        response = service.Regress(request, timeout=30)
        assert [entry.value for entry in response.result.regressions] == [0.5, 1.5]
        assert response.model_spec.signature_name == "regress"


def multi(*tasks: tuple[str, str], name: str = "clf", values: tuple[float, ...] = (0.5,)) -> Any:
    request = inference_pb2.MultiInferenceRequest(input=given(*values))
    for signature_name, method in tasks:
        fill(request.tasks.add(method_name=method), signature_name, name)
    return request


def test_several_signatures_in_one_call(server: LocalServer) -> None:
    with stub(server) as service:
        response = service.MultiInference(multi(("regress", REGRESS), ("scores", CLASSIFY)), timeout=30)
    first, second = response.results
    assert [entry.value for entry in first.regression_result.regressions] == [0.5]
    assert second.classification_result.classifications[0].classes[0].score == 0.5
    assert [result.model_spec.signature_name for result in response.results] == ["regress", "scores"]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (inference_pb2.MultiInferenceRequest(), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (multi(("regress", REGRESS), name="x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
        (multi(("x", REGRESS)), "INVALID_ARGUMENT", "Requested signature not found in model graph: x"),
        (multi(("regress", REGRESS), ("regress", REGRESS)), "INVALID_ARGUMENT", "Duplicate evaluation of signature"),
        (multi(("regress", "tensorflow/serving/predict")), "UNIMPLEMENTED", "Unsupported signature method_name: tens"),
        (multi(("", CLASSIFY)), "INVALID_ARGUMENT", "No classification inputs found in SignatureDef"),
        (multi(("regress", REGRESS), values=()), "INVALID_ARGUMENT", "Input is empty."),
    ],
)
def test_wrong_multi_inference(server: LocalServer, request_: Any, code: str, message: str) -> None:
    with stub(server) as service, pytest.raises(grpc.RpcError) as caught:
        service.MultiInference(request_, timeout=30)
    assert caught.value.code().name == code
    assert message in caught.value.details()


def test_tasks_for_several_models(server: LocalServer) -> None:
    for other, message in (("x", "must access the same model name"), ("", "ModelSpec with an empty model name")):
        request = multi(("regress", REGRESS), ("scores", CLASSIFY))
        request.tasks[1].model_spec.name = other
        with stub(server) as service, pytest.raises(grpc.RpcError, match=message):
            service.MultiInference(request, timeout=30)


@pytest.mark.parametrize(
    ("kind", "call"),
    [(classification_pb2.ClassificationRequest, "Classify"), (regression_pb2.RegressionRequest, "Regress")],
)
def test_a_keras_signature_is_refused_over_grpc(server: LocalServer, kind: Any, call: str) -> None:
    with stub(server) as service:
        for request, code, message in (
            (fill(kind(input=given(1)), ""), "INVALID_ARGUMENT", "inputs found in SignatureDef"),
            (fill(kind(input=given(1)), "x"), "INVALID_ARGUMENT", "No signature was found with the name: x"),
            (fill(kind(), "scores" if call == "Classify" else "regress"), "INVALID_ARGUMENT", "Input is empty."),
            (kind(), "INVALID_ARGUMENT", "Missing ModelSpec"),
            (fill(kind(), "", "other"), "NOT_FOUND", "Servable not found for request: Latest(other)"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                getattr(service, call)(request, timeout=30)
            assert caught.value.code().name == code
            assert message in caught.value.details()


def test_numbers_that_are_not_finite(server: LocalServer) -> None:
    body = '{"signature_name": "regress", "examples": [{"x": NaN}, {"x": 1e999}]}'
    values = requests.post(url(server, ":regress"), data=body, timeout=30).json()["results"]
    np.testing.assert_array_equal(values, [np.nan, np.inf])
