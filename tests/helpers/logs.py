"""Request logs as tests write and read them. Reading uses TensorFlow and the messages alone, no code of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from dynamarks_tf._support import storage
from dynamarks_tf._support.storage import StoredFile
from dynamarks_tf.request_logs.tf_record import frame


class Logged(NamedTuple):
    """One prediction.

    Attributes:
        client: the client's name, `None` if it was not recorded.
        time: whole seconds since 1970.
        spec: name, version and signature of the model that answered.
        inputs: arrays by name.
        answers: arrays by name.
        request: the message that was sent.
    """

    client: str | None
    time: int
    spec: Any
    inputs: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]
    request: Any


def read_predictions(folder: Path) -> list[Logged]:
    """Returns what a server has logged to a folder, in the order of writing."""
    files = [str(path) for path in sorted(folder.glob("*.tfrecord"))]
    return [_logged(data) for data in tf.data.TFRecordDataset(files).as_numpy_iterator()] if files else []


def record(data: bytes) -> bytes:
    """Returns a record with `data` in it, as it stands in a file."""
    return b"".join(frame(data))


def stored(path: Path) -> StoredFile:
    """Returns a file as the readers take it."""
    return storage.local_file(path)


def _logged(data: bytes) -> Logged:
    log = prediction_log_pb2.PredictionLog.FromString(data)
    request, response = log.predict_log.request, log.predict_log.response
    return Logged(
        log.log_metadata.request_origin or None,
        log.log_metadata.timestamp_secs,
        log.log_metadata.model_spec,
        {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()},
        {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()},
        request,
    )
