"""Logs are read as the model server read them; otherwise a client could pair inputs with answers to others."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import prediction_log_pb2

from dynamarks_tf._support import tensor_proto
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.serving.gateway.rest_prediction import RestDecoder, RestPrediction
from dynamarks_tf.serving.protocol import dtypes, json_tensor
from dynamarks_tf.serving.protocol.status import StatusError

NAN = float("nan")
FLOATS = [  # what TensorFlow Serving takes, and the tensor "x" that it makes of it
    ('{"instances": [{"x": [1], "x": [2]}, {"x": [3]}]}', [[1], [2]]),  # each value of a row counts
    ('{"instances": [{"x\\u0000a": [1]}, {"x": [2], "x\\u0000b": [9]}]}', [[1], [2]]),  # names end at a zero byte
    ('{"instances": [[1]], "instances": [[9]]}', [[1]]),
    ('{"instances": [[-NaN, -Inf]], "more": -NaN}', [[NAN, -np.inf]]),
    ('{"instances": [[1]], "more": "\\udc00"}', [[1]]),
    ('{"instances": [[1]]} and {"more": "\\ud800"', [[1]]),
]
TEXTS = [
    ('{"instances": ["\\udc00", "a\\\\udc00", "\\ud83d\\ude00"]}', [b"\xed\xb0\x80", b"a\\udc00", "😀".encode()]),
    ('{"instances": [{"b64": "eHk."}, {"b64": "eA.="}, {"b64": "eHk"}]}', [b"xy", b"x", b"xy"]),
]
CASES = [(body, rows, "DT_FLOAT") for body, rows in FLOATS] + [(body, rows, "DT_STRING") for body, rows in TEXTS]
cases = pytest.mark.parametrize(("body", "rows", "dtype"), CASES)


def same(found: Any, rows: list[Any], dtype: str) -> None:
    if dtype == "DT_STRING":
        assert found.tolist() == rows
    else:
        np.testing.assert_array_equal(found, np.array(rows, np.float32))


@cases
def test_the_gateway_logs_what_the_server_read(
    body: str, rows: list[Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = {"inputs": {"x": {"dtype": dtype}}, "outputs": {"y": {"dtype": "DT_FLOAT"}}}
    metadata = {"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}}
    described = json.dumps({"model_spec": {"version": "1"}, **metadata}).encode()
    decoder = RestDecoder("http://nowhere")
    monkeypatch.setattr(decoder, "_get", lambda _: described)
    answer = json.dumps({"predictions": [0.5] * len(rows)}).encode()
    record = decoder.encode(RestPrediction("/v1/models/m:predict", body.encode(), answer, None, 0.0))
    request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
    assert list(request.inputs) == ["x"]
    same(tensor_proto.read_rows(request.inputs["x"]), rows, dtype)


@cases
def test_payload_logs_are_read_alike(body: str, rows: list[Any], dtype: str, tmp_path: Path) -> None:
    event = {"specversion": "1.0", "id": "1", "type": "org.kubeflow.serving.inference.request"}
    line = {**event, "data_base64": base64.b64encode(body.encode()).decode()}
    (tmp_path / "events.jsonl").write_text(json.dumps(line) + "\n")
    found = next(open_log(tmp_path / "events.jsonl", input="x").batches(9))
    same(found, rows, dtype)


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [1e400]}',
        '{"instances": ["\\ud800"]}',
        '{"instances": [{"b64": "eA=="}, {"b64": "eA==", "b64": "eA=="}]}',  # no base64, but two values of one name
        '{"instances": [{"b64": "eA="}]}',
        '{"inputs": {"x\\u0000": 1}}',
    ],
)
def test_what_the_server_refuses_is_refused(body: str) -> None:
    class Info:
        dtype = dtypes.DT_STRING if "b64" in body or "ud8" in body else dtypes.DT_FLOAT

    with pytest.raises(StatusError):
        json_tensor.read_inputs(json_tensor.parse(body.encode()), {"x": Info()})


def tensor(*shape: int, **fields: Any) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(**fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        tensor(2, dtype=1, float_val=[1, 2, 3]),
        tensor(3, dtype=1, float_val=[1]),
        tensor(2, dtype=1),
        tensor(0, dtype=1, float_val=[1]),
        tensor(1, dtype=8, scomplex_val=[1, 2, 3]),
        tensor(1, dtype=7, string_val=[b"a", b"b"]),
        tensor(2, dtype=7),
    ],
    ids=["surplus", "repeated", "none", "empty", "complex", "text", "no text"],
)
def test_tensors_are_read_as_tensorflow_reads_them(proto: tensor_pb2.TensorProto) -> None:
    for unknown in (False, True):  # which TensorFlow ignores
        proto.tensor_shape.unknown_rank = unknown
        expected = tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype)).numpy()
        np.testing.assert_array_equal(tensor_proto.read(proto, 9), expected)
