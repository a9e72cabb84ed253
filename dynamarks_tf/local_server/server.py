"""The embedded server: TensorFlow Serving's interfaces in this process, for development."""

from __future__ import annotations

import logging
import os
import threading
from concurrent import futures

from dynamarks_tf.errors import ServingError
from dynamarks_tf.local_server.grpc_service import GrpcServer
from dynamarks_tf.local_server.model_server import ModelServer
from dynamarks_tf.local_server.repository import Repository
from dynamarks_tf.local_server.request_recorder import CLIENT_HEADER, RequestRecorder, check_client_header
from dynamarks_tf.local_server.rest_service import TIMEOUT_S, RestApplication, RestServer
from dynamarks_tf.request_logs import PredictionLogWriter

LOG = logging.getLogger(__name__)


class LocalServer(ModelServer):
    """Serves a SavedModel from this process, where TensorFlow Serving is not installed.

    Paths, messages, status codes and error texts are TensorFlow Serving's, and the model runs in the same kind of
    session. There is no TLS, no authentication, no batching and no metrics: use it for development, on loopback.

    Args:
        base_path: the model's folder, with one numbered folder a version. The highest one is served.
        name: the name clients ask for; the folder's own name if not given.
        host: the address to listen on.
        grpc_port: the port for gRPC; any free one if 0, no gRPC if `None`.
        rest_port: the port for REST; any free one if 0, no REST if `None`.
        rest_timeout_s: seconds a prediction over REST may take; no limit if `None`. Over gRPC the client decides.
        request_log: a folder, to which answered predictions are logged with their answers, or a writer, which you
            close after the server. Read it with `dynamarks_tf.request_logs.open_log`.
        client_header: the HTTP header or gRPC metadata key whose value is logged as the client's name. It proves
            nothing unless what authenticates clients in front of this server sets it.

    Raises:
        ServingError: the ports contradict each other.
        ArgumentError: `client_header` is no name of a header, or of one that carries secrets.

    Example:
        >>> with LocalServer("served/clf", grpc_port=0, rest_port=0) as server:
        ...     requests.post(server.rest_url + ":predict", json={"instances": images.tolist()})
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        grpc_port: int | None = 8500,
        rest_port: int | None = 8501,
        rest_timeout_s: float | None = TIMEOUT_S,
        request_log: str | os.PathLike[str] | PredictionLogWriter | None = None,
        client_header: str = CLIENT_HEADER,
    ) -> None:
        super().__init__(base_path, name=name, host=host, grpc_port=grpc_port, rest_port=rest_port)
        self._rest_timeout_s = rest_timeout_s
        self._log_to = request_log
        self._client_header = check_client_header(client_header)
        self._writer = request_log if isinstance(request_log, PredictionLogWriter) else None
        self._repository: Repository | None = None
        self._fronts: list[GrpcServer | RestServer] = []
        self._stopped = threading.Event()
        self._stopped.set()

    @property
    def request_log(self) -> PredictionLogWriter | None:
        """The log of the predictions, from the start on; `None` if they are not logged."""
        return self._writer

    def start(self) -> None:
        if self._repository is not None:
            raise ServingError(f"The server for {self.base_path} is running already; stop it first.")
        self._repository = Repository(self.base_path, name=self.name)
        try:
            self._open_ports(self._repository, self._open_log())
        except BaseException:
            self.stop(grace_s=0)
            raise
        self._version = self._repository.latest.version
        self._stopped.clear()
        LOG.info("serving version %d of %s as %s", self._version, self.base_path, self.name)

    def stop(self, grace_s: float = 5.0) -> None:
        fronts, self._fronts = self._fronts, []
        if fronts:
            with futures.ThreadPoolExecutor(len(fronts)) as pool:  # both at once: they share the grace
                list(pool.map(lambda front: front.stop(grace_s), fronts))
        if self._repository is not None:
            self._repository.close()
            self._repository = None
        if self._writer is not None and self._writer is not self._log_to:
            self._writer.close()
        self._stopped.set()

    def wait(self) -> None:
        self._stopped.wait()

    def _open_log(self) -> RequestRecorder | None:
        if self._log_to is None:
            return None
        if not isinstance(self._log_to, PredictionLogWriter):
            self._writer = PredictionLogWriter(self._log_to)
        assert self._writer is not None
        return RequestRecorder(self._writer, self._client_header)

    def _open_ports(self, repository: Repository, recorder: RequestRecorder | None) -> None:
        if self.grpc_port is not None:
            grpc_server = GrpcServer(repository, host=self.host, port=self.grpc_port, recorder=recorder)
            self._fronts.append(grpc_server)
            self.grpc_port = grpc_server.port
        if self.rest_port is not None:
            application = RestApplication(repository, timeout_s=self._rest_timeout_s, recorder=recorder)
            rest_server = RestServer(application, host=self.host, port=self.rest_port)
            self._fronts.append(rest_server)
            self.rest_port = rest_server.port
