"""Addresses of served models: parsed without ever showing a password that they may hold."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from dynamarks_tf.errors import ArgumentError

GRPC_FORM = "grpc://host:port/name or grpc://host:port/name/versions/N (grpcs as well)"
REST_FORM = "http://host:port/v1/models/name or http://host:port/v1/models/name/versions/N (https as well)"
V2_FORM = "http://host:port/v2/models/name or http://host:port/v2/models/name/versions/V (https as well)"

_GRPC_PATH = re.compile(r"/(?P<name>[^/:]+)(/versions/(?P<version>[0-9]+))?/?")
_REST_PATH = re.compile(r"(?P<prefix>(/[^:]*)?)/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>[0-9]+))?/?")
_V2_PATH = re.compile(r"(/[^:]*)?/v2/models/(?P<name>[^/:]+)(/versions/[^/:]+)?/?")


@dataclass(frozen=True)
class Address:
    """Where a served model is.

    Attributes:
        scheme: `grpc`, `grpcs`, `http` or `https`.
        host: name or number; IPv6 without brackets.
        port: TCP port.
        name: name of the model.
        version: version number; `None` for the highest that is available, and where only `url` holds it.
        url: the address to send requests to; it may be shown.
    """

    scheme: str
    host: str
    port: int
    name: str
    version: int | None
    url: str

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, which proxies do not reach."""
        return is_loopback(self.host)


def parse_grpc(url: str) -> Address:
    """Parses `grpc(s)://host:port/name[/versions/N]`.

    Raises:
        ArgumentError: `url` has another form, or holds a user name or password.
    """
    return _parse(url, _GRPC_PATH, {"grpc": None, "grpcs": None}, GRPC_FORM)


def parse_rest(url: str) -> Address:
    """Parses `http(s)://host:port/v1/models/name[/versions/N]`.

    Raises:
        ArgumentError: `url` has another form, or holds a user name or password.
    """
    return _parse(url, _REST_PATH, {"http": 80, "https": 443}, REST_FORM)


def parse_v2(url: str) -> Address:
    """Parses `http(s)://host:port/v2/models/name[/versions/V]`.

    Raises:
        ArgumentError: `url` has another form, or holds a user name or password.
    """
    return _parse(url, _V2_PATH, {"http": 80, "https": 443}, V2_FORM)


def is_v2(url: str) -> bool:
    """Tells whether an address is one of the Open Inference Protocol."""
    return "/v2/models/" in url


def without_password(text: str) -> str:
    """Blanks out what may be a user name and a password in an address."""
    return re.sub(r"[^/\s]*@", "***@", text)


def is_loopback(host: str) -> bool:
    """Tells whether `host` names this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _parse(url: str, path_form: re.Pattern[str], schemes: dict[str, int | None], form: str) -> Address:
    malformed = ArgumentError(f"{without_password(url)!r} is not the address of a model; accepted: {form}.")
    try:
        parts = urlsplit(url.strip())
        port = parts.port or schemes.get(parts.scheme)
    except ValueError:
        raise malformed from None
    if "@" in parts.netloc:
        raise ArgumentError(
            f"The address {without_password(url)!r} holds a user name or password, and addresses end up in reports. "
            "Leave it out; for a server that asks for one, put its key into DYNAMARKS_API_KEY, or pass a function that "
            "calls it."
        )
    match = path_form.fullmatch(parts.path)
    if parts.scheme not in schemes or not parts.hostname or not port or not match or parts.query or parts.fragment:
        raise malformed
    version = match.groupdict().get("version")
    return Address(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        name=unquote(match["name"]),
        version=int(version) if version else None,
        url=_without_slash(parts),
    )


def _without_slash(parts: SplitResult) -> str:
    return parts._replace(path=parts.path.rstrip("/")).geturl()
