"""`dynamarks serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dynamarks_tf.cli.output import load_tensorflow, say, wait_until_stopped

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--name", help="Model name.  [default: name of the folder]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=8500, show_default=True, help="gRPC port; 0 for any free one.")
@click.option("--rest-port", default=8501, show_default=True, help="REST port; 0 for any free one.")
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), help="Log requests to this folder.")
@click.option("--client-header", default="x-client-id", show_default=True, help="Header that names the client, logged.")
@click.option("--model-config-file", type=FILE, help="Models, versions and labels to serve, instead of FOLDER.")
@click.option(
    "--model-config-file-poll-wait-seconds", default=0.0, help="Seconds between reads of that file.  [default: once]"
)
@click.option(
    "--file-system-poll-wait-seconds", default=1.0, show_default=True, help="Seconds between checks for new versions."
)
@click.option("--monitoring-config-file", type=FILE, help="Path of the Prometheus metrics.  [default: none]")
@click.option(
    "--max-request-bytes",
    type=click.IntRange(1),
    default=100 * 2**20,
    show_default=True,
    help="Largest size of a request.",
)
@click.option("--allow-config-reload", is_flag=True, help="Let clients change what is served.")
@click.option("--enable-grpc-healthcheck-service", is_flag=True, help="Answer gRPC health checks.")
@click.option("--rest-api-enable-cors-support", is_flag=True, help="Let browsers send REST requests from other sites.")
def serve(folder: Path | None, log_dir: Path | None, **options: Any) -> None:
    """Serve models as TensorFlow Serving does, in development.

    Serves the highest version in FOLDER, and newer ones as they appear. In production, use TensorFlow Serving itself:
    the exported files, the configuration files and the names of their options are the same.

    \b
      dynamarks serve served/clf --grpc-port 8500 --rest-port 8501
      curl -d '{"instances": [...]}' http://127.0.0.1:8501/v1/models/clf:predict
      dynamarks serve --model-config-file models.config  # several models
      dynamarks serve served/clf --log-dir logs  # for dynamarks verify --log
    """
    load_tensorflow()
    from dynamarks_tf.serving.local_server import LocalServer

    with LocalServer(folder, request_log=log_dir, **options) as server:
        say(f"serving {server.name} version {server.version}")
        say(f"gRPC {server.grpc_url}")
        say(f"REST {server.rest_url}")
        if log_dir is not None:
            say(f"log  {log_dir}, client from header {options['client_header']}")
        if server.metrics_url is not None:
            say(f"metrics {server.metrics_url}")
        wait_until_stopped(server.wait)
    if server.request_log is not None:
        say(f"logged {server.request_log.written} requests, dropped {server.request_log.dropped}")
