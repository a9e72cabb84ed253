"""Opens ports, with an error that names the port."""

from __future__ import annotations

import os
import socket

from dynamarks_tf.errors import ServingError


def listen(host: str, port: int, protocol: str) -> socket.socket:
    """Opens a listening socket.

    Args:
        host: the address to listen on.
        port: the port to listen on; any free one if 0.
        protocol: the purpose of the port, for the error text.

    Raises:
        ServingError: the port is in use, or the address is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ServingError(
            f"{protocol} port {port} on {host} cannot be opened: {reason}. Choose another port, or 0 for any free one."
        ) from error


def find_free(host: str, port: int, protocol: str) -> int:
    """Returns `port`, or any free one for 0, after a test that it can be opened.

    Raises:
        ServingError: the port is in use, or the address is not this machine's.
    """
    with listen(host, port, protocol) as probe:
        return int(probe.getsockname()[1])
