"""`dynamarks proxy`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dynamarks_tf.cli.output import load_tensorflow, wait_until_stopped

SWITCH_S = 0.0001  # the longest wait of an answer for the thread that writes the log; Python's default is 5 ms

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--upstream", metavar="HOST:PORT", help="gRPC address of the upstream server.")
@click.option("--upstream-rest", metavar="HOST:PORT", help="REST address of the upstream server.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--grpc-port", default=9500, show_default=True, help="gRPC port; 0 for any free one.")
@click.option("--rest-port", default=9501, show_default=True, help="REST port; 0 for any free one.")
@click.option("--ops-port", type=int, help="Port of /healthz, /readyz and /metrics; keep it unpublished.")
@click.option("--ops-host", help="Address of the operations port.  [default: that of --host]")
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), help="Log predictions to this folder.")
@click.option("--api-keys", type=_FILE, help="Admit only clients with a key in this file: lines of NAME:SHA256.")
@click.option("--forward-credentials", is_flag=True, help="Pass on the header with the API key.")
@click.option("--client-header", default="x-client-id", show_default=True, help="Header that names other clients.")
@click.option("--tls-cert", type=_FILE, help="Certificate to show to clients, PEM.")
@click.option("--tls-key", type=_FILE, help="Private key for it, PEM.")
@click.option("--client-ca", type=_FILE, help="Admit only clients with a certificate signed by this one, PEM.")
@click.option("--rate", type=float, help="Requests per second that each client may sustain.")
@click.option("--burst", type=float, help="Requests that each client may send at once.  [default: that of --rate]")
@click.option("--max-body-mb", default=64, show_default=True, help="Refuse larger requests.")
@click.option("--allow-reload", is_flag=True, help="Let clients change the models that are served (gRPC).")
def proxy(
    upstream: str | None,
    upstream_rest: str | None,
    host: str,
    grpc_port: int,
    rest_port: int,
    ops_port: int | None,
    ops_host: str | None,
    log_dir: Path | None,
    api_keys: Path | None,
    forward_credentials: bool,
    client_header: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    rate: float | None,
    burst: float | None,
    max_body_mb: int,
    allow_reload: bool,
) -> None:
    """Proxy TensorFlow Serving: check clients, log requests.

    Requests and answers pass unchanged, over gRPC and REST. An API key, a certificate, or a header that a component in
    front sets names the client.

    \b
      dynamarks proxy --upstream localhost:8500 --upstream-rest localhost:8501 \\
          --log-dir logs --api-keys clients.keys
      dynamarks trace suspect.keras --owner marked.keras --key acme.key \\
          --log logs
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if client_ca is not None and tls_cert is None:
        raise click.UsageError("--client-ca needs --tls-cert and --tls-key.")
    if burst is not None and rate is None:
        raise click.UsageError("--burst needs --rate.")
    load_tensorflow()
    from dynamarks_tf.serving.gateway import Admission, ApiKeys, Proxy, RateLimiter, Tls

    admission = Admission(
        keys=None if api_keys is None else ApiKeys.load(api_keys),
        certificates=client_ca is not None and api_keys is None,
        client_header=client_header,
        limiter=None if rate is None else RateLimiter(rate, burst),
        forward_credentials=forward_credentials,
    )
    running = Proxy(
        upstream,
        upstream_rest,
        host=host,
        grpc_port=grpc_port,
        rest_port=rest_port,
        ops_port=ops_port,
        ops_host=ops_host,
        request_log=log_dir,
        admission=admission,
        tls=None if tls_cert is None or tls_key is None else Tls(tls_cert, tls_key, client_ca),
        max_body_bytes=max_body_mb * 2**20,
        allow_reload=allow_reload,
    )
    sys.setswitchinterval(SWITCH_S)
    with running:
        if upstream is not None:
            click.echo(f"gRPC {running.grpc_address} -> {upstream}")
        if upstream_rest is not None:
            click.echo(f"REST {running.rest_url} -> http://{upstream_rest}")
        if ops_port is not None:
            click.echo(f"operations {running.ops_url}")
        if log_dir is not None:
            click.echo(f"log  {log_dir}")
        wait_until_stopped(running.wait)
    if running.request_log is not None:
        click.echo(f"logged {running.request_log.written} predictions, dropped {running.request_log.dropped}")
