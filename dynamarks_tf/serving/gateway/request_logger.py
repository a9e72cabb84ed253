"""Logs predictions that pass through the proxy, as bytes; the thread of the log decodes them."""

from __future__ import annotations

import functools
import time

from dynamarks_tf.request_logs import PredictionLogWriter
from dynamarks_tf.request_logs.prediction_log import encode_bytes
from dynamarks_tf.serving.gateway.rest_prediction import RestDecoder, RestPrediction, encode_undecoded


class RequestLogger:
    """Logs predictions. Its methods return at once and never fail.

    Args:
        writer: the log.
        rest_url: the server that answers over REST; `None` if there is none.
        max_body_bytes: the largest size of a gzip body after decompression.
    """

    def __init__(self, writer: PredictionLogWriter, rest_url: str | None, max_body_bytes: int) -> None:
        self._writer = writer
        self._decoder = RestDecoder(rest_url, max_body_bytes) if rest_url is not None else None

    def log_grpc(self, request: bytes | memoryview, response: bytes, client: str | None) -> None:
        """Logs a call of Predict."""
        encoded = functools.partial(encode_bytes, request, response, client=client, time=time.time())
        self._writer.log_later(len(request) + len(response), encoded, client=client)

    def log_rest(self, path: str, body: bytes, answer: bytes, *, is_packed: bool, client: str | None) -> None:
        """Logs a prediction over REST."""
        assert self._decoder is not None
        prediction = RestPrediction(path, body, is_packed, answer, client, time.time())
        self._writer.log_later(
            len(body) + len(answer),
            functools.partial(self._decoder.encode, prediction),
            undecoded=functools.partial(encode_undecoded, prediction),
            client=client,
        )

    def count_unknown(self, client: str | None) -> None:
        """Counts an answer that may be a prediction but cannot be logged as one."""
        self._writer.drop("its path has an unknown form", client)
