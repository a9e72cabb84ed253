"""Warm-up requests: TensorFlow Serving runs them before it lets a new version answer clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import ArgumentError

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000  # TensorFlow Serving refuses to load a model with more


def write_warmup(
    folder: Path, inputs: Mapping[str, npt.NDArray[np.generic]], *, model_name: str, signature_name: str
) -> Path:
    """Writes the warm-up file of a SavedModel: a TFRecord of `PredictionLog`, one request a row.

    Args:
        folder: the SavedModel; the file is created in its `assets.extra`.
        inputs: example inputs by alias, each of shape `(n, ...)` and of the type the signature takes; n <= 1000.
        model_name: the name under which the model will be served.
        signature_name: the signature to call.

    Returns:
        The file written.

    Raises:
        ArgumentError: there are no rows, more than 1000, or different numbers of them for different inputs.

    Example:
        >>> write_warmup(folder, {"inputs": images[:32]}, model_name="clf", signature_name="serving_default")
    """
    import tensorflow as tf

    rows = _row_count(inputs)
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in _records(inputs, rows, model_name, signature_name):
            writer.write(record)
    return path


def _records(
    inputs: Mapping[str, npt.NDArray[np.generic]], rows: int, model_name: str, signature_name: str
) -> Iterator[bytes]:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    for row in range(rows):
        log = prediction_log_pb2.PredictionLog()
        request = log.predict_log.request
        request.model_spec.name = model_name
        request.model_spec.signature_name = signature_name
        for alias, values in inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(values[row : row + 1]))
        yield log.SerializeToString()


def _row_count(inputs: Mapping[str, npt.NDArray[np.generic]]) -> int:
    counts = {alias: len(values) for alias, values in inputs.items()}
    rows = next(iter(counts.values()))
    if len(set(counts.values())) > 1:
        raise ArgumentError(f"The warm-up inputs have different numbers of rows: {counts}. Give all the same number.")
    if not 1 <= rows <= MAX_RECORDS:
        raise ArgumentError(
            f"The warm-up inputs have {rows} rows; TensorFlow Serving takes 1 to {MAX_RECORDS}. A few are enough: "
            "warmup=x[:32]."
        )
    return rows
