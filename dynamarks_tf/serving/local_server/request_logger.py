"""Logs the predictions of the local server, with the name of the client that asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tensorflow_serving.apis import predict_pb2

from dynamarks_tf.request_logs import PredictionLogWriter
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, check_client_header, read_client

__all__ = ["CLIENT_HEADER", "RequestLogger", "check_client_header"]


class RequestLogger:
    """Hands requests and answers to a log.

    The client is named by a header (REST) or a metadata key (gRPC), which whatever authenticates clients in front of
    the server has to set: a client that can set it itself can call itself anything. Nothing else of the headers is
    logged.

    Args:
        writer: the log.
        client_header: the name of the header.

    Raises:
        ArgumentError: this is no name of a header, or of one that carries secrets.
    """

    def __init__(self, writer: PredictionLogWriter, client_header: str = CLIENT_HEADER) -> None:
        self._writer = writer
        self._header = check_client_header(client_header)

    def client(self, headers: Iterable[tuple[str, str | bytes]]) -> str | None:
        """Returns the client's name, `None` if the headers do not tell it."""
        return read_client(headers, self._header)

    def record(
        self,
        request: predict_pb2.PredictRequest,
        response: Callable[[], predict_pb2.PredictResponse],
        client: str | None,
    ) -> None:
        """Logs an answer that is about to be sent. Never fails: the answer counts, not the log.

        Args:
            request: what was asked.
            response: makes the message with the answer.
            client: who asked.
        """
        try:
            self._writer.log(request, response(), client=client)
        except Exception as error:
            self._writer.drop(f"it cannot be queued: {type(error).__name__}", client)
