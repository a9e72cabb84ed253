"""The real server: `tensorflow_model_server`, run as a child process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from dynamarks_tf import foreign_text
from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.local_server.model_server import ModelServer
from dynamarks_tf.serving.local_server.versions import find_versions
from dynamarks_tf.serving.protocol import ports

LOG = foreign_text.logger(__name__)

BINARY = "tensorflow_model_server"
LOG_TAIL = 2000  # characters of the server's log that an error repeats
POLL_S = 0.2
STATUS_TIMEOUT_S = 5.0
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


class TensorFlowServing(ModelServer):
    """Serves a SavedModel with TensorFlow Serving, as it is run in production.

    It has no option to listen on one address only: it can be reached from the network whatever `host` is.

    Args:
        base_path: the model's folder, with one numbered folder per version. The highest one is served.
        name: the name clients ask for; the folder's own name if not given.
        host: the address under which clients in this process reach it.
        grpc_port: the port for gRPC; any free one if 0, no gRPC if `None`.
        rest_port: the port for REST; any free one if 0, no REST if `None`.
        start_timeout_s: seconds within which the model must be loaded.

    Attributes:
        log_path: the file of the server's log, from start to stop.

    Raises:
        ServingError: the ports contradict each other.
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        grpc_port: int | None = 8500,
        rest_port: int | None = 8501,
        start_timeout_s: float = 120.0,
    ) -> None:
        super().__init__(base_path, name=name, host=host, grpc_port=grpc_port, rest_port=rest_port)
        self.log_path: Path | None = None
        self._start_timeout_s = start_timeout_s
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def find() -> str | None:
        """Returns the path of the server's executable, `None` if it is not on PATH."""
        return shutil.which(BINARY)

    def start(self) -> None:
        if self._process is not None:
            raise ServingError(f"The server for {self.base_path} is running already; stop it first.")
        executable = self.find()
        if executable is None:
            raise ServingError(f"{BINARY} is not on PATH. Install TensorFlow Serving, or use LocalServer.")
        find_versions(self.base_path)  # without one, TensorFlow Serving waits forever
        if self.grpc_port is not None:
            self.grpc_port = ports.find_free("0.0.0.0", self.grpc_port, "gRPC")
        if self.rest_port is not None:
            self.rest_port = ports.find_free("0.0.0.0", self.rest_port, "REST")
        self._folder = tempfile.TemporaryDirectory(prefix="tensorflow-serving-")
        self.log_path = Path(self._folder.name) / "server.log"
        try:
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(executable), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            self._version = self._wait_until_available(self._process)
            self._check_rest_port()
        except BaseException:
            self.stop(grace_s=0)
            raise
        if self.host not in ("0.0.0.0", "::"):
            LOG.warning("TensorFlow Serving listens on all addresses, not on %s only", self.host)

    def stop(self, grace_s: float = 5.0) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def wait(self) -> None:
        if self._process is not None:
            self._process.wait()

    @property
    def _socket_path(self) -> str:
        assert self._folder is not None
        return f"{self._folder.name}/grpc.sock"

    def _command(self, executable: str) -> list[str]:
        return [
            executable,
            f"--model_name={self.name}",
            f"--model_base_path={self.base_path}",
            f"--port={self.grpc_port or 0}",
            f"--grpc_socket_path={self._socket_path}",  # for our status requests, even if gRPC is off
            f"--rest_api_port={self.rest_port or 0}",
            "--max_num_load_retries=0",  # otherwise a damaged model is tried for five minutes
        ]

    def _wait_until_available(self, process: subprocess.Popen[bytes]) -> int:
        """Returns the version that has been loaded."""
        deadline = time.monotonic() + self._start_timeout_s
        with grpc.insecure_channel(f"unix:{self._socket_path}") as channel:
            service = model_service_pb2_grpc.ModelServiceStub(channel)
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = self.name
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    states = service.GetModelStatus(request, timeout=STATUS_TIMEOUT_S).model_version_status
                except grpc.RpcError:
                    states = []
                versions = [int(state.version) for state in states if state.state == AVAILABLE]
                if versions:
                    return max(versions)
                time.sleep(POLL_S)
        if process.poll() is None:
            raise self._failure(f"has not loaded {self.base_path} within {self._start_timeout_s:g} s")
        raise self._failure(f"ended with exit code {process.returncode}")

    def _check_rest_port(self) -> None:
        """Raises an error if REST is not served: TensorFlow Serving ignores a port that it cannot open."""
        if self.rest_port is None:
            return
        try:
            socket.create_connection((self.host, self.rest_port), timeout=STATUS_TIMEOUT_S).close()
        except OSError:
            raise self._failure(f"has not opened REST port {self.rest_port}") from None

    def _failure(self, what: str) -> ServingError:
        log = self.log_path.read_text(errors="replace") if self.log_path else ""
        return ServingError(f"{BINARY} {what}. The end of its log:\n{log[-LOG_TAIL:]}")
