"""TensorFlow Serving's gRPC interface, on the service classes of tensorflow-serving-api."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from dynamarks_tf.local_server import calls, ports
from dynamarks_tf.local_server.repository import Repository
from dynamarks_tf.local_server.request_recorder import RequestRecorder
from dynamarks_tf.local_server.status import Code, StatusError

THREADS = 4 * (os.cpu_count() or 1)
LONGEST_MESSAGE = 1024  # characters of an error text
LONGEST_WAIT_S = 365 * 24 * 3600.0  # gRPC reports the deadline of a call without one as the far future

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # else a second server would share the port instead of being refused
]

Result = TypeVar("Result")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, repository: Repository, recorder: RequestRecorder | None = None) -> None:
        self._repository = repository
        self._recorder = recorder

    def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        timeout_s = _time_left(context)
        answer = _reply(context, lambda: calls.predict(self._repository, request, timeout_s=timeout_s))
        response = answer.to_response()
        if self._recorder is not None:
            self._recorder.record(request, lambda: response, self._recorder.client(context.invocation_metadata()))
        return response

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return _reply(context, lambda: calls.model_metadata(self._repository, request))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        self._refuse_examples(request, context, "classify")

    def Regress(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        self._refuse_examples(request, context, "regress")

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _abort(context, StatusError(Code.UNIMPLEMENTED, f"{calls.NOT_SERVED} MultiInference."))

    def _refuse_examples(self, request: Any, context: grpc.ServicerContext, method: str) -> NoReturn:
        _abort(context, _reply(context, lambda: calls.refuse_examples(self._repository, request.model_spec, method)))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return _reply(context, lambda: calls.model_status(self._repository, request))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _abort(context, StatusError(Code.UNIMPLEMENTED, f"{calls.NOT_SERVED} changing its configuration."))


class GrpcServer:
    """A gRPC server on its own threads.

    Args:
        repository: what is served.
        host: the address to listen on.
        port: the port to listen on; any free one if 0.
        recorder: what logs the predictions, if anything does.

    Raises:
        ServingError: the port cannot be had.
    """

    def __init__(
        self, repository: Repository, *, host: str, port: int, recorder: RequestRecorder | None = None
    ) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(THREADS, "grpc-server"), options=_OPTIONS)
        service = PredictionService(repository, recorder)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(repository), self._server)
        free = ports.find_free(host, port, "gRPC")  # gRPC itself would write to stderr if it is not
        self.port = self._server.add_insecure_port(f"[{host}]:{free}" if ":" in host else f"{host}:{free}")
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Refuses new calls at once, and gives the ones being answered `grace_s` seconds to end."""
        self._server.stop(grace_s).wait()


def _reply(context: grpc.ServicerContext, call: Callable[[], Result]) -> Result:
    try:
        return call()
    except StatusError as error:
        _abort(context, error)


def _abort(context: grpc.ServicerContext, error: StatusError) -> NoReturn:
    message = error.message
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "...TRUNCATED"
    context.abort(_GRPC_CODES[error.code], message)
    raise AssertionError("abort() raises")


def _time_left(context: grpc.ServicerContext) -> float | None:
    """Returns the seconds until the client gives up, `None` if it waits for ever."""
    seconds = context.time_remaining()
    return None if seconds is None or seconds > LONGEST_WAIT_S else float(seconds)
