"""The configuration of Envoy, rendered from typed values.

It is a dictionary, which is written as JSON; Envoy reads JSON as it reads YAML. Values that change while Envoy runs
stand in files of their own: certificates (`tls.json`, `client-ca.json`) and revoked tokens (`revoked.json`, see
`serving.gateway.clients`). Envoy reads such a file again when another one takes its place.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dynamarks_tf._support.files import PRIVATE_FOLDER, write_atomically
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.request_logs.client_header import CLIENT_HEADER, check_client_header
from dynamarks_tf.serving.gateway import clients

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
METHODS = (
    PREDICT,
    "/tensorflow.serving.PredictionService/Classify",
    "/tensorflow.serving.PredictionService/Regress",
    "/tensorflow.serving.PredictionService/MultiInference",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
)
REST = "(?i)/v1/models([/:].*)?"  # a route does not see the query
CREDENTIALS = ("authorization", "x-api-key")

ADMIN, COLLECTOR, METRICS, COUNTS = "admin.sock", "collector.sock", "metrics.sock", "counts"
MAIN, TLS, CLIENT_CA = "envoy.json", "tls.json", "client-ca.json"
MAX_SOCKET_PATH = 100  # bytes; systems take 104 or 108

MAX_BODY_BYTES = 64 * 2**20
MOST_CLIENTS = 100_000  # whose rates are limited one by one
MAX_CONNECTIONS = 10_000
MAX_STREAMS = 128  # of a connection
UNSENT_COPIES_BYTES = 64 * 2**20  # that wait for the collector, for each thread of Envoy; what is more is dropped

_TYPES = "type.googleapis.com/envoy."
_HTTP = "extensions.filters.http."
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"

Json = dict[str, Any]


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


def write(settings: Settings) -> Path:
    """Writes the configuration into the folder, and returns the main file."""
    settings.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    for name, content in {**render_secrets(settings), MAIN: render(settings)}.items():
        write_atomically(settings.folder / name, to_bytes(content))
    return settings.folder / MAIN


def to_bytes(content: Json) -> bytes:
    """Returns the content of a file."""
    return json.dumps(content, indent=1).encode() + b"\n"


def render(settings: Settings) -> Json:
    """Returns the main configuration."""
    listeners = [_listener(settings, port) for port in settings.ports]
    if settings.ops_port is not None:
        listeners.append(_operations(settings, settings.ops_port))
    return {
        "admin": {"address": _pipe(settings, ADMIN, mode=0o600)},  # whoever reaches it can stop Envoy
        "node": {"id": "dynamarks", "cluster": "dynamarks"},
        "overload_manager": _overload(settings),
        "static_resources": {"listeners": listeners, "clusters": _clusters(settings)},
    }


def render_secrets(settings: Settings, turn: int = 0) -> dict[str, Json]:
    """Returns the files with certificates, by their names.

    Args:
        settings: names the certificates.
        turn: another number makes Envoy read them again; it compares texts, so the paths are written differently.
    """

    def file(path: Path) -> Json:
        return {"filename": "/." * turn + os.path.abspath(path)}

    def folder(path: Path) -> Json:
        return {"path": os.path.dirname(os.path.abspath(path))}

    found: dict[str, Json] = {}
    if settings.tls_cert is not None and settings.tls_key is not None:
        pair = {"certificate_chain": file(settings.tls_cert), "private_key": file(settings.tls_key)}
        found[TLS] = _secret("tls", tls_certificate={**pair, "watched_directory": folder(settings.tls_cert)})
    if settings.client_ca is not None:
        authority = {"trusted_ca": file(settings.client_ca), "watched_directory": folder(settings.client_ca)}
        found[CLIENT_CA] = _secret("client-ca", validation_context=authority)
    return found


def _secret(name: str, **content: Json) -> Json:
    return {"resources": [_typed("extensions.transport_sockets.tls.v3.Secret", name=name, **content)]}


def _typed(kind: str, /, **fields: Any) -> Json:
    return {"@type": _TYPES + kind, **fields}


def _filter(name: str, kind: str, /, **fields: Any) -> Json:
    return {"name": name, "typed_config": _typed(_HTTP + kind, **fields)}


def _pipe(settings: Settings, name: str, **more: int) -> Json:
    return {"pipe": {"path": os.path.abspath(settings.folder / name), **more}}


def _socket(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _watched(path: Path) -> Json:
    """A file that is read again when something in its folder is renamed; so are files of mounted Secrets replaced."""
    source = {"path": os.path.abspath(path), "watched_directory": {"path": os.path.dirname(os.path.abspath(path))}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _overload(settings: Settings) -> Json:
    """Refuses requests before the memory is full."""
    monitors, triggers = "envoy.resource_monitors.", {"threshold": {"value": 0.9}}
    heap = max(2**30, 16 * settings.max_body_bytes)
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": monitors + "fixed_heap",
                "typed_config": _typed(
                    "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=heap
                ),
            },
            {
                "name": monitors + "global_downstream_max_connections",
                "typed_config": _typed(
                    "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=MAX_CONNECTIONS,
                ),
            },
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": monitors + "fixed_heap", **triggers}],
            }
        ],
    }


# Clients


def _listener(settings: Settings, port: int) -> Json:
    chain: Json = {"filters": [_manager(settings)]}
    if settings.tls_cert is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": _downstream_tls(settings)}
    return {
        "name": f"clients-{port}",
        "address": _socket(settings.host, port),
        "per_connection_buffer_limit_bytes": 2**20,
        "filter_chains": [chain],
    }


def _downstream_tls(settings: Settings) -> Json:
    common: Json = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [{"name": "tls", "sds_config": _watched(settings.folder / TLS)}],
    }
    if settings.client_ca is not None:
        source = {"name": "client-ca", "sds_config": _watched(settings.folder / CLIENT_CA)}
        common["validation_context_sds_secret_config"] = source
    return _typed(
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=settings.client_ca is not None,
    )


def _manager(settings: Settings) -> Json:
    fields: Json = {
        "stat_prefix": "clients",
        "codec_type": "AUTO",
        "server_name": "proxy",
        "generate_request_id": False,
        "use_remote_address": True,
        "skip_xff_append": True,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": f"{settings.head_s:g}s",
        "request_timeout": f"{settings.request_s:g}s",
        "stream_idle_timeout": f"{settings.idle_s:g}s",
        "drain_timeout": "5s",
        "common_http_protocol_options": {
            "idle_timeout": "600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_STREAMS,
            "initial_stream_window_size": 2**20,
            "initial_connection_window_size": 2**24,
            "connection_keepalive": {"interval": "60s", "timeout": "60s"},
        },
        "local_reply_config": _local_replies(),
        "http_filters": _filters(settings),
        "route_config": {"name": "routes", "virtual_hosts": [_routes(settings)]},
    }
    if settings.is_logged:
        fields["access_log"] = [_access_log()]
    kind = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {"name": "http", "typed_config": _typed(kind, **fields)}


def _local_replies() -> Json:
    """Errors of Envoy itself have the form of TensorFlow Serving's, except over gRPC."""
    header = {
        "name": "content-type",
        "string_match": {"prefix": "application/grpc"},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }
    not_grpc = {"header_filter": {"header": header}}
    body = {"json_format": {"error": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}
    return {"mappers": [{"filter": not_grpc, "body_format_override": body}]}


def _access_log() -> Json:
    answered = {"filter": "dynamarks", "path": [{"key": "answer"}], "value": {"present_match": True}}
    common = {
        "log_name": "predictions",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}},
        "buffer_flush_interval": "0.2s",
        "buffer_size_bytes": 2**22,
    }
    return {
        "name": "predictions",
        "filter": {"metadata_filter": {"matcher": answered, "match_if_key_not_found": False}},
        "typed_config": _typed("extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", common_config=common),
    }


