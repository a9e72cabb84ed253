"""The process of a suspect: `python -m dynamarks_tf.suspects.isolation.child`.

On Linux, it imports what model files of a kind need once, and makes a copy of itself for each file, before it has
computed anything; so each has its own process at the cost of one import. The copies are ended by `launcher`, through a
connection that says nothing and closes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dynamarks_tf.errors import DynaMarksError
from dynamarks_tf.suspects.isolation import frames, sandbox
from dynamarks_tf.suspects.isolation.limits import Limits


def main(arguments: Sequence[str]) -> None:
    """Serves files.

    Args:
        arguments: the file descriptor of the connection to `launcher`, `copies` or `one` for a process that serves one
            file itself, and modules to import beforehand.
    """
    control = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if arguments[1] == "one":
        _, (connection, _), _, _ = socket.recv_fds(control, 1, 2)
        _serve_and_end(socket.socket(fileno=connection))
    for module in arguments[2:]:
        with contextlib.suppress(ImportError):  # the adapter says what is missing
            importlib.import_module(module)
    control.sendall(b"!")
    _make_copies(control)


def _make_copies(control: socket.socket) -> None:
    """Makes a copy of this process for each file, and ends it when its lifeline closes, until `control` closes."""
    copies: dict[Any, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                ready: Any = key.fileobj
                if ready is not control:
                    selector.unregister(ready)
                    _end(ready, copies.pop(ready))
                    continue
                _, handles, _, _ = socket.recv_fds(control, 1, 2)
                if len(handles) != 2:
                    for lifeline, copy in copies.items():
                        _end(lifeline, copy)
                    shutil.rmtree(os.getcwd(), ignore_errors=True)  # whoever made the folder may have been killed
                    return
                connection, lifeline = (socket.socket(fileno=handle) for handle in handles)
                copy = os.fork()
                if not copy:
                    selector.close()
                    for inherited in (control, lifeline, *copies):
                        inherited.close()
                    _serve_and_end(connection)
                connection.close()
                copies[lifeline] = copy
                selector.register(lifeline, selectors.EVENT_READ)


def _end(lifeline: socket.socket, copy: int) -> None:
    os.kill(copy, signal.SIGKILL)
    os.waitpid(copy, 0)
    lifeline.close()  # tells `launcher` that it is over


def _serve_and_end(connection: socket.socket) -> NoReturn:
    try:
        _serve(connection)
    finally:
        os._exit(0)  # nothing of the copied process is to run its own end


def _serve(connection: socket.socket) -> None:
    """Opens a file as the request says, and answers batches until the connection closes."""
    request, _ = frames.receive(connection, most_bytes=0)
    limits = Limits(**request["limits"])
    try:
        for module, folder in request["modules"].items():
            sys.path += [] if folder in sys.path else [folder]
            with contextlib.suppress(Exception):  # a file that needs it says so
                importlib.import_module(module)
        module, _, name = request["opener"].partition(":")
        opener = getattr(importlib.import_module(module), name)
        limits.apply()
        limits.start_clock()
        confined = _confine(request["readable"], request["folder"])
        opened = opener(request["path"], **request["options"])
        is_suspect = hasattr(opened, "predict")
        said = _described(opened) if is_suspect else {"result": opened}
        frames.send(connection, {"confined": confined, **said})
    except Exception as error:
        frames.send(connection, _problem(error, request["options"]["description"]))
        return
    while is_suspect:
        _, batch = frames.receive(connection, most_bytes=sys.maxsize)
        limits.start_clock()
        try:
            answers = np.asarray(opened.predict(batch))
            frames.send(connection, {"classes": getattr(opened, "classes", None)}, answers)
        except Exception as error:
            frames.send(connection, _problem(error, request["options"]["description"]))


def _confine(readable: list[str], folder: str) -> list[str]:
    """Moves into the suspect's own folder, and out of reach of everything else."""
    os.umask(0o077)
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR=folder)
    tempfile.tempdir = None
    return sandbox.enter(readable, folder)


def _described(suspect: Any) -> dict[str, Any]:
    signature = getattr(suspect, "signature", None)
    return {
        "description": suspect.description,
        "input_shape": suspect.input_shape,
        "classes": getattr(suspect, "classes", None),
        "signature": None
        if signature is None
        else {
            "input": signature.input,
            "shape": signature.shape,
            "dtype": signature.dtype.str,
            "output": signature.output,
            "outputs": signature.outputs,
        },
    }


def _problem(error: Exception, description: str) -> dict[str, Any]:
    is_ours = isinstance(error, DynaMarksError)
    kind = type(error).__name__
    return {
        "error": str(error) if is_ours else f"{description} failed: {kind}: {str(error)[:1000]}",
        "kind": kind if is_ours else None,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
