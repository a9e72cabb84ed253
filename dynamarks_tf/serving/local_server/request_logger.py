"""Logs the predictions of the local server, with the client's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tensorflow_serving.apis import predict_pb2

from dynamarks_tf.request_logs import PredictionLogWriter
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, check_client_header, read_client


class RequestLogger:
    """Hands requests and answers to a log.

    A header (REST) or a metadata key (gRPC) names the client. The component that authenticates clients in front of the
    server must set it: a client that sets it itself can choose any name. No other header is logged.

    Args:
        writer: the log.
        client_header: the name of the header.

    Raises:
        ArgumentError: `client_header` is not a valid header name, or names a header that carries secrets.
    """

    def __init__(self, writer: PredictionLogWriter, client_header: str = CLIENT_HEADER) -> None:
        self._writer = writer
        self._header = check_client_header(client_header)

    def client(self, headers: Iterable[tuple[str, str | bytes]]) -> str | None:
        """Returns the client's name, `None` if the headers do not hold it."""
        return read_client(headers, self._header)

    def log(
        self,
        request: predict_pb2.PredictRequest,
        response: Callable[[], predict_pb2.PredictResponse],
        client: str | None,
    ) -> None:
        """Logs an answer that is about to be sent. It never fails, because the answer matters more than the log.

        Args:
            request: the request.
            response: makes the message with the answer.
            client: the client's name, if known.
        """
        try:
            self._writer.log(request, response(), client=client)
        except Exception as error:
            self._writer.drop(f"it cannot be queued: {type(error).__name__}", client)