def _filters(settings: Settings) -> list[Json]:
    """Returns what a request passes: identity, rate, size, capture."""
    found: list[Json] = []
    if settings.names_clients:
        found.append(_filter("identity", "header_mutation.v3.HeaderMutation", mutations=_identity(settings)))
    if settings.clients is not None:
        found += [_tokens(settings, settings.clients), _revoked(settings.clients)]
    if settings.rate is not None:
        found.append(_rate(settings, settings.rate))
    library = {
        "name": "gzip",
        "typed_config": _typed("extensions.compression.gzip.decompressor.v3.Gzip", max_inflate_ratio=1032),
    }
    found += [
        # What reaches the server is what is checked and logged; the next filter limits its size.
        _filter(
            "unpack",
            "decompressor.v3.Decompressor",
            decompressor_library=library,
            response_direction_config={
                "common_config": {"enabled": {"default_value": False, "runtime_key": "dynamarks.unpack_answers"}}
            },
            request_direction_config={"advertise_accept_encoding": False},
        ),
        _filter("whole", "buffer.v3.Buffer", max_request_bytes=settings.max_body_bytes),
        _filter(
            "capture",
            "lua.v3.Lua",
            stat_prefix="capture",
            clear_route_cache=False,
            default_source_code={"inline_string": _script(settings)},
        ),
        _filter("router", "router.v3.Router", suppress_envoy_headers=True),
    ]
    return found


