"""Serves a SavedModel on this machine, with the interfaces of TensorFlow Serving.

Imports `serving.protocol`, `request_logs` and `export`, never a key; `demo` and `cli` may import it.

`open_server` returns TensorFlow Serving itself if it is installed, and otherwise a stand-in with the same behavior
towards clients. Both are for development; in production, run TensorFlow Serving.
"""

from __future__ import annotations

import os

from dynamarks_tf.serving.local_server.model_server import ModelServer
from dynamarks_tf.serving.local_server.server import LocalServer
from dynamarks_tf.serving.local_server.tensorflow_serving import TensorFlowServing

__all__ = ["LocalServer", "ModelServer", "TensorFlowServing", "open_server"]


def open_server(
    base_path: str | os.PathLike[str],
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    grpc_port: int | None = 8500,
    rest_port: int | None = 8501,
) -> ModelServer:
    """Returns a server for the model in `base_path`: TensorFlow Serving if it is on PATH, otherwise the local server.

    Args:
        base_path: the model's folder, with one numbered folder per version. The highest one is served.
        name: the name clients ask for; the folder's own name if not given.
        host: the address to listen on. TensorFlow Serving listens on all of them.
        grpc_port: the port for gRPC; any free one if 0, no gRPC if `None`.
        rest_port: the port for REST; any free one if 0, no REST if `None`.

    Returns:
        The server, not started yet. Use it in a `with` statement, or call `start()`.

    Raises:
        ServingError: the ports contradict each other.
    """
    kind = TensorFlowServing if TensorFlowServing.find() else LocalServer
    return kind(base_path, name=name, host=host, grpc_port=grpc_port, rest_port=rest_port)
