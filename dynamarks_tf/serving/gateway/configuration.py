"""The configuration of Envoy: the template `envoy.yaml.j2`, filled in from typed values.

Values that change while Envoy runs stand in files of their own: certificates (`tls.json`, `client-ca.json`) and revoked
tokens (`revoked.json`, see `serving.gateway.clients`). Envoy reads such a file again when another one takes its place.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dynamarks_tf._support.files import PRIVATE_FOLDER, write_atomically
from dynamarks_tf._support.own_files import make_folders
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.serving.gateway import clients, settings
from dynamarks_tf.serving.gateway.settings import CLIENT_CA, MAIN, TLS, Settings, parse_address

CREDENTIALS = ("authorization", "x-api-key")
FOR_ENVOY_ALONE = ("x-forwarded-proto", "x-envoy-external-address")  # headers that it adds

Json = dict[str, Any]


def write(chosen: Settings) -> Path:
    """Writes the configuration into the folder, and returns the main file.

    Raises:
        ArgumentError: a path is no UTF-8.
    """
    make_folders(chosen.folder, PRIVATE_FOLDER)
    write_secrets(chosen)
    try:
        content = render(chosen).encode()
    except UnicodeEncodeError:
        raise ArgumentError("Envoy reads UTF-8. Choose folders and files whose names are UTF-8.") from None
    write_atomically(chosen.folder / MAIN, content)
    return chosen.folder / MAIN


def render(chosen: Settings) -> str:
    """Returns the main configuration."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"json": _json, "path": lambda path: _json(os.path.abspath(path))}
    return environment.from_string(_resource("envoy.yaml.j2")).render(
        s=chosen,
        names=settings,
        clients=clients,
        script=script(chosen),
        bucket=None if chosen.rate is None else _Bucket.of(chosen.rate, chosen.burst),
        removed=[
            *FOR_ENVOY_ALONE,
            *([chosen.client_header.lower()] if chosen.names_clients else ()),
            *(CREDENTIALS if chosen.clients is not None and not chosen.forward_credentials else ()),
        ],
        servers=[
            _Server.at(name, address)
            for name, address in (("model", chosen.upstream), ("model-rest", chosen.upstream_rest))
            if address is not None
        ],
    )


def script(chosen: Settings) -> str:
    """Returns the script that keeps copies of predictions."""
    values = {"@client@": chosen.client_header.lower(), "@logged@": _json(chosen.is_logged)}
    text = _resource("capture.lua")
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def write_secrets(chosen: Settings, turn: int = 0) -> None:
    """Writes the files that name the certificates.

    Args:
        chosen: names the certificates.
        turn: another number makes Envoy read them again; it compares texts, so the paths are written differently.
    """

    def file(path: Path) -> Json:
        return {"filename": "/." * turn + os.path.abspath(path)}

    def write_one(name: str, target: str, kind: str, watched: Path, **files: Json) -> None:
        content = {**files, "watched_directory": {"path": os.path.dirname(os.path.abspath(watched))}}
        message = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
        secret = {"resources": [{"@type": message, "name": name, kind: content}]}
        write_atomically(chosen.folder / target, json.dumps(secret, indent=1).encode() + b"\n")

    if chosen.tls_cert is not None and chosen.tls_key is not None:
        pair = {"certificate_chain": file(chosen.tls_cert), "private_key": file(chosen.tls_key)}
        write_one("tls", TLS, "tls_certificate", chosen.tls_cert, **pair)
    if chosen.client_ca is not None:
        authority = {"trusted_ca": file(chosen.client_ca)}
        write_one("client-ca", CLIENT_CA, "validation_context", chosen.client_ca, **authority)


def _json(value: Any) -> str:
    """JSON as a value of YAML, which takes no halves of characters."""
    return json.dumps(value, ensure_ascii=False)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


@dataclass(frozen=True)
class _Bucket:
    """How many requests a client may send: a bucket of tokens."""

    most: int
    at_once: int  # that are added; Envoy takes no interval below 50 ms
    interval: str
    retry_after: int

    @classmethod
    def of(cls, rate: float, burst: float | None) -> _Bucket:
        at_once = max(1, math.ceil(rate / 10))
        interval = f"{max(at_once / rate, 0.05):.9f}s"
        return cls(max(1, int(rate if burst is None else burst)), at_once, interval, math.ceil(1 / rate))


@dataclass(frozen=True)
class _Server:
    name: str
    host: str
    port: int
    is_ip: bool

    @classmethod
    def at(cls, name: str, address: str) -> _Server:
        host, port = parse_address(address)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return cls(name, host, port, False)
        return cls(name, host, port, True)
