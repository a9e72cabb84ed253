"""A secret under a passphrase: scrypt makes a key of it, ChaCha20-Poly1305 encrypts and authenticates."""

from __future__ import annotations

import base64
import secrets
import unicodedata
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from dynamarks_tf.errors import ArgumentError, KeyFileError

SHORTEST = 12  # characters
LONGEST = 1024
VARIABLE = "DYNAMARKS_PASSPHRASE_FILE"
COST = 2**17  # n; with r = 8 it takes 128 MiB, and some tenths of a second
COSTS = (2**14, 2**18)  # accepted on reading: weaker is no protection, stronger could exhaust the reader
_BLOCK_SIZE, _PARALLEL = 8, 1  # r, p
_SALT_BYTES, _NONCE_BYTES = 16, 12
_ENTRIES = {"kdf", "n", "r", "p", "salt", "cipher", "nonce", "data"}
_LARGEST = 1024  # characters of the encrypted data


def check(passphrase: str) -> None:
    """Refuses a passphrase that is too short to protect a file which may be copied and tried at leisure.

    Raises:
        ArgumentError: it has another length than 12 to 1,024 characters.
    """
    if not isinstance(passphrase, str) or not SHORTEST <= len(passphrase) <= LONGEST:
        raise ArgumentError(
            f"A passphrase must have {SHORTEST} to {LONGEST} characters. Take five or more random words."
        )


def encrypt(secret: bytes, passphrase: str, *, bound_to: bytes) -> dict[str, Any]:
    """Encrypts a secret.

    Args:
        secret: the bytes to encrypt.
        passphrase: 12 to 1,024 characters.
        bound_to: what the secret is shown beside; a change of it is noticed.

    Returns:
        Plain values for JSON: the method with its parameters, and the encrypted bytes.

    Raises:
        ArgumentError: the passphrase is too short or too long.
    """
    check(passphrase)
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    data = _cipher(passphrase, salt, COST).encrypt(nonce, secret, bound_to)
    return {
        "kdf": "scrypt",
        "n": COST,
        "r": _BLOCK_SIZE,
        "p": _PARALLEL,
        "salt": _text(salt),
        "cipher": "chacha20-poly1305",
        "nonce": _text(nonce),
        "data": _text(data),
    }


def decrypt(content: Any, passphrase: str | None, source: str, *, bound_to: bytes) -> bytes:
    """Decrypts what `encrypt` gave. The parameters come from the file, so they are bounded before they cost anything.

    Args:
        content: plain values from JSON.
        passphrase: `None` if there is none, which is an error.
        source: the file, for messages.
        bound_to: what it was bound to.

    Raises:
        ArgumentError: the passphrase is no text.
        KeyFileError: it is damaged, its parameters are not accepted, or the passphrase is another.
    """
    if passphrase is None:
        raise KeyFileError(
            f"{source} is encrypted. Give its passphrase: MarkKey.load(path, passphrase=...); on the command line at a "
            f"terminal, or in a file that {VARIABLE} names."
        )
    try:
        if set(content) != _ENTRIES or (content["kdf"], content["cipher"]) != ("scrypt", "chacha20-poly1305"):
            raise ValueError
        cost, others = content["n"], (content["r"], content["p"])
        if type(cost) is not int or not COSTS[0] <= cost <= COSTS[1] or cost & (cost - 1):
            raise ValueError
        if others != (_BLOCK_SIZE, _PARALLEL) or len(content["data"]) > _LARGEST:
            raise ValueError
        salt, nonce, data = (base64.b64decode(content[name], validate=True) for name in ("salt", "nonce", "data"))
        if (len(salt), len(nonce)) != (_SALT_BYTES, _NONCE_BYTES):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise KeyFileError(
            f"{source} is damaged: its encrypted secret is not one of scrypt (n from 2^14 to 2^18, r = 8, p = 1) and "
            "ChaCha20-Poly1305. Restore it from a backup."
        ) from None
    if not isinstance(passphrase, str):
        raise ArgumentError(f"`passphrase` must be a text. Received: {type(passphrase).__name__}")
    try:
        return _cipher(passphrase, salt, cost).decrypt(nonce, data, bound_to)
    except InvalidTag:
        raise KeyFileError(
            f"{source} cannot be decrypted: the passphrase is another, or the file was altered. Try again, or restore "
            "it from a backup."
        ) from None


def _cipher(passphrase: str, salt: bytes, cost: int) -> ChaCha20Poly1305:
    normalized = unicodedata.normalize("NFC", passphrase).encode(errors="surrogatepass")
    return ChaCha20Poly1305(Scrypt(salt, 32, n=cost, r=_BLOCK_SIZE, p=_PARALLEL).derive(normalized))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
