"""The gRPC interface over a real channel, as clients of TensorFlow Serving rely on it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.helpers.server_clients import predict_request, with_spec

zoo_request = functools.partial(predict_request, "zoo")


def code_and_details(call: Callable[..., Any], request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value.code().name, caught.value.details()


# Predict


def test_predict_gives_the_result_of_tensorflow_alone(
    prediction: Any, images: np.ndarray, probabilities: np.ndarray
) -> None:
    response = prediction.Predict(zoo_request(image=images), timeout=30)
    assert list(response.outputs) == ["probabilities"]
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["probabilities"]), probabilities, rtol=1e-6)


def test_grpc_and_rest_give_the_same_bits(prediction: Any, post: Any, images: np.ndarray) -> None:
    over_grpc = tf.make_ndarray(prediction.Predict(zoo_request(image=images)).outputs["probabilities"])
    over_rest = np.array(post("", instances=images.tolist()).json()["predictions"], np.float32)
    np.testing.assert_array_equal(over_grpc, over_rest)


def test_the_answer_names_the_version_and_signature_that_were_used(prediction: Any) -> None:
    for name, resolved in [("", "serving_default"), ("echo_float32", "echo_float32")]:
        inputs = {"x" if name else "image": np.ones((1, 4), np.float32)}
        spec = prediction.Predict(zoo_request(name, **inputs)).model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("zoo", 10, resolved)


def test_answers_come_in_typed_fields(prediction: Any, images: np.ndarray) -> None:
    """As from TensorFlow Serving by default; a client that reads `float_val` must find the values there."""
    tensor = prediction.Predict(zoo_request(image=images)).outputs["probabilities"]
    assert tensor.tensor_content == b""
    assert len(tensor.float_val) == 15
    assert [dim.size for dim in tensor.tensor_shape.dim] == [5, 3]


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32),
        np.array(1e300),
        np.array([-128, 127], np.int8),
        np.array([-32768], np.int16),
        np.array([2**31 - 1], np.int32),
        np.array([[-(2**63)]], np.int64),
        np.array([255], np.uint8),
        np.array([65535], np.uint16),
        np.array([2**32 - 1], np.uint32),
        np.array([2**64 - 1], np.uint64),
        np.array([[True], [False]]),
        np.array([0.5, -2], np.float16),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda value: f"{value.dtype}{list(value.shape)}",
)
def test_every_dtype_passes_unchanged(prediction: Any, value: np.ndarray) -> None:
    name = "half" if value.dtype == np.float16 else value.dtype.name
    echoed = tf.make_ndarray(prediction.Predict(zoo_request(f"echo_{name}", x=value)).outputs["y"])
    assert (echoed.dtype, echoed.shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(echoed, value)


@pytest.mark.parametrize("value", [b"one", [b"\xff\x00", b""], [["a"], ["b"]]], ids=["scalar", "binary", "matrix"])
def test_strings_pass_unchanged(prediction: Any, value: Any) -> None:
    echoed = prediction.Predict(zoo_request("text", text=value)).outputs["text"]
    assert echoed == tf.make_tensor_proto(value)


def test_typed_fields_of_a_request_are_read_and_a_single_value_fills_the_shape(prediction: Any) -> None:
    request = zoo_request("echo_float32")
    request.inputs["x"].CopyFrom(
        tensor_pb2.TensorProto(dtype=1, float_val=[2.5], tensor_shape=tf.TensorShape((2, 2)).as_proto())
    )
    np.testing.assert_array_equal(tf.make_ndarray(prediction.Predict(request).outputs["y"]), np.full((2, 2), 2.5))


def test_the_declared_shape_is_not_compared_with_the_request(prediction: Any) -> None:
    request = zoo_request("combine", a=np.ones((2, 3), np.float32), b=np.ones((2, 3), np.int32))
    assert tf.make_ndarray(prediction.Predict(request).outputs["sum"]).shape == (2, 3)


def test_the_output_filter_chooses_outputs(prediction: Any) -> None:
    request = zoo_request("combine", a=np.ones(2, np.float32), b=np.ones(2, np.int32))
    assert sorted(prediction.Predict(request).outputs) == ["product", "sum"]
    request.output_filter.append("product")
    assert list(prediction.Predict(request).outputs) == ["product"]


def test_a_signature_without_inputs_can_be_called(prediction: Any) -> None:
    assert list(prediction.Predict(zoo_request("no_inputs")).outputs["answer"].int_val) == [42]


def test_messages_beyond_grpcs_default_limit_pass(prediction: Any) -> None:
    value = np.arange(2_000_000, dtype=np.float32).reshape(2, -1)  # 8 MB, twice the default
    np.testing.assert_array_equal(
        tf.make_ndarray(prediction.Predict(zoo_request("echo_float32", x=value)).outputs["y"]), value
    )


def test_eight_threads_get_each_their_own_answer(prediction: Any) -> None:
    def ask(number: int) -> bool:
        value = np.full(100, number, np.int32)
        return np.array_equal(
            tf.make_ndarray(prediction.Predict(zoo_request("echo_int32", x=value)).outputs["y"]), value
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_clients_deadline_ends_the_run_on_the_server(prediction: Any) -> None:
    """There are more endless runs than threads: if they did not end, the last request would find no thread."""
    endless = zoo_request("count", steps=np.int64(10**15))
    started = time.monotonic()
    calls = [prediction.Predict.future(endless, timeout=0.3) for _ in range(40)]
    assert {call.exception().code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert list(prediction.Predict(zoo_request("echo_int32", x=np.int32(1)), timeout=20).outputs["y"].int_val) == [1]
    assert time.monotonic() - started < 20


# Errors of Predict


ONE = np.ones((1, 4), np.float32)

PREDICT_ERRORS: list[tuple[str, predict_pb2.PredictRequest, str, str]] = [
    ("no model_spec", predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    ("no name", with_spec(zoo_request(), name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ("model", with_spec(zoo_request(), name="x"), "NOT_FOUND", "Servable not found for request: Latest(x)"),
    ("version", with_spec(zoo_request(), version=2), "NOT_FOUND", "Servable not found for request: Specific(zoo, 2)"),
    (
        "version 0 is a version",
        with_spec(zoo_request(), version=0),
        "NOT_FOUND",
        "Servable not found for request: Specific(zoo, 0)",
    ),
    (
        "label",
        with_spec(zoo_request(), version_label="stable"),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: stable",
    ),
    ("signature", zoo_request("x"), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
    (
        "no input",
        zoo_request(),
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != len({image}). Sent extra: {}. "
        "Missing but required: {image}.",
    ),
    (
        "one input too many",
        zoo_request(image=ONE, z=ONE),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({image,z}) != len({image}). Sent extra: {z}. "
        "Missing but required: {}.",
    ),
    (
        "input of another name",
        zoo_request(z=ONE),
        "INVALID_ARGUMENT",
        "Signature input alias: image(feed name: serving_default_image:0) not found in request and no default value",
    ),
    (
        "dtype",
        zoo_request(image=[["a"]]),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but string is provided",
    ),
    ("shape", zoo_request(image=np.ones((1, 5), np.float32)), "INVALID_ARGUMENT", "Matrix size-incompatible: "),
    ("error of an op", zoo_request("missing_file", x="/no/such"), "NOT_FOUND", "/no/such"),
    (
        "init op",
        zoo_request("__saved_model_init_op"),
        "INVALID_ARGUMENT",
        '"__saved_model_init_op" is not a dense tensor',
    ),
]


@pytest.mark.parametrize(
    ("request_", "code", "message"), [case[1:] for case in PREDICT_ERRORS], ids=[case[0] for case in PREDICT_ERRORS]
)
def test_wrong_predict_requests(prediction: Any, request_: predict_pb2.PredictRequest, code: str, message: str) -> None:
    actual, details = code_and_details(prediction.Predict, request_)
    assert actual == code
    assert message in details


@pytest.mark.parametrize(
    "tensor",
    [
        tensor_pb2.TensorProto(dtype=1, tensor_content=b"123", tensor_shape=tf.TensorShape((1, 4)).as_proto()),
        tensor_pb2.TensorProto(dtype=1, float_val=[1], tensor_shape=tf.TensorShape((None, 4)).as_proto()),
        tensor_pb2.TensorProto(dtype=10, bool_val=[True], tensor_shape=tf.TensorShape((2, 2**28)).as_proto()),
        tensor_pb2.TensorProto(dtype=0),
        tensor_pb2.TensorProto(dtype=20),
    ],
    ids=["bytes do not fill it", "unknown size", "huge", "no dtype", "resource"],
)
def test_damaged_tensors_are_refused(prediction: Any, tensor: Any) -> None:
    request = zoo_request()
    request.inputs["image"].CopyFrom(tensor)
    assert code_and_details(prediction.Predict, request) == ("INVALID_ARGUMENT", "tensor parsing error: image")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["sum", "z"],
            "output tensor alias not found in signature: z Outputs expected to be in the set {product,sum}.",
        ),
        (["sum", "sum"], "duplicate output tensor alias: sum"),
    ],
)
def test_wrong_output_filters(prediction: Any, names: list[str], message: str) -> None:
    request = zoo_request("combine", a=np.ones(2, np.float32), b=np.ones(2, np.int32))
    request.output_filter.extend(names)
    assert code_and_details(prediction.Predict, request) == ("INVALID_ARGUMENT", message)


def test_long_error_texts_are_cut(prediction: Any) -> None:
    _, details = code_and_details(prediction.Predict, zoo_request("x" * 3000))
    assert details == f'Serving signature key "{"x" * 1001}...TRUNCATED'
    assert len(details) == 1024 + len("...TRUNCATED")


# The other calls


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("Classify", classification_pb2.ClassificationRequest()),
        ("Regress", regression_pb2.RegressionRequest()),
        ("MultiInference", inference_pb2.MultiInferenceRequest()),
    ],
)
def test_calls_that_take_examples_are_refused_in_favor_of_predict(
    prediction: Any, name: str, request_: Any, caplog: pytest.LogCaptureFixture
) -> None:
    message = "Classify, Regress and MultiInference are not served here. Use Predict instead."
    assert code_and_details(getattr(prediction, name), request_) == ("UNIMPLEMENTED", message)
    assert not caplog.records


def test_metadata_holds_the_signatures(prediction: Any) -> None:
    request = with_spec(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]), name="zoo")
    response = prediction.GetModelMetadata(request)
    assert (response.model_spec.name, response.model_spec.version.value) == ("zoo", 10)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    combine = signatures.signature_def["combine"]
    assert sorted(combine.inputs) == ["a", "b"]
    assert combine.inputs["b"].dtype == tf.int32.as_datatype_enum
    assert sorted(combine.outputs) == ["product", "sum"]


@pytest.mark.parametrize(
    ("name", "fields", "code", "message"),
    [
        (None, ["signature_def"], "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("zoo", [], "INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field"),
        ("zoo", ["x"], "INVALID_ARGUMENT", "Metadata field x is not supported"),
        ("x", ["signature_def"], "NOT_FOUND", "Servable not found for request: Latest(x)"),
        ("", ["signature_def"], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ],
)
def test_wrong_metadata_requests(prediction: Any, name: str | None, fields: list[str], code: str, message: str) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    if name is not None:
        request.model_spec.name = name
        request.model_spec.SetInParent()
    assert code_and_details(prediction.GetModelMetadata, request) == (code, message)


def test_status_is_available(model_service: Any) -> None:
    for change in ({}, {"version": 10}, {"version_label": "ignored"}):
        request = get_model_status_pb2.GetModelStatusRequest()
        with_spec(request, name="zoo", **change)
        (status,) = model_service.GetModelStatus(request).model_version_status
        assert (status.version, status.state) == (10, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        assert status.HasField("status")
        assert status.status.error_code == 0


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ({"name": "x"}, "NOT_FOUND", "Could not find any versions of model x"),
        ({"name": "zoo", "version": 2}, "NOT_FOUND", "Could not find version 2 of model zoo"),
        ({"signature_name": "s"}, "NOT_FOUND", "Could not find any versions of model "),
    ],
)
def test_wrong_status_requests(model_service: Any, spec: Any, code: str, message: str) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    if spec is not None:
        with_spec(request, **spec)
    assert code_and_details(model_service.GetModelStatus, request) == (code, message)
