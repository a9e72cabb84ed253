"""TensorFlow Serving's gRPC interface, on the service classes of tensorflow-serving-api."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from dynamarks_tf import foreign_text
from dynamarks_tf.serving.local_server import calls
from dynamarks_tf.serving.local_server.metrics import UNKNOWN_MODEL, Metrics
from dynamarks_tf.serving.local_server.repository import Repository
from dynamarks_tf.serving.local_server.request_logger import RequestLogger
from dynamarks_tf.serving.protocol import ports
from dynamarks_tf.serving.protocol.status import Code, StatusError, internal_error

LOG = foreign_text.logger(__name__)

THREADS = 4 * (os.cpu_count() or 1)
HANDSHAKE_MS = 10_000  # for which a connection may be silent at its start
IDLE_MS = 300_000
MOST_CALLS = 1000  # that wait for a thread; more are refused
LONGEST_MESSAGE = 1024  # characters of an error text
LONGEST_WAIT_S = 365 * 24 * 3600.0  # gRPC puts the deadline of a call without one into the far future
HEALTH_NAMES = ("", "ModelService", "PredictionService")
RELOAD_IS_OFF = (
    "HandleReloadConfigRequest is off, because it lets every client load any folder. Start the server with "
    "--allow-config-reload to switch it on."
)

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}

Result = TypeVar("Result")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata. The calls that take `tf.train.Example`s are refused."""

    def __init__(self, repository: Repository, metrics: Metrics, request_logger: RequestLogger | None = None) -> None:
        self._repository = repository
        self._metrics = metrics
        self._request_logger = request_logger

    def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        timeout_s = _time_left(context)
        response = _reply(context, lambda: self._predict(request, timeout_s))
        if self._request_logger is not None:
            client = self._request_logger.client(context.invocation_metadata())
            self._request_logger.log(request, lambda: response, client)
        return response

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return _reply(context, lambda: calls.model_metadata(self._repository, request))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        _abort(context, StatusError(Code.UNIMPLEMENTED, calls.ONLY_PREDICT))

    Regress = MultiInference = Classify

    def _predict(self, request: predict_pb2.PredictRequest, timeout_s: float | None) -> predict_pb2.PredictResponse:
        name = request.model_spec.name
        counted_as = name if self._repository.knows(name) else UNKNOWN_MODEL
        with self._metrics.request(counted_as, api="Predict", entrypoint="GRPC"):
            answer = calls.predict(self._repository, request, timeout_s=timeout_s)
            self._metrics.record_runtime(answer.model_spec.name, answer.runtime_s)
            return answer.to_response()


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and, if allowed, HandleReloadConfigRequest."""

    def __init__(self, repository: Repository, *, allow_config_reload: bool = False) -> None:
        self._repository = repository
        self._allow_config_reload = allow_config_reload

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return _reply(context, lambda: calls.model_status(self._repository, request))

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        if not self._allow_config_reload:
            _abort(context, StatusError(Code.PERMISSION_DENIED, RELOAD_IS_OFF))
        return _reply(context, lambda: calls.reload_config(self._repository, request))


class GrpcServer:
    """A gRPC server on its own threads.

    Args:
        repository: the models to serve.
        metrics: counts the requests.
        host: the address to listen on.
        port: the port to listen on; any free one if 0.
        request_logger: logs the predictions; no log if `None`.
        max_request_bytes: the largest size of a request; the largest that gRPC accepts if `None`.
        allow_config_reload: whether clients may change the models that are served.
        health_service: whether to answer gRPC's standard health checks.

    Raises:
        ServingError: the port cannot be opened.
    """

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        *,
        host: str,
        port: int,
        request_logger: RequestLogger | None = None,
        max_request_bytes: int | None = None,
        allow_config_reload: bool = False,
        health_service: bool = False,
    ) -> None:
        options = [
            ("grpc.max_receive_message_length", -1 if max_request_bytes is None else max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # otherwise a second server could share the port
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
        ]
        self._server = grpc.server(
            futures.ThreadPoolExecutor(THREADS, "grpc-server"), options=options, maximum_concurrent_rpcs=MOST_CALLS
        )
        predictions = PredictionService(repository, metrics, request_logger)
        models = ModelService(repository, allow_config_reload=allow_config_reload)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        if health_service:
            answers = health.HealthServicer()
            for name in HEALTH_NAMES:
                answers.set(name, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(answers, self._server)
        free = ports.find_free(host, port, "gRPC")  # gRPC itself writes to stderr about a port in use
        self.port = self._server.add_insecure_port(f"[{host}]:{free}" if ":" in host else f"{host}:{free}")
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Refuses new calls at once, and lets those under way end within `grace_s` seconds."""
        self._server.stop(grace_s).wait()


def _reply(context: grpc.ServicerContext, call: Callable[[], Result]) -> Result:
    try:
        return call()
    except StatusError as error:
        problem = error
    except Exception:
        LOG.exception("a call over gRPC failed")
        problem = internal_error()
    _abort(context, problem)


def _abort(context: grpc.ServicerContext, error: StatusError) -> NoReturn:
    message = error.message
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "...TRUNCATED"
    context.abort(_GRPC_CODES[error.code], message)
    raise AssertionError("abort() raises")


def _time_left(context: grpc.ServicerContext) -> float | None:
    """Returns the seconds until the client gives up, `None` if it waits forever."""
    seconds = context.time_remaining()
    return None if seconds is None or seconds > LONGEST_WAIT_S else float(seconds)
