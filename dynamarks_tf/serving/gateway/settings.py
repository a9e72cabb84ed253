"""What a gateway does, as typed values, and the names of what it makes and passes on."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, check_client_header

METHODS = (  # of gRPC
    "/tensorflow.serving.PredictionService/Predict",
    "/tensorflow.serving.PredictionService/Classify",
    "/tensorflow.serving.PredictionService/Regress",
    "/tensorflow.serving.PredictionService/MultiInference",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
)
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"

ADMIN, COLLECTOR, METRICS, COUNTS = "admin.sock", "collector.sock", "metrics.sock", "counts"
MAIN, TLS, CLIENT_CA = "envoy.yaml", "tls.json", "client-ca.json"
MAX_SOCKET_PATH = 100  # bytes; systems take 104 or 108

MAX_BODY_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a gateway does.

    Args:
        folder: where the sockets of Envoy and the collector are, and the files that are rendered.
        upstream: `host:port` of the model server's gRPC; `None` for no gRPC.
        upstream_rest: `host:port` of its REST; `None` for no REST.
        upstream_ca: PEM file with the authority of the server's certificate; plain text if `None`.
        host: the address to listen on.
        grpc_port: the port for gRPC.
        rest_port: the port for REST. It may be the same: each port takes both.
        ops_port: the port for `/healthz`, `/readyz` and `/metrics`; none if `None`.
        ops_host: the address that this port listens on; `host` if not given.
        is_logged: whether copies of predictions go to a collector.
        clients: the folder `public` of `dynamarks client`; only clients with one of its tokens are admitted.
        client_header: the header that names clients without tokens and certificates.
        forward_credentials: whether the header with the token is passed on.
        tls_cert: PEM file with the certificate that clients are shown; no TLS if `None`.
        tls_key: PEM file with its private key.
        client_ca: PEM file with the authority of the clients' certificates; only clients with one are admitted.
        rate: requests per second that each client may sustain; no limit if `None`.
        burst: requests that each client may send at once; `rate`, but at least 1, if not given.
        max_body_bytes: the largest size of a request.
        allow_reload: whether clients may change the models that the server serves.
        head_s: seconds for a client to send the head of a request.
        request_s: seconds for a client to send a request.
        answer_s: seconds for the server to answer over REST; over gRPC the client's deadline counts.
        idle_s: seconds without any progress after which a request is given up.

    Raises:
        ArgumentError: values that do not go together, or are out of range.
    """

    folder: Path
    upstream: str | None = None
    upstream_rest: str | None = None
    upstream_ca: Path | None = None
    host: str = "127.0.0.1"
    grpc_port: int = 9500
    rest_port: int = 9501
    ops_port: int | None = None
    ops_host: str | None = None
    is_logged: bool = False
    clients: Path | None = None
    client_header: str = CLIENT_HEADER
    forward_credentials: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    rate: float | None = None
    burst: float | None = None
    max_body_bytes: int = MAX_BODY_BYTES
    allow_reload: bool = False
    head_s: float = 10.0
    request_s: float = 60.0
    answer_s: float = 60.0  # longer than TensorFlow Serving's own 30 s
    idle_s: float = 300.0

    def __post_init__(self) -> None:
        if self.upstream is None and self.upstream_rest is None:
            raise ArgumentError("Give the server's gRPC address, its REST address, or both.")
        for address in (self.upstream, self.upstream_rest):
            if address is not None:
                parse_address(address)
        check_client_header(self.client_header)
        if self.max_body_bytes < 1:
            raise ArgumentError(f"`max_body_bytes` must be at least 1. Received: {self.max_body_bytes}")
        rate, burst = self.rate, self.burst
        if not (rate is None or 0 < rate < math.inf) or not (burst is None or 1 <= burst < 2**32):
            raise ArgumentError(f"`rate` must be above 0 and `burst` at least 1. Received: rate={rate}, burst={burst}")
        if (self.tls_cert is None) != (self.tls_key is None) or (self.client_ca is not None and self.tls_cert is None):
            raise ArgumentError("A certificate and its private key go together, and client certificates need both.")
        if len(os.fsencode(self.folder / COLLECTOR)) > MAX_SOCKET_PATH:
            raise ArgumentError(f"The path of the folder for sockets is too long: {self.folder}. Choose a shorter one.")

    @property
    def ports(self) -> list[int]:
        """The ports for clients."""
        found = {"grpc": self.grpc_port} if self.upstream is not None else {}
        found |= {"rest": self.rest_port} if self.upstream_rest is not None else {}
        return sorted(set(found.values()))

    @property
    def names_clients(self) -> bool:
        """Whether the gateway itself names clients, so that what they call themselves counts for nothing."""
        return self.clients is not None or self.client_ca is not None


def parse_address(address: str) -> tuple[str, int]:
    """Returns host and port.

    Raises:
        ArgumentError: it is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in host:
        raise ArgumentError(f"{address!r} is no address; accepted: HOST:PORT, such as localhost:8500.")
    return host.strip("[]"), int(port)
