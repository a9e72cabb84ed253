"""PredictionLog messages: their content, what else may be in a file, and that others can read them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.request_logs.entries import UnusableError
from dynamarks_tf.request_logs.prediction_log import UNDECODED, PredictionLogFile, encode, encode_bytes
from tests.helpers.logs import record, stored

WriteLog = Callable[..., Path]


def entries(path: Path) -> list[Any]:
    return list(PredictionLogFile(stored(path)).entries())


def only_entry(path: Path) -> Any:
    (entry,) = entries(path)
    return entry


def write(path: Path, *messages: Any) -> Path:
    path.write_bytes(b"".join(record(message.SerializeToString()) for message in messages))
    return path


def test_a_request_comes_back(write_log: WriteLog, expected: Any) -> None:
    entry = only_entry(write_log(1, rows=5))
    np.testing.assert_array_equal(entry.inputs(None), expected([0], rows=5), strict=True)
    assert (entry.client, entry.time, entry.model, entry.version) == ("alice", 1000.0, "clf", 7)


def test_plain_tensorflow_reads_the_file(write_log: WriteLog, make_messages: Any) -> None:
    path = write_log(3, clients=["alice", None])
    logs = [prediction_log_pb2.PredictionLog.FromString(data.numpy()) for data in tf.data.TFRecordDataset(str(path))]
    assert [log.log_metadata.request_origin for log in logs] == ["alice", "", "alice"]
    for index, log in enumerate(logs):
        request, response = make_messages(index)
        assert log.predict_log.request == request
        assert log.predict_log.response == response
        assert log.log_metadata.model_spec == response.model_spec
        assert log.log_metadata.timestamp_secs == 1000 + index
        assert not log.log_metadata.HasField("sampling_config")


def test_a_part_of_a_second_is_kept_and_skipped_by_other_readers(write_log: WriteLog) -> None:
    path = write_log(2, start=1000.999999, step=0.125)
    assert [entry.time for entry in entries(path)] == pytest.approx([1000.999999, 1001.124999], abs=2e-6)
    for data, second in zip(tf.data.TFRecordDataset(str(path)), (1000, 1001), strict=True):
        log = prediction_log_pb2.PredictionLog.FromString(data.numpy())
        assert (log.log_metadata.timestamp_secs, log.log_metadata.request_origin) == (second, "alice")
        assert json_format.MessageToDict(log.log_metadata).keys() == {"modelSpec", "timestampSecs", "requestOrigin"}


@pytest.mark.parametrize("told_by", [0, 1, 2])
def test_the_version_that_answered(tmp_path: Path, make_messages: Any, told_by: int) -> None:
    """Other loggers may leave the metadata empty; a version that was asked for by number is the one that answered."""
    log = prediction_log_pb2.PredictionLog()
    request, response = make_messages(version=None)
    log.predict_log.request.CopyFrom(request)
    log.predict_log.response.CopyFrom(response)
    specs = (log.log_metadata.model_spec, log.predict_log.response.model_spec, log.predict_log.request.model_spec)
    assert only_entry(write(tmp_path / "log.tfrecord", log)).version is None
    for version, spec in enumerate(specs[told_by:], start=1):
        spec.version.value = version
    assert only_entry(write(tmp_path / "log.tfrecord", log)).version == 1


def test_plain_tensorflow_wrote_the_file(tmp_path: Path, make_messages: Any, expected: Any) -> None:
    path = tmp_path / "log.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(encode(*make_messages(4)))
    entry = only_entry(path)
    np.testing.assert_array_equal(entry.inputs(None), expected([4]))
    assert (entry.client, entry.time) == (None, None)


@pytest.mark.parametrize(
    "tensor",
    [
        tf.make_tensor_proto(np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32)),
        tensor_pb2.TensorProto(dtype=1, tensor_shape=tf.TensorShape([2, 2]).as_proto(), float_val=[1, 2, 3, 4]),
        tensor_pb2.TensorProto(dtype=1, tensor_shape=tf.TensorShape([2, 2]).as_proto(), float_val=[1, 2]),
        tensor_pb2.TensorProto(dtype=1, tensor_shape=tf.TensorShape([2, 0]).as_proto()),
        tensor_pb2.TensorProto(dtype=2, tensor_shape=tf.TensorShape([2]).as_proto(), double_val=[1, 2]),
        tensor_pb2.TensorProto(dtype=4, tensor_shape=tf.TensorShape([2]).as_proto(), int_val=[0, 255]),
        tf.make_tensor_proto(np.array([[1], [2]], np.int64)),
        tf.make_tensor_proto(np.array([[1], [2]], np.float16)),
        tf.make_tensor_proto(np.array([[True], [False]])),
    ],
    ids=["packed", "typed", "last repeated", "empty", "double", "uint8", "int64", "half", "bool"],
)
def test_tensors_of_all_kinds(tmp_path: Path, make_messages: Any, tensor: Any) -> None:
    request, response = make_messages()
    request.inputs["image"].CopyFrom(tensor)
    path = tmp_path / "log"
    path.write_bytes(record(encode(request, response)))
    np.testing.assert_array_equal(only_entry(path).inputs(None), tf.make_ndarray(tensor), strict=True)


def test_inputs_are_chosen_by_name(write_log: WriteLog) -> None:
    a, b = np.zeros((2, 1), np.float32), np.ones((2, 3), np.float32)
    path = write_log(1, inputs={"a": a, "b": b})
    np.testing.assert_array_equal(next(open_log(path, input="b").batches(9)), b)
    with pytest.raises(LogError, match="offset 0: its inputs are: a, b; say which with input="):
        next(open_log(path).batches(9))
    with pytest.raises(LogError, match="offset 0: its inputs are: a, b; not 'image'"):
        next(open_log(path, input="image").batches(9))
    entry = only_entry(path)
    with pytest.raises(UnusableError):
        entry.inputs("image")
    assert sorted(entry.message.predict_log.request.inputs) == ["a", "b"]  # looking "image" up has not added it


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inputs": {}}, "its inputs are: none; say which"),
        ({"inputs": {"x": np.float32(3)}}, "its inputs are a single value"),
        ({"inputs": {UNDECODED: np.array([b"body"])}}, "its inputs could not be decoded when it was logged"),
        ({"inputs": {"x": np.zeros((0, 4), np.float32)}}, "it has no rows"),
    ],
)
def test_requests_that_cannot_be_used(write_log: WriteLog, changes: Any, reason: str) -> None:
    with pytest.raises(LogError, match=rf"No request in .* can be used. The first: .*offset 0: {reason}"):
        next(open_log(write_log(1, **changes)).batches(9))


def test_answers_are_not_decoded(write_log: WriteLog, expected: Any) -> None:
    path = write_log(1, outputs={"p": np.float32(1), "q": np.array([b"text"])})
    np.testing.assert_array_equal(next(open_log(path).batches(9)), expected([0]))


def test_a_tensor_that_does_not_fill_its_shape(tmp_path: Path, make_messages: Any) -> None:
    request, response = make_messages()
    request.inputs["image"].tensor_shape.dim[0].size = 2
    path = tmp_path / "log"
    path.write_bytes(record(encode(request, response)))
    with pytest.raises(
        LogError, match=r"its input 'image' cannot be decoded: it holds 16 bytes; \(2, 4\) values of float32 take 32"
    ):
        next(open_log(path).batches(9))


def test_logs_of_other_calls_are_left_out(tmp_path: Path, make_messages: Any) -> None:
    classify = prediction_log_pb2.PredictionLog()
    classify.classify_log.request.model_spec.name = "clf"
    predict = prediction_log_pb2.PredictionLog.FromString(encode(*make_messages()))
    path = write(tmp_path / "log", classify, predict, prediction_log_pb2.PredictionLog())
    with pytest.warns(UserWarning, match="2 logged requests were left out. The first: .*it is a classify_log"):
        assert [len(batch) for batch in open_log(path).batches(9)] == [1]
    with pytest.raises(LogError, match="it is a message without a request, not a predict_log"):
        next(open_log(write(tmp_path / "log", prediction_log_pb2.PredictionLog())).batches(9))


def test_another_message_is_left_out_for_every_client(tmp_path: Path, write_log: WriteLog) -> None:
    path = write_log(1)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(record(b"\xff\xff no message"))
    log = open_log(path, client="alice")
    with pytest.warns(UserWarning, match=f"log.tfrecord, offset {size}: it is no PredictionLog message"):
        assert [len(batch) for batch in log.batches(9)] == [1]
    assert len(log.problems) == 1


@pytest.mark.parametrize("depth", [97, 98, 99, 100])
def test_a_request_nested_as_deep_as_the_server_allows_is_read(tmp_path: Path, make_messages: Any, depth: int) -> None:
    request, response = (message.SerializeToString() for message in make_messages(1))
    groups = b"\xa3\x06" * depth + b"\xa4\x06" * depth  # field 100, which is unknown
    predict_pb2.PredictRequest.FromString(request + groups)  # as the server does
    good, hostile = (encode_bytes(data, response, client="mallory", time=5.25) for data in (request, request + groups))
    path = tmp_path / "log"
    path.write_bytes(record(good) + record(hostile))
    first, second = entries(path)
    np.testing.assert_array_equal(second.inputs(None), first.inputs(None), strict=True)
    assert (second.client, second.time, second.model, second.version) == ("mallory", 5.25, "clf", 7)


def test_a_log_serves_as_warmup_file(write_log: WriteLog, tmp_path: Path) -> None:
    """TensorFlow Serving runs the request of each record, by signature and inputs."""
    from dynamarks_tf.export.warmup import MAX_RECORDS, WARMUP_FILE
    from dynamarks_tf.serving.local_server.served_model import ServedModel

    module = tf.Module()
    function = tf.function(lambda image: {"probabilities": tf.nn.softmax(image)})
    spec = tf.TensorSpec((None, 4), tf.float32, name="image")
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=function.get_concrete_function(image=spec))
    file = tmp_path / "1" / WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    shutil.copy(write_log(20), file)
    model = ServedModel(tmp_path / "1", name="clf", version=1)
    records = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    assert len(records) == 20 <= MAX_RECORDS
    for data in records:
        request = prediction_log_pb2.PredictionLog.FromString(data).predict_log.request
        assert request.model_spec.signature_name in ("", "serving_default")
        assert model.predict(request.inputs)["probabilities"].shape == (1, 4)
    model.close()
