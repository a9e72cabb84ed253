"""The warm-up file has the form that TensorFlow Serving reads, and every request in it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from dynamarks_tf.export import export_saved_model


def logs_in(path: Path) -> list[Any]:
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))
    ]


def test_every_request_is_one_row_and_runs(exported: Any) -> None:
    loaded = tf.saved_model.load(str(exported.path))
    given = exported.inputs(3)
    logs = logs_in(exported.path)
    assert len(logs) == 3
    for row, log in enumerate(logs):
        request = log.predict_log.request
        assert request.model_spec.name == "clf"
        inputs = {alias: tf.make_ndarray(tensor) for alias, tensor in request.inputs.items()}
        for alias, values in given.items():
            np.testing.assert_array_equal(inputs[alias], values[row : row + 1])
        signature = loaded.signatures[request.model_spec.signature_name]
        assert signature(**{k: tf.constant(v) for k, v in inputs.items()})["probabilities"].shape == (1, 5)


def test_values_get_the_type_of_the_signature(classifier: keras.Model, version: Path) -> None:
    export_saved_model(classifier, version, warmup=[[1, 2, 3, 4]], signature_name="classify")
    (log,) = logs_in(version)
    assert log.predict_log.request.inputs["readings"].dtype == tf.float32.as_datatype_enum
    assert log.predict_log.request.model_spec.signature_name == "classify"


def test_as_many_requests_as_the_server_takes(classifier: keras.Model, version: Path) -> None:
    export_saved_model(classifier, version, warmup=np.ones((1000, 4)))
    assert len(logs_in(version)) == 1000


def test_no_file_without_examples(classifier: keras.Model, version: Path) -> None:
    export_saved_model(classifier, version)
    assert not (version / "assets.extra").exists()
