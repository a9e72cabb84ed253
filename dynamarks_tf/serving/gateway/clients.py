"""Clients and their tokens: a folder that `dynamarks client` writes and Envoy reads.

A token is a signed statement (JWT, Ed25519): the client's name, the token's number, and the day it ends. Envoy checks
it with the public key alone, so nothing that Envoy reads can make a token. The folder holds

- `signing.key`: the private key, which need not be where Envoy runs;
- `clients.json`: the tokens' numbers, names and days, without the tokens themselves;
- `public/jwks.json`: the public key;
- `public/revoked.json`: Envoy's rule that refuses the numbers of revoked tokens, on open connections as well.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dynamarks_tf._support import own_files
from dynamarks_tf._support.files import PRIVATE_FILE, PRIVATE_FOLDER, write_atomically
from dynamarks_tf._support.formats import check_format
from dynamarks_tf._support.strict_json import read_json
from dynamarks_tf.errors import ArgumentError

ISSUER, AUDIENCE = "dynamarks", "predictions"
KEY, CLIENTS, PUBLIC, JWKS, REVOKED = "signing.key", "clients.json", "public", "jwks.json", "revoked.json"
REVOKED_FILTER = "revoked"
MOST_DAYS = 3650
DAY_S = 86_400

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,255}")
FORMAT, FORMAT_VERSION = "dynamarks-clients", 1
_LIST = "a list of clients; restore it from a copy, as without it no token can be revoked"
_LARGEST_KEY, _LARGEST_LIST = 2**14, 2**28  # bytes


@dataclass(frozen=True)
class Token:
    """What is kept of a token.

    Attributes:
        number: names the token; it is in the token itself.
        name: the client's name.
        ends: when the token ends, in seconds since 1970.
        is_revoked: whether it was revoked before its end.
    """

    number: str
    name: str
    ends: int
    is_revoked: bool = False


def add(folder: str | os.PathLike[str], name: str, *, days: float) -> str:
    """Makes a token for a client, and the folder at the first time.

    Args:
        folder: the folder of the clients.
        name: the client's name, as it will be in the log.
        days: how long the token is valid.

    Returns:
        The token, which is not kept.

    Raises:
        ArgumentError: the name or the number of days cannot be used, or the folder's content cannot.
    """
    import jwt

    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"A client's name is made of up to 256 letters, digits and ._@-, and begins with a letter or a digit. "
            f"Received: {name!a}"
        )
    if not 0 < days <= MOST_DAYS:
        raise ArgumentError(f"A token is valid for up to {MOST_DAYS} days. Received: {days}")
    path = Path(folder)
    with _locked(path):
        key = _signing_key(path)
        token = Token(secrets.token_hex(8), name, int(time.time() + days * DAY_S))
        _save(path, [*load(path), token])
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": name, "jti": token.number, "exp": token.ends}
        return jwt.encode(claims, key, algorithm="EdDSA")


def revoke(folder: str | os.PathLike[str], name: str, number: str | None = None) -> int:
    """Revokes a client's tokens.

    Args:
        folder: the folder of the clients.
        name: the client's name.
        number: the token's number; all of the client's if not given.

    Returns:
        How many tokens were valid until now.

    Raises:
        ArgumentError: the client has no such token.
    """
    path = Path(folder)
    with _locked(path):
        tokens = load(path)
        meant = {token for token in tokens if token.name == name and number in (None, token.number)}
        if not meant:
            which = "token" if number is None else f"token {number!a}"
            raise ArgumentError(f"{path} has no {which} of a client {name!a}. `dynamarks client list` shows all.")
        _save(path, [replace(token, is_revoked=True) if token in meant else token for token in tokens])
    return sum(not token.is_revoked and token.ends > time.time() for token in meant)


def load(folder: str | os.PathLike[str]) -> list[Token]:
    """Returns the tokens of a folder.

    Raises:
        ArgumentError: the folder's list cannot be used.
    """
    path = Path(folder, CLIENTS)
    try:
        data = own_files.read_own(path, _LARGEST_LIST)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArgumentError(f"The list of clients cannot be read: {error}") from error
    content = read_json(data, str(path), _LIST, error=ArgumentError)
    found = check_format(content, FORMAT, FORMAT_VERSION, str(path), _LIST, schema="clients", error=ArgumentError)
    return [Token(**entry) for entry in found["tokens"]]


def check(folder: Path) -> None:
    """Refuses a folder without what Envoy reads, with which it would not start.

    Args:
        folder: the folder `public`.

    Raises:
        ArgumentError: files are missing.
    """
    missing = [name for name in (JWKS, REVOKED) if not (folder / name).is_file()]
    if missing:
        raise ArgumentError(
            f"{folder} has no {' and no '.join(missing)}. Make a client, dynamarks client add NAME, and name the "
            f"folder {PUBLIC!r} that it makes."
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    for made in (folder, folder / PUBLIC):
        own_files.make_folders(made, PRIVATE_FOLDER)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _signing_key(folder: Path) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = folder / KEY
    if not path.exists():
        if (folder / PUBLIC / JWKS).exists():
            raise ArgumentError(f"{folder} has no {KEY}, so no token can be made here. Run this where the key is kept.")
        from jwt.algorithms import OKPAlgorithm

        key = Ed25519PrivateKey.generate()
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_atomically(path, key.private_bytes(*form), mode=PRIVATE_FILE, overwrite=False)
        public = json.loads(OKPAlgorithm.to_jwk(key.public_key())) | {"alg": "EdDSA", "use": "sig"}
        write_atomically(folder / PUBLIC / JWKS, json.dumps({"keys": [public]}, indent=1).encode(), mode=PRIVATE_FILE)
        return key
    try:
        return serialization.load_pem_private_key(own_files.read_own(path, _LARGEST_KEY), password=None)
    except OSError as error:
        raise ArgumentError(f"No token can be signed: {error}") from error
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{path} is no private key in PEM without a password ({type(error).__name__}).") from error


def _save(folder: Path, tokens: list[Token]) -> None:
    content = {"format": FORMAT, "version": FORMAT_VERSION, "tokens": [asdict(token) for token in tokens]}
    write_atomically(folder / CLIENTS, json.dumps(content, indent=1).encode(), mode=PRIVATE_FILE)
    refused = [token.number for token in tokens if token.is_revoked and token.ends > time.time()]
    write_atomically(folder / PUBLIC / REVOKED, json.dumps(_rule(refused), indent=1).encode(), mode=PRIVATE_FILE)


def _rule(numbers: list[str]) -> dict[str, Any]:
    """Returns the content of `revoked.json`."""
    types = "type.googleapis.com/envoy."
    path = [{"key": "payload"}, {"key": "jti"}]
    which = [
        {
            "metadata": {
                "filter": "envoy.filters.http.jwt_authn",
                "path": path,
                "value": {"string_match": {"exact": one}},
            }
        }
        for one in numbers
    ]
    policies = {"revoked": {"permissions": [{"any": True}], "principals": which}} if which else {}
    rbac = {"@type": f"{types}extensions.filters.http.rbac.v3.RBAC", "rules": {"action": "DENY", "policies": policies}}
    extension = {"@type": f"{types}config.core.v3.TypedExtensionConfig", "name": REVOKED_FILTER, "typed_config": rbac}
    return {"resources": [extension]}
