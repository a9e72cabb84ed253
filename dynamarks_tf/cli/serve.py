"""`dynamarks serve`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Model name.  [default: name of the folder]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=8500, show_default=True, help="gRPC port; 0 for any free one.")
@click.option("--rest-port", default=8501, show_default=True, help="REST port; 0 for any free one.")
def serve(folder: Path, name: str | None, host: str, grpc_port: int, rest_port: int) -> None:
    """Serve the highest SavedModel version in FOLDER as TensorFlow Serving would, for development.

    In production use TensorFlow Serving itself; the exported files are the same.

    \b
      dynamarks serve served/clf --grpc-port 8500 --rest-port 8501
      curl -d '{"instances": [[...]]}' http://127.0.0.1:8501/v1/models/clf:predict
    """
    from dynamarks_tf.local_server import LocalServer

    with LocalServer(folder, name=name, host=host, grpc_port=grpc_port, rest_port=rest_port) as server:
        click.echo(f"serving {server.name} version {server.version}")
        click.echo(f"gRPC {server.grpc_url}")
        click.echo(f"REST {server.rest_url}")
        click.echo("stop with Ctrl-C")
        try:
            server.wait()
        except KeyboardInterrupt:
            click.echo("stopping")
