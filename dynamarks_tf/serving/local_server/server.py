"""TensorFlow Serving's interfaces in this process, for development."""

from __future__ import annotations

import os
import threading
from concurrent import futures
from pathlib import Path

from dynamarks_tf import foreign_text
from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.request_logs import PredictionLogWriter
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, check_client_header
from dynamarks_tf.serving.local_server import config_files
from dynamarks_tf.serving.local_server.config_files import ModelConfig
from dynamarks_tf.serving.local_server.grpc_service import GrpcServer
from dynamarks_tf.serving.local_server.http_server import HttpServer
from dynamarks_tf.serving.local_server.metrics import Metrics
from dynamarks_tf.serving.local_server.model_server import ModelServer
from dynamarks_tf.serving.local_server.polling import Poller
from dynamarks_tf.serving.local_server.repository import Repository
from dynamarks_tf.serving.local_server.request_logger import RequestLogger
from dynamarks_tf.serving.local_server.rest_service import TIMEOUT_S, RestApplication
from dynamarks_tf.serving.protocol.status import StatusError

LOG = foreign_text.logger(__name__)

StrPath = str | os.PathLike[str]
LARGEST_REQUEST = 100 * 2**20  # bytes


class LocalServer(ModelServer):
    """Serves SavedModels from this process, without an installation of TensorFlow Serving.

    Paths, messages, status codes, error texts, configuration files and their names are TensorFlow Serving's. The model
    runs in the same kind of session. There is no TLS and no authentication: use it for development, on loopback.

    Intentional differences:

    - Of the calls for inference, only Predict is served.
    - Each request runs by itself, without batching.
    - A missing model is an error, while TensorFlow Serving waits for it forever.
    - A model that cannot be loaded is tried once.
    - Labels in the first configuration file may name versions that the same file loads.
    - Clients cannot change the models that are served unless that is allowed.
    - Requests for unknown models are counted under one name.

    Args:
        base_path: the model's folder, with one numbered folder per version. The highest one is served.
        name: the name clients ask for; the folder's own name if not given.
        host: the address to listen on.
        grpc_port: the port for gRPC; any free one if 0, no gRPC if `None`.
        rest_port: the port for REST; any free one if 0, no REST if `None`.
        rest_timeout_s: seconds that a prediction over REST may take; no limit if `None`. Over gRPC the client decides.
        request_log: a folder in which predictions are logged with their answers, or a writer, which you close after the
            server. Read it with `dynamarks_tf.request_logs.open_log`.
        client_header: the HTTP header or gRPC metadata key whose value is logged as the client's name. It proves
            nothing unless the component that authenticates clients in front of this server sets it.
        model_config_file: models, versions and labels to serve, instead of `base_path` and `name`; a ModelServerConfig
            in text format. `name` and the URLs of this object are those of the first model.
        model_config_file_poll_wait_seconds: seconds between checks of that file for changes; it is read once if 0.
        file_system_poll_wait_seconds: seconds between checks for new versions, which are loaded before old ones are
            unloaded; only the versions at the start are served if 0.
        monitoring_config_file: whether the REST port serves Prometheus metrics, and under which path; a
            MonitoringConfig in text format. No metrics if `None`.
        max_request_bytes: the largest size of a request, over REST and gRPC, also when it is unpacked. If `None`, it is
            unlimited over REST and 2 GiB over gRPC, as in TensorFlow Serving.
        allow_config_reload: whether clients may call HandleReloadConfigRequest, and so load any folder. TensorFlow
            Serving always allows it.
        enable_grpc_healthcheck_service: whether to answer gRPC's standard health checks.
        rest_api_enable_cors_support: whether browsers may send REST requests from pages of any origin.

    Raises:
        ServingError: the ports contradict each other, or a file cannot be used.
        ArgumentError: `client_header` is not a valid header name, or names a header that carries secrets; or there is
            not exactly one of `base_path` and `model_config_file`; or a number is negative.

    Example:
        >>> with LocalServer("served/clf", grpc_port=0, rest_port=0) as server:
        ...     requests.post(server.rest_url + ":predict", json={"instances": images.tolist()})
    """

    def __init__(
        self,
        base_path: StrPath | None = None,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        grpc_port: int | None = 8500,
        rest_port: int | None = 8501,
        rest_timeout_s: float | None = TIMEOUT_S,
        request_log: StrPath | PredictionLogWriter | None = None,
        client_header: str = CLIENT_HEADER,
        model_config_file: StrPath | None = None,
        model_config_file_poll_wait_seconds: float = 0.0,
        file_system_poll_wait_seconds: float = 1.0,
        monitoring_config_file: StrPath | None = None,
        max_request_bytes: int | None = LARGEST_REQUEST,
        allow_config_reload: bool = False,
        enable_grpc_healthcheck_service: bool = False,
        rest_api_enable_cors_support: bool = False,
    ) -> None:
        if (base_path is None) == (model_config_file is None) or (name is not None and model_config_file is not None):
            raise ArgumentError("Give either a model's folder, with or without a name, or `model_config_file`.")
        if min(model_config_file_poll_wait_seconds, file_system_poll_wait_seconds, max_request_bytes or 0) < 0:
            raise ArgumentError("Seconds and bytes must not be negative.")
        self._config_file = None if model_config_file is None else Path(model_config_file)
        if self._config_file is not None:
            first = config_files.read_models(self._config_file)[0]
            base_path, name = first.base_path, first.name
        assert base_path is not None
        super().__init__(base_path, name=name, host=host, grpc_port=grpc_port, rest_port=rest_port)
        self._rest_timeout_s = rest_timeout_s
        self._log_to = request_log
        self._client_header = check_client_header(client_header)
        self._writer = request_log if isinstance(request_log, PredictionLogWriter) else None
        self._config_poll_s = model_config_file_poll_wait_seconds
        self._versions_poll_s = file_system_poll_wait_seconds
        self._metrics_path = (
            None if monitoring_config_file is None else config_files.read_metrics_path(monitoring_config_file)
        )
        self._max_request_bytes = max_request_bytes
        self._allow_config_reload = allow_config_reload
        self._health_service = enable_grpc_healthcheck_service
        self._enable_cors = rest_api_enable_cors_support
        self._models: tuple[ModelConfig, ...] = ()
        self._repository: Repository | None = None
        self._pollers: list[Poller] = []
        self._fronts: list[GrpcServer | HttpServer] = []
        self._stopped = threading.Event()
        self._stopped.set()

    @property
    def version(self) -> int:
        """The highest version served now, or at the end of the last run."""
        if self._repository is not None:
            try:
                self._version = self._repository.latest_version(self.name)
            except StatusError as error:
                raise ServingError(f"No version of {self.name} is served now.") from error
        return super().version

    @property
    def request_log(self) -> PredictionLogWriter | None:
        """The log of the predictions, from the start on; `None` if they are not logged."""
        return self._writer

    @property
    def metrics_url(self) -> str | None:
        """The URL of the Prometheus metrics; `None` if there is none."""
        return None if self._metrics_path is None else self.rest_url.partition("/v1/")[0] + self._metrics_path

    def start(self) -> None:
        if self._repository is not None:
            raise ServingError(f"The server for {self.base_path} is running already; stop it first.")
        try:
            self._models = self._read_models()
            self._repository = Repository(self._models)
            self._open_ports(self._repository, self._open_log())
            self._start_polling(self._repository)
        except BaseException:
            self.stop(grace_s=0)
            raise
        self._stopped.clear()
        LOG.info("serving version %d of %s as %s", self.version, self.base_path, self.name)

    def stop(self, grace_s: float = 5.0) -> None:
        fronts, self._fronts = self._fronts, []
        if fronts:
            with futures.ThreadPoolExecutor(len(fronts)) as pool:  # both at once: they share the grace period
                list(pool.map(lambda front: front.stop(grace_s), fronts))
        pollers, self._pollers = self._pollers, []
        for poller in pollers:
            poller.stop()
        if self._repository is not None:
            self._repository.close()
            self._repository = None
        if self._writer is not None and self._writer is not self._log_to:
            self._writer.close()
        self._stopped.set()

    def wait(self) -> None:
        self._stopped.wait()

    def _read_models(self) -> tuple[ModelConfig, ...]:
        if self._config_file is None:
            return (ModelConfig(self.name, self.base_path),)
        return config_files.read_models(self._config_file)

    def _open_log(self) -> RequestLogger | None:
        if self._log_to is None:
            return None
        if not isinstance(self._log_to, PredictionLogWriter):
            self._writer = PredictionLogWriter(self._log_to)
        assert self._writer is not None
        return RequestLogger(self._writer, self._client_header)

    def _open_ports(self, repository: Repository, request_logger: RequestLogger | None) -> None:
        metrics = Metrics()
        if self.grpc_port is not None:
            grpc_server = GrpcServer(
                repository,
                metrics,
                host=self.host,
                port=self.grpc_port,
                request_logger=request_logger,
                max_request_bytes=self._max_request_bytes,
                allow_config_reload=self._allow_config_reload,
                health_service=self._health_service,
            )
            self._fronts.append(grpc_server)
            self.grpc_port = grpc_server.port
        if self.rest_port is not None:
            application = RestApplication(
                repository,
                metrics,
                timeout_s=self._rest_timeout_s,
                request_logger=request_logger,
                metrics_path=self._metrics_path,
                max_request_bytes=self._max_request_bytes,
                enable_cors=self._enable_cors,
            )
            rest_server = HttpServer(
                application, host=self.host, port=self.rest_port, max_request_bytes=self._max_request_bytes
            )
            self._fronts.append(rest_server)
            self.rest_port = rest_server.port

    def _start_polling(self, repository: Repository) -> None:
        if self._versions_poll_s:
            self._pollers.append(Poller(repository.refresh, interval_s=self._versions_poll_s, name="version-poller"))
        if self._config_file is not None and self._config_poll_s:
            poller = Poller(self._reread_models, interval_s=self._config_poll_s, name="config-poller")
            self._pollers.append(poller)

    def _reread_models(self) -> None:
        models = self._read_models()
        if models != self._models and self._repository is not None:
            self._models = models  # set first: a change that fails is not tried again and again
            self._repository.reconfigure(models)
            LOG.info("%s has been read again", self._config_file)
