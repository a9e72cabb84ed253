"""`dynamarks collector`."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

import click

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(hidden=True)
@click.option("--folder", type=_FOLDER, required=True, help="Where the sockets are, shared with Envoy.")
@click.option("--log-dir", type=_FOLDER, required=True, help="Log predictions to this folder.")
@click.option("--upstream-rest", metavar="HOST:PORT", help="REST address of the upstream server.")
@click.option("--upstream-ca", type=_FILE, help="Authority of its certificate, if it speaks TLS, PEM.")
@click.option("--max-body-bytes", default=64 * 2**20, show_default=True, help="The largest request.")
@click.option(
    "--drain-envoy", type=float, metavar="SECONDS", help="At the end, drain Envoy first, for so long at most."
)
@click.option("--listen", metavar="HOST:PORT", help="Take copies here, over TCP without authentication.")
@click.option("--metrics-port", type=int, help="Port of /metrics on all addresses.")
@click.option("--parent", type=int, hidden=True)
def collector(
    folder: Path,
    log_dir: Path,
    upstream_rest: str | None,
    upstream_ca: Path | None,
    max_body_bytes: int,
    drain_envoy: float | None,
    listen: str | None,
    metrics_port: int | None,
    parent: int | None,
) -> None:
    """Log what Envoy sends; `dynamarks proxy` runs it.

    Run it by itself beside an Envoy of your own, whose configuration `dynamarks proxy --print-config` writes.

    \b
      dynamarks proxy --print-config --folder gateway --log-dir logs \\
          --upstream localhost:8500
      dynamarks collector --folder gateway --log-dir logs
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from dynamarks_tf.serving.gateway.collector import run

    run(
        folder,
        log_dir,
        upstream_rest=upstream_rest,
        upstream_ca=upstream_ca,
        max_body_bytes=max_body_bytes,
        stop=stop,
        parent=parent,
        drain_s=drain_envoy,
        listen=listen,
        metrics_port=metrics_port,
    )