def _script(settings: Settings) -> str:
    script = resources.files(__package__).joinpath("capture.lua").read_text("utf-8")
    return script.replace("@client@", settings.client_header.lower()).replace(
        "@logged@", "true" if settings.is_logged else "false"
    )


def _identity(settings: Settings) -> Json:
    """Takes the name away that a client gave itself, and sets that of its certificate: the last one that is there."""
    header = settings.client_header.lower()
    mutations: list[Json] = [{"remove": header}]
    if settings.clients is None:
        for value in ("%DOWNSTREAM_PEER_SUBJECT%", "%DOWNSTREAM_PEER_URI_SAN%", "%DOWNSTREAM_PEER_DNS_SAN%"):
            mutations.append({"append": {"header": {"key": header, "value": value}, "append_action": _OVERWRITE}})
    return {"request_mutations": mutations}


def _tokens(settings: Settings, folder: Path) -> Json:
    provider = {
        "issuer": clients.ISSUER,
        "audiences": [clients.AUDIENCE],
        "require_expiration": True,
        "local_jwks": {
            "filename": os.path.abspath(folder / clients.JWKS),
            "watched_directory": {"path": os.path.abspath(folder)},
        },
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-api-key"}],
        "forward": True,  # the routes remove the headers
        "claim_to_headers": [{"header_name": settings.client_header.lower(), "claim_name": "sub"}],
        "payload_in_metadata": "payload",
    }
    rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "clients"}}]
    return _filter("tokens", "jwt_authn.v3.JwtAuthentication", providers={"clients": provider}, rules=rules)


def _revoked(folder: Path) -> Json:
    kinds = [_TYPES + _HTTP + "rbac.v3.RBAC"]
    return {
        "name": clients.REVOKED_FILTER,
        "config_discovery": {"config_source": _watched(folder / clients.REVOKED), "type_urls": kinds},
    }


def _rate(settings: Settings, rate: float) -> Json:
    header = settings.client_header.lower()
    burst = max(1.0, rate) if settings.burst is None else settings.burst
    tokens = max(1, math.ceil(rate / 10))  # at once; Envoy takes no interval below 50 ms
    limit = {
        "max_tokens": max(1, int(burst)),
        "tokens_per_fill": tokens,
        "fill_interval": f"{max(tokens / rate, 0.05):.9f}s",
    }
    unnamed = {
        "descriptor_key": "unnamed",
        "descriptor_value": "yes",
        "expect_match": False,
        "headers": [{"name": header, "present_match": True}],
    }
    return _filter(
        "rate",
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix="rate",
        token_bucket={"max_tokens": 2**32 - 1, "tokens_per_fill": 2**32 - 1, "fill_interval": "1s"},
        filter_enabled={"default_value": {"numerator": 100}},
        filter_enforced={"default_value": {"numerator": 100}},
        rate_limited_as_resource_exhausted=True,
        response_headers_to_add=[{"header": {"key": "retry-after", "value": str(math.ceil(1 / rate))}}],
        rate_limits=[
            {"actions": [{"request_headers": {"header_name": header, "descriptor_key": "client"}}]},
            {"actions": [{"header_value_match": unnamed}, {"remote_address": {}}]},
        ],
        descriptors=[
            {"entries": [{"key": "client"}], "token_bucket": limit},
            {"entries": [{"key": "unnamed", "value": "yes"}, {"key": "remote_address"}], "token_bucket": limit},
        ],
        max_dynamic_descriptors=MOST_CLIENTS,
    )


