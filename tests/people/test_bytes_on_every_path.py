"""Bytes that are no UTF-8, with zeros at either end, come through every path as they are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from dynamarks_tf.request_logs import open_log
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.queries import as_queries
from tests.helpers.server_clients import over_grpc
from tests.helpers.suspects import answers_of

VALUES = np.array([b"plain", "größer".encode(), b"\xff\xfe", b"\0both\0", b"", b'{"b64": "AA=="}'], object)


def _buckets(text: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"probabilities": tf.one_hot(tf.strings.to_hash_bucket_fast(text, 997), 997)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "clf"
    function = tf.function(_buckets, input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    tf.saved_model.save(tf.Module(), str(folder / "1"), signatures=function.get_concrete_function())
    return folder


@pytest.mark.parametrize("over", ["grpc", "rest"])
def test_served_suspects(model, over):
    with LocalServer(model, grpc_port=0, rest_port=0) as server:
        found = answers_of(
            as_suspect(f"grpc://{server.grpc_address}/clf" if over == "grpc" else server.rest_url), VALUES
        )
    np.testing.assert_array_equal(found, _buckets(tf.constant(VALUES))["probabilities"])


def test_a_log_of_two_clients(model, tmp_path):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "clf"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(VALUES))
    with LocalServer(model, grpc_port=0, rest_port=0, request_log=tmp_path) as server:
        over_grpc(server, request, ("x-client-id", "bytes"))
        words = {"instances": ["größer"]}
        requests.post(f"{server.rest_url}:predict", json=words, headers={"x-client-id": "words"}, timeout=30)
    for client, expected in (("bytes", VALUES.tolist()), ("words", ["größer".encode()])):
        (found,) = open_log(tmp_path, client=client).batches(10)
        assert found.tolist() == expected


def test_a_py_dataset():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return VALUES[3 * index : 3 * index + 3], np.zeros(3)

    assert np.concatenate(list(as_queries(Batches()).batches(2))).tolist() == VALUES.tolist()


def test_pandas():
    pandas = pytest.importorskip("pandas")
    assert np.concatenate(list(as_queries(pandas.Series(VALUES)).batches(2))).tolist() == VALUES.tolist()
