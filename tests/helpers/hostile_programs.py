"""What a hostile model file would do if its program ran: each function is called in a suspect's process."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any


def outcome(action: Callable[[], Any]) -> str:
    """`done`, or the error's name."""
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "done"


def tries(path: str, *, description: str, secret: str, port: int, parent: int) -> dict[str, Any]:
    """Tries to read, write, connect, run a program and stop others, and says what came of it."""
    return {
        "reads its own file": outcome(lambda: open(path, "rb").read()),
        "reads a secret file": outcome(lambda: open(secret, "rb").read()),
        "lists the folder of the secret": outcome(lambda: os.listdir(os.path.dirname(secret))),
        "reads the environment of the parent": outcome(lambda: open(f"/proc/{parent}/environ", "rb").read()),
        "writes beside the secret": outcome(lambda: open(f"{secret}.new", "wb")),
        "writes into its own folder": outcome(lambda: open("own", "wb")),
        "connects": outcome(lambda: socket.create_connection(("127.0.0.1", port), timeout=1)),
        "runs a program": outcome(lambda: subprocess.run(["/bin/true"], check=True)),
        "stops the parent": outcome(lambda: os.kill(parent, 0)),
        "environment": sorted(os.environ),
        "folder": os.getcwd(),
    }


def loops(path: str, *, description: str) -> None:
    """Never ends."""
    while True:
        pass


def takes_memory(path: str, *, description: str, size: int) -> int:
    """Fills memory."""
    return len(bytearray(size))


def crashes(path: str, *, description: str) -> None:
    """Ends at once."""
    os._exit(7)


class Sleeper:
    """A suspect that answers the number of its process."""

    input_shape = None

    def __init__(self, path: str, *, description: str) -> None:
        self.description = description

    def predict(self, batch: Any) -> Any:
        return [os.getpid()] * len(batch)
