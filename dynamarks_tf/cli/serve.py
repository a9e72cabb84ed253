"""`dynamarks serve`."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from dynamarks_tf.cli.quiet import load_tensorflow


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
    """Serve exported models as TensorFlow Serving does, to develop.

    Serves the highest version in FOLDER. In production use TensorFlow Serving itself; the exported files are the same.

    \b
      dynamarks serve served/clf --grpc-port 8500 --rest-port 8501
      dynamarks serve served/clf --log-dir logs  # for dynamarks verify --log
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
        click.echo("stop with Ctrl-C")
        at_termination = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing logged is lost
        try:
            server.wait()
        except KeyboardInterrupt:
            click.echo("stopping")
        finally:
            signal.signal(signal.SIGTERM, at_termination)
    if server.request_log is not None:
        click.echo(f"logged {server.request_log.written} requests, dropped {server.request_log.dropped}")