def _routes(settings: Settings) -> Json:
    removed = ["x-forwarded-proto", "x-envoy-external-address"]  # that Envoy adds
    removed += [settings.client_header.lower()] if settings.names_clients else []
    if settings.clients is not None and not settings.forward_credentials:
        removed += CREDENTIALS
    routes: list[Json] = []
    if settings.upstream is not None:
        grpc = {
            "cluster": "model",
            "timeout": "0s",
            "max_stream_duration": {"grpc_timeout_header_max": "0s"},  # the client's deadline
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},
        }
        refusal = {
            "status": 403,
            "body": {"inline_string": "Clients may not change the models that this server serves."},
        }
        routes += [{"match": {"path": path}, "route": grpc} for path in METHODS]
        routes.append(
            {"match": {"path": RELOAD}, **({"route": grpc} if settings.allow_reload else {"direct_response": refusal})}
        )
    if settings.upstream_rest is not None:
        retries = {"retry_on": "connect-failure", "num_retries": 1}
        rest = {"cluster": "model-rest", "timeout": f"{settings.answer_s:g}s", "retry_policy": retries}
        routes.append({"match": {"safe_regex": {"regex": REST}}, "route": rest})
    routes.append(
        {"match": {"prefix": "/"}, "direct_response": {"status": 404, "body": {"inline_string": "Not Found"}}}
    )
    return {
        "name": "all",
        "domains": ["*"],
        "request_body_buffer_limit": settings.max_body_bytes,
        "request_headers_to_remove": removed,
        "routes": routes,
    }


# Operations


def _operations(settings: Settings, port: int) -> Json:
    ready = {cluster: {"value": 100} for cluster in _upstreams(settings)}
    envoy = {"cluster": "admin", "prefix_rewrite": "/stats/prometheus"}
    routes: list[Json] = [
        {"match": {"path": "/healthz"}, "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}}},
        {"match": {"path": "/metrics"}, "route": {"cluster": "metrics"} if settings.is_logged else envoy},
    ]
    manager = _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="operations",
        route_config={"name": "operations", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[
            _filter(
                "ready",
                "health_check.v3.HealthCheck",
                pass_through_mode=False,
                headers=[{"name": ":path", "string_match": {"exact": "/readyz"}}],
                cluster_min_healthy_percentages=ready,
            ),
            _filter("router", "router.v3.Router"),
        ],
    )
    return {
        "name": "operations",
        "address": _socket(settings.ops_host or settings.host, port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


# Servers


def _upstreams(settings: Settings) -> Mapping[str, str]:
    addresses = {"model": settings.upstream, "model-rest": settings.upstream_rest}
    return {name: address for name, address in addresses.items() if address is not None}


def _clusters(settings: Settings) -> list[Json]:
    found = []
    for name, address in _upstreams(settings).items():
        host, port = parse_address(address)
        cluster = _cluster(name, _socket(host, port), "STATIC" if _is_ip(host) else "STRICT_DNS", "5s")
        cluster |= {
            "dns_lookup_family": "V4_PREFERRED",
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "health_checks": [
                {
                    "timeout": "1s",
                    "interval": "2s",
                    "no_traffic_interval": "2s",
                    "unhealthy_threshold": 1,
                    "healthy_threshold": 1,
                    "tcp_health_check": {},
                }
            ],
        }
        if name == "model":
            cluster["typed_extension_protocol_options"] = _http2()
        if settings.upstream_ca is not None:
            cluster["transport_socket"] = {"name": "tls", "typed_config": _upstream_tls(settings.upstream_ca, host)}
        found.append(cluster)
    if settings.is_logged:
        collector = _cluster("collector", _pipe(settings, COLLECTOR), "STATIC", "1s")
        collector["per_connection_buffer_limit_bytes"] = UNSENT_COPIES_BYTES
        collector["typed_extension_protocol_options"] = _http2()
        found += [collector, _cluster("metrics", _pipe(settings, METRICS), "STATIC", "1s")]
    elif settings.ops_port is not None:
        found.append(_cluster("admin", _pipe(settings, ADMIN), "STATIC", "1s"))
    return found


def _cluster(name: str, address: Json, kind: str, timeout: str) -> Json:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": kind,
        "connect_timeout": timeout,
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def _http2() -> Json:
    windows = {"initial_stream_window_size": 2**24, "initial_connection_window_size": 2**26}
    options = _typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": windows},
    )
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def _upstream_tls(authority: Path, host: str) -> Json:
    kind = "IP_ADDRESS" if _is_ip(host) else "DNS"
    context = {
        "trusted_ca": {"filename": os.path.abspath(authority)},
        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}],
    }
    name = {} if _is_ip(host) else {"sni": host}
    return _typed(
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context={"validation_context": context},
        **name,
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
