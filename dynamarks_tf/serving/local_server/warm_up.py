"""Runs a version's warm-up requests before it answers clients, as TensorFlow Serving does."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from dynamarks_tf._support import storage
from dynamarks_tf.errors import LogError, ServingError
from dynamarks_tf.export.warmup import MAX_RECORDS, WARMUP_FILE
from dynamarks_tf.request_logs.tf_record import Damage, read_records
from dynamarks_tf.serving.local_server.served_model import ServedModel
from dynamarks_tf.serving.protocol.status import Code, StatusError
from dynamarks_tf.serving.protocol.tensors import DEFAULT_SIGNATURE


def warm_up(model: ServedModel) -> None:
    """Runs the requests in `assets.extra/tf_serving_warmup_requests`, if there is such a file.

    Args:
        model: the model to run; the names and versions of models in the requests do not matter.

    Raises:
        ServingError: the file is damaged or too long, or a request fails or is not one of Predict.
    """
    path = model.path / WARMUP_FILE
    if not path.exists():
        return
    count = 0
    try:
        for count, (_, record) in enumerate(read_records(storage.local_file(path)), 1):
            if count > MAX_RECORDS:
                break
            if isinstance(record, Damage):
                raise LogError(f"it is corrupt: {record.problem}")
            _run(model, prediction_log_pb2.PredictionLog.FromString(record))
    except (OSError, LogError, DecodeError, StatusError) as error:
        raise ServingError(f"{path}: warm-up request {count} fails: {error}") from error
    if count > MAX_RECORDS:
        raise ServingError(
            f"{path} holds more than {MAX_RECORDS} warm-up requests; TensorFlow Serving accepts no more."
        )


def _run(model: ServedModel, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        model.predict(request.inputs, signature_name=request.model_spec.signature_name or DEFAULT_SIGNATURE)
    elif kind is not None:
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}. Use predict_log.")
