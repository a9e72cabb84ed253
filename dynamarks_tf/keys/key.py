"""The owner's key: 32 secret random bytes, the labeled derivation of everything else from them, and the key file."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import re
import secrets
import stat
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dynamarks_tf._support import files, own_files, strict_json
from dynamarks_tf._support.formats import check_format
from dynamarks_tf.errors import ArgumentError, KeyFileError
from dynamarks_tf.foreign_text import LONGEST_NAME, is_plain
from dynamarks_tf.keys import passphrases

FORMAT = "dynamarks-key"
FORMAT_VERSION = 1
ENCRYPTED_VERSION = 2
SECRET_BYTES = 32
LONGEST_CLIENT = 200  # characters of a client's name
_DOMAIN = b"dynamarks-tf/v1/"
_LARGEST = 2**20  # bytes of a key file


class MarkKey:
    """A secret key that marks models and detects their surrogates.

    Everything secret about a mark is expanded from the 32 bytes of the key and the owner's name. An owner who publishes
    `key.commitment` before a suspect appears therefore cannot choose a table that suits the suspect later. `repr`,
    `str` and pickling never show the secret; only `save` writes it, to a file that the owner alone can read.

    Use `MarkKey.generate` or `MarkKey.load`; the constructor is for bytes kept elsewhere, such as in a vault.

    Args:
        secret: 32 bytes from a cryptographic random generator.
        owner: name of the owner of the model, a non-empty text without control characters. It is bound into every
            table and into the commitment: the same bytes under another name are another key.
        created: when the key was made, ISO 8601 in UTC; for information, not bound into anything. Now, if omitted.
        client: of a key that `for_client` derived, whom it is for; for information, not bound into anything.

    Raises:
        ArgumentError: the secret is not 32 bytes, or the name of owner or client, or the time, is not accepted.

    Example:

    >>> key = dm.MarkKey.generate(owner="ACME Vision")
    >>> key.save("acme.key")
    >>> dm.MarkKey.load("acme.key").commitment == key.commitment
    True

    Reference:
        HKDF: RFC 5869. ChaCha20: RFC 8439. The derivation is written down in docs/key-format.md.
    """

    __slots__ = ("__secret", "_client", "_created", "_owner")

    def __init__(self, secret: bytes, owner: str, *, created: str | None = None, client: str | None = None) -> None:
        if not isinstance(secret, (bytes, bytearray)) or len(secret) != SECRET_BYTES:
            size = f"{len(secret)} bytes" if isinstance(secret, (bytes, bytearray)) else type(secret).__name__
            raise ArgumentError(f"`secret` must be {SECRET_BYTES} random bytes. Received: {size}")
        self.__secret = bytes(secret)
        self._owner = _normalized_owner(owner)
        self._client = None if client is None else client_name(client)
        if created is not None and not strict_json.is_time(created):
            raise ArgumentError(
                f"`created` must be a date or time in ISO 8601, such as 2026-01-02. Received: {ascii(created)[:80]}"
            )
        self._created = created or datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

    @classmethod
    def generate(cls, owner: str) -> MarkKey:
        """Makes a new key from the operating system's random generator.

        Args:
            owner: name of the owner of the model, as reports will show it.
        """
        return cls(secrets.token_bytes(SECRET_BYTES), owner)

    @property
    def owner(self) -> str:
        """Name of the owner of the model; Unicode-normalized (NFC)."""
        return self._owner

    @property
    def created(self) -> str:
        """When the key was made, ISO 8601 in UTC."""
        return self._created

    @property
    def client(self) -> str | None:
        """Whom the key was derived for by `for_client`; `None` for a master key."""
        return self._client

    @property
    def commitment(self) -> str:
        """SHA-256 over the owner's name and the secret, 64 hexadecimal digits. It is safe to publish.

        It reveals nothing, and publishing it fixes the key: other 32 bytes with the same commitment cannot be computed.
        """
        return hashlib.sha256(_DOMAIN + b"commitment\0" + _length_prefixed(self._owner) + self.__secret).hexdigest()

    @property
    def key_id(self) -> str:
        """The first 16 digits of the commitment: a short name for the key."""
        return self.commitment[:16]

    def derive(self, label: str, size: int) -> bytes:
        """Expands the key into `size` secret bytes that are independent for each label.

        HKDF-SHA256 (salt: SHA-256 of the owner's name, info: the label) gives a ChaCha20 key; the bytes are its
        keystream from block 0 with an all-zero nonce.

        Args:
            label: purpose of the bytes, such as `"class-code/signs/10x10"`.
            size: number of bytes.
        """
        return self._keystream(_DOMAIN + b"owner\0" + self._owner.encode(), label, size)

    def for_client(self, name: str) -> MarkKey:
        """Derives the key of one client, or of one segment of clients, from this master key.

        A model that is marked with it shows whose answers a suspect was trained on: `dm.trace(keys=[...])`. The same
        name always gives the same key. Neither the master key nor another client's follows from it, so a host that
        serves one client needs no other. The reverse holds too: whoever has the master key can derive all of them.

        Args:
            name: of the client or segment, a non-empty text of at most 200 characters, none of them a control
                character.

        Returns:
            A key of the same owner with a commitment of its own.

        Raises:
            ArgumentError: the name is not accepted, or this key is a client's itself.

        Example:

        >>> marked = dm.mark(model, key.for_client("client-7"))
        """
        if self._client is not None:
            raise ArgumentError(
                f"This is the key of the client {self._client!a}, and client keys are derived from the master key "
                "only. Use the owner's master key."
            )
        client = client_name(name)
        return MarkKey(self.derive(f"client-key/{client}", SECRET_BYTES), self._owner, client=client)

    def bind(self, model_sha256: str) -> BoundKey:
        """The key bound to a clean model: its tables are others for each model.

        An owner who changes the clean model after its tables were known, so that it lacks what the tables put into
        suspects, gets other tables.

        Args:
            model_sha256: digest of the clean model, 64 hexadecimal digits; see `model_sha256`.

        Raises:
            ArgumentError: it is no digest.
        """
        if not isinstance(model_sha256, str) or re.fullmatch("[0-9a-f]{64}", model_sha256) is None:
            raise ArgumentError(f"`model_sha256` must be 64 hexadecimal digits. Received: {model_sha256!r:.80}")
        digest = bytes.fromhex(model_sha256)
        salt = _DOMAIN + b"model\0" + _length_prefixed(self._owner) + digest
        return BoundKey(lambda label, size: self._keystream(salt, label, size))

    def _keystream(self, salt: bytes, label: str, size: int) -> bytes:
        hkdf = HKDF(
            algorithm=hashes.SHA256(), length=32, salt=hashlib.sha256(salt).digest(), info=_DOMAIN + label.encode()
        )
        cipher = Cipher(algorithms.ChaCha20(hkdf.derive(self.__secret), nonce=bytes(16)), mode=None)
        return cipher.encryptor().update(bytes(size))

    def save(self, path: str | os.PathLike[str], *, passphrase: str | None = None, overwrite: bool = False) -> Path:
        """Writes the key file, readable and writable by its owner only (mode 0600).

        Args:
            path: the file to write.
            passphrase: what the secret in the file is encrypted with, at least 12 characters; `None` to leave it
                readable. A forgotten passphrase is a lost key.
            overwrite: whether an existing file may be replaced. A lost key cannot be made again, and without it no
                surrogate of the models marked with it can be detected.

        Returns:
            The path written to.

        Raises:
            ArgumentError: the passphrase is too short or too long.
            KeyFileError: the file exists and `overwrite` is false, or it cannot be written.
        """
        try:
            files.write_atomically(path, self.to_json(passphrase), mode=files.PRIVATE_FILE, overwrite=overwrite)
        except FileExistsError as error:
            raise KeyFileError(
                f"{os.fspath(path)} exists, and an overwritten key is lost forever. Choose another name, or set "
                "overwrite=True (--force)."
            ) from error
        except OSError as error:
            raise KeyFileError(f"Cannot write the key file {os.fspath(path)}: {error}") from error
        return Path(path)

    def to_json(self, passphrase: str | None = None) -> bytes:
        """The content of the key file, secret included. `save` is the safe way to write it.

        Args:
            passphrase: what the secret is encrypted with; `None` to leave it readable.

        Raises:
            ArgumentError: the passphrase is too short or too long.
        """
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "owner": self._owner,
            "created": self._created,
            "key_id": self.key_id,
            "commitment": self.commitment,
            "secret": base64.b64encode(self.__secret).decode(),
        }
        if self._client is not None:
            content["client"] = self._client
        if passphrase is not None:
            del content["secret"]
            content["version"] = ENCRYPTED_VERSION
            content["encrypted_secret"] = passphrases.encrypt(self.__secret, passphrase, bound_to=_public_part(content))
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, passphrase: str | Callable[[], str] | None = None) -> MarkKey:
        """Reads a key file and checks that nothing in it was altered.

        A file that others than its owner can read causes a `UserWarning` with the command that corrects it.

        Args:
            path: a file written by `save`.
            passphrase: of an encrypted file, or a function that is called for it if the file is encrypted.

        Raises:
            KeyFileError: the file is missing, unreadable, truncated or damaged, or encrypted with another passphrase.
                Or it is a link, belongs to somebody else, or others can write to it.
            FormatError: the file is not a key file, or of a version that this release does not know.
        """
        name = os.fspath(path)
        try:
            data = own_files.read_own(path, _LARGEST)
        except OSError as error:
            raise KeyFileError(f"Cannot read the key file {name}: {error.strerror or error}") from error
        _warn_if_others_can_read(Path(path))
        return cls.from_json(data, name, passphrase=passphrase)

    @classmethod
    def from_json(cls, data: bytes, name: str, *, passphrase: str | Callable[[], str] | None = None) -> MarkKey:
        """Reads the content of a key file.

        Args:
            data: the result of `to_json`.
            name: where it comes from, for messages.
            passphrase: of an encrypted key, or a function that is called for it if the key is encrypted.

        Raises:
            KeyFileError: the content is truncated or damaged, or encrypted with another passphrase.
            FormatError: it is not a key, or of a version that this release does not know.
        """
        try:
            content: Any = strict_json.parse(data)
        except ValueError:  # the error would quote the file
            raise KeyFileError(
                f"{name} is truncated or not a key file: it does not hold JSON. Restore it from a backup."
            ) from None
        if is_encrypted(content):
            content = _decrypted(content, passphrase() if callable(passphrase) else passphrase, name)
        check_format(content, FORMAT, FORMAT_VERSION, name, "a key file")
        try:
            if strict_json.problem_of(content, "key") is not None:
                raise ValueError
            key = cls(
                base64.b64decode(content["secret"], validate=True),
                content["owner"],
                created=content["created"],
                client=content.get("client"),
            )
        except (KeyError, TypeError, ValueError):
            # The cause is left out of the message because it may quote the secret.
            raise KeyFileError(
                f"{name} is damaged: an entry is missing or malformed. Restore it from a backup."
            ) from None
        if key.commitment != content.get("commitment"):
            raise KeyFileError(
                f"{name} is damaged: its secret and owner do not give the commitment written in it. Restore it from a "
                "backup; a changed owner's name makes another key."
            )
        return key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MarkKey):
            return NotImplemented
        return self._owner == other._owner and secrets.compare_digest(self.__secret, other.__secret)

    def __hash__(self) -> int:
        return hash(self.commitment)

    def __repr__(self) -> str:
        client = "" if self._client is None else f" client={self._client!a}"
        return f"<MarkKey {self.key_id} owner={self._owner!r}{client}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A MarkKey is not pickled, so that its secret is never copied unnoticed. Use key.save(path).")

    def __getstate__(self) -> NoReturn:
        self.__reduce__()

    def __copy__(self) -> MarkKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> MarkKey:
        return self


def is_encrypted(content: Any) -> bool:
    """Whether the content of a key file, as JSON gives it, takes a passphrase to read."""
    return isinstance(content, dict) and content.get("format") == FORMAT and content.get("version") == ENCRYPTED_VERSION


def _decrypted(content: dict[str, Any], passphrase: str | None, name: str) -> dict[str, Any]:
    """The content of an encrypted key file as that of a plain one."""
    secret = passphrases.decrypt(content.get("encrypted_secret"), passphrase, name, bound_to=_public_part(content))
    public = {entry: value for entry, value in content.items() if entry != "encrypted_secret"}
    return {**public, "version": FORMAT_VERSION, "secret": base64.b64encode(secret).decode()}


def _public_part(content: dict[str, Any]) -> bytes:
    """What an encrypted secret is bound to: all that the file says in the clear."""
    public = {name: value for name, value in content.items() if name != "encrypted_secret"}
    return json.dumps(public, sort_keys=True, separators=(",", ":")).encode()


class BoundKey:
    """What tables are expanded from when a key is bound to a clean model; made by `MarkKey.bind`.

    Args:
        derive: expands a label into secret bytes.
    """

    __slots__ = ("derive",)

    def __init__(self, derive: Callable[[str, int], bytes]) -> None:
        self.derive = derive

    def __repr__(self) -> str:
        return "<BoundKey>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A BoundKey is not pickled, so that its secret is never copied unnoticed.")


def client_name(name: str) -> str:
    """The name of a client or segment as its key is derived from it: Unicode-normalized (NFC), no blanks around it.

    Raises:
        ArgumentError: it is no such name.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_CLIENT:
        raise ArgumentError(
            f"The name of a client must be a non-empty text of at most {LONGEST_CLIENT} characters. "
            f"Received: {ascii(name)[:80]}"
        )
    return _without_controls(name, "The name of a client", ascii(name)[:80])


def _normalized_owner(owner: str) -> str:
    if not isinstance(owner, str) or not owner.strip() or len(owner) > LONGEST_NAME:
        raise ArgumentError(
            f"`owner` must say who claims the model, as a text of 1 to {LONGEST_NAME} characters. "
            f"Received: owner={ascii(owner)[:80]}"
        )
    return _without_controls(owner, "`owner`", f"owner={ascii(owner)[:80]}")


def _without_controls(text: str, what: str, shown: str) -> str:
    normalized = unicodedata.normalize("NFC", text.strip())
    if not is_plain(normalized):
        raise ArgumentError(f"{what} must not hold control or formatting characters. Received: {shown}")
    return normalized


def _length_prefixed(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "big") + data


def _warn_if_others_can_read(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        warnings.warn(
            f"The key file {path} can be read by others (mode {mode:04o}). Run: chmod 600 {path}", stacklevel=3
        )
