"""Logs the predictions of the local server, with the name of the client that asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from tensorflow_serving.apis import predict_pb2

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.request_logs import PredictionLogWriter

CLIENT_HEADER = "x-client-id"
LONGEST_NAME = 256  # characters of a client's name

_HEADER = re.compile(r"[a-z0-9][a-z0-9-]*")
_SECRET = re.compile(r"authorization|cookie|token|secret|password|api-?key|session|-bin$")


class RequestRecorder:
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
        names = [str(value).strip() for name, value in headers if name.lower() == self._header]
        return ",".join(names)[:LONGEST_NAME] or None

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
            self._writer.drop(f"it cannot be queued: {error}")


def check_client_header(name: str) -> str:
    """Returns the header's name in lower case, as gRPC has it.

    Raises:
        ArgumentError: this is no name of a header, or of one that carries secrets, which a log must not hold.
    """
    lower = name.lower()
    if not _HEADER.fullmatch(lower):
        raise ArgumentError(f"`client_header` must be made of letters, digits and hyphens. Received: {name!r}")
    if _SECRET.search(lower):
        raise ArgumentError(
            f"The header {name!r} carries secrets, which must not be logged. Name one that holds the client's name, "
            f"set by whatever checks the secret, such as {CLIENT_HEADER!r}."
        )
    return lower
