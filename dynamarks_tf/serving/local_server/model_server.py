"""The common part of both servers: a model's folder, addresses, start and stop."""

from __future__ import annotations

import abc
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.local_server.repository import model_name

if TYPE_CHECKING:
    from typing_extensions import Self

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # how to reach a server that listens on all addresses


class ModelServer(abc.ABC):
    """A server for one model, with TensorFlow Serving's gRPC and REST interfaces. Use it in a `with` statement.

    Args:
        base_path: the model's folder, with one numbered folder per version. The highest one is served.
        name: the name clients ask for; the folder's own name if not given.
        host: the address to listen on.
        grpc_port: the port for gRPC; any free one if 0, no gRPC if `None`.
        rest_port: the port for REST; any free one if 0, no REST if `None`.

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
    ) -> None:
        if grpc_port is None and rest_port is None:
            raise ServingError("grpc_port and rest_port are both None, so the server could not be reached. Give one.")
        if grpc_port == rest_port != 0:
            raise ServingError(f"grpc_port and rest_port are both {grpc_port}. Give two different ports, or 0 for any.")
        self.base_path = Path(base_path).absolute()
        self.name = name or model_name(base_path)
        self.host = host
        self.grpc_port = grpc_port
        self.rest_port = rest_port
        self._version: int | None = None

    @property
    def version(self) -> int:
        """The version that is served, once the server has started."""
        if self._version is None:
            raise ServingError("The server has not been started: call start(), or use it in a `with` statement.")
        return self._version

    @property
    def grpc_address(self) -> str:
        """`host:port` for a gRPC channel."""
        return self._address(self.grpc_port, "gRPC")

    @property
    def grpc_url(self) -> str:
        """`grpc://host:port/name`."""
        return f"grpc://{self.grpc_address}/{self.name}"

    @property
    def rest_url(self) -> str:
        """`http://host:port/v1/models/name`; append `:predict` for predictions."""
        return f"http://{self._address(self.rest_port, 'REST')}/v1/models/{self.name}"

    @abc.abstractmethod
    def start(self) -> None:
        """Loads the model, then opens the ports.

        Raises:
            ServingError: the model cannot be loaded, or a port is in use.
        """

    @abc.abstractmethod
    def stop(self, grace_s: float = 5.0) -> None:
        """Closes the ports and frees the model. Requests under way get `grace_s` seconds. May be called twice."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Returns once another thread or a signal has stopped the server."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _address(self, port: int | None, protocol: str) -> str:
        if not port:
            state = "switched off" if port is None else "not open yet: start the server first"
            raise ServingError(f"{protocol} is {state}.")
        host = _EVERYWHERE.get(self.host, self.host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
