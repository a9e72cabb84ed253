"""`dynamarks serve`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.quiet import load_tensorflow
from dynamarks_tf.cli.stopping import wait_until_stopped


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Model name.  [default: name of the folder]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=8500, show_default=True, help="gRPC port; 0 for any free one.")
@click.option("--rest-port", default=8501, show_default=True, help="REST port; 0 for any free one.")
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), help="Log requests to this folder.")
@click.option("--client-header", default="x-client-id", show_default=True, help="Header that names the client, logged.")
def serve(
    folder: Path,
    name: str | None,
    host: str,
    grpc_port: int,
    rest_port: int,
    log_dir: Path | None,
    client_header: str,
) -> None:
    """Serve the highest SavedModel version in FOLDER as TensorFlow Serving would, for development.

    In production use TensorFlow Serving itself; the exported files are the same.

    \b
      dynamarks serve served/clf --grpc-port 8500 --rest-port 8501
      curl -d '{"instances": [[...]]}' http://127.0.0.1:8501/v1/models/clf:predict
      dynamarks serve served/clf --log-dir logs            # requests and answers, for dynamarks verify --log
    """
    load_tensorflow()
    from dynamarks_tf.local_server import LocalServer

    with LocalServer(
        folder,
        name=name,
        host=host,
        grpc_port=grpc_port,
        rest_port=rest_port,
        request_log=log_dir,
        client_header=client_header,
    ) as server:
        click.echo(f"serving {server.name} version {server.version}")
        click.echo(f"gRPC {server.grpc_url}")
        click.echo(f"REST {server.rest_url}")
        if log_dir is not None:
            click.echo(f"log  {log_dir}, client from header {client_header}")
        wait_until_stopped(server.wait)
    if server.request_log is not None:
        click.echo(f"logged {server.request_log.written} requests, dropped {server.request_log.dropped}")
