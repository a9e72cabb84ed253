"""The statement about a key, to be published before any suspect appears and opened later with the key itself."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dynamarks_tf._support import files
from dynamarks_tf._support.formats import check_format
from dynamarks_tf.errors import ArgumentError, CommitmentError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.pool import CommittedPool

FORMAT = "dynamarks-commitment"
FORMAT_VERSION = 2
_WITHOUT_POOL = 1  # the version of statements that name no pool: what older releases signed, and still read
_SIGNATURE_LABEL = "commitment/ed25519"
_ENTRIES = ("owner", "key_id", "commitment", "model_sha256", "date", "public_key", "signature")


@dataclasses.dataclass(frozen=True)
class Statement:
    """The statement that an owner publishes: "I hold a key with this commitment".

    The signature, by an Ed25519 key derived from the secret, shows that the statement was not altered since. It does
    not show *when* it was made: have it dated by a third party (notary, time-stamping service, public repository).

    Attributes:
        owner: name of the owner of the model.
        key_id: short name of the key.
        commitment: SHA-256 over owner and secret; see docs/key-format.md.
        model_sha256: digest of the model file that the statement is about; `None` if it is about the key alone.
        date: when it was made according to the owner, ISO 8601 in UTC.
        public_key: Ed25519 public key, base64.
        signature: Ed25519 signature over all other entries, base64.
        pool: the inputs that queries will be drawn from, and how many; `None` if the statement names none.
    """

    owner: str
    key_id: str
    commitment: str
    model_sha256: str | None
    date: str
    public_key: str
    signature: str
    pool: CommittedPool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        content = dataclasses.asdict(self)
        if self.pool is None:
            del content["pool"]
        version = _WITHOUT_POOL if self.pool is None else FORMAT_VERSION
        return {"format": FORMAT, "version": version, **content}

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the statement as JSON.

        Raises:
            CommitmentError: the file exists and `overwrite` is false.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        try:
            files.write_atomically(path, text.encode(), overwrite=overwrite)
        except FileExistsError as error:
            raise CommitmentError(
                f"{os.fspath(path)} exists; a statement is not overwritten. Name another file."
            ) from (error)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statement:
        """Reads a statement and checks its signature.

        Raises:
            CommitmentError: the file cannot be read, or was altered after it was signed.
            FormatError: it is not a statement, or of an unknown version.
        """
        try:
            content: Any = json.loads(Path(path).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise CommitmentError(f"Cannot read a commitment statement from {os.fspath(path)}: {error}") from error
        return cls.from_dict(content, os.fspath(path))

    @classmethod
    def from_dict(cls, content: Any, path: str) -> Statement:
        """Reads the result of `to_dict`, and checks its signature.

        Args:
            content: plain values from JSON.
            path: their file, for messages.

        Raises:
            CommitmentError: it was altered after it was signed.
            FormatError: it is not a statement, or of an unknown version.
        """
        names_no_pool = isinstance(content, dict) and content.get("version") == _WITHOUT_POOL
        version = _WITHOUT_POOL if names_no_pool else FORMAT_VERSION
        check_format(content, FORMAT, version, path, "a commitment statement")
        entries = _ENTRIES if names_no_pool else (*_ENTRIES, "pool")
        if set(content) != {"format", "version", *entries}:
            raise CommitmentError(f"{path} is damaged: its entries are not {', '.join(entries)}.")
        try:
            pool = None if names_no_pool else CommittedPool(**content["pool"])
        except (ArgumentError, TypeError) as error:
            raise CommitmentError(f"{path} is damaged: its entry pool cannot be used. {error}") from error
        statement = cls(**{name: content[name] for name in _ENTRIES}, pool=pool)
        if not statement.has_valid_signature():
            raise CommitmentError(f"{path} was altered after it was signed: its signature does not fit.")
        return statement

    def has_valid_signature(self) -> bool:
        """Whether the signature fits the statement."""
        return is_signed(_signed_bytes(self), self.public_key, self.signature)

    def check_opened_by(self, key: MarkKey) -> None:
        """Checks that `key` is the one that the statement committed to.

        Raises:
            CommitmentError: it is another key, or the statement was signed by another.
        """
        if self.commitment != key.commitment or self.owner != key.owner:
            raise CommitmentError(
                f"The statement commits to the key {self.key_id} of {self.owner!r}; given is the key {key.key_id} of "
                f"{key.owner!r}. Use the key that was committed to."
            )
        if self.public_key != public_key(key) or not self.has_valid_signature():
            raise CommitmentError("The statement was not signed by this key.")

    def check_model(self, file_sha256: str | None) -> None:
        """Checks that the statement is about the owner's model file, if it is about one at all.

        Args:
            file_sha256: digest of the file of the owner's model; `None` if it did not come from a file.

        Raises:
            CommitmentError: it is about another file.
        """
        if self.model_sha256 not in (None, file_sha256):
            given = "a model in memory was given" if file_sha256 is None else f"the file given has {file_sha256}"
            raise CommitmentError(
                f"The statement is about a model file with SHA-256 {self.model_sha256}; {given}. Use the file that was "
                "committed to."
            )


def commit(
    key: MarkKey,
    *,
    model: str | os.PathLike[str] | None = None,
    date: str | None = None,
    pool: CommittedPool | None = None,
) -> Statement:
    """Makes the statement to publish about a key.

    Args:
        key: the owner's key.
        model: the model file that the statement is about; only its digest is kept.
        date: ISO 8601; now, if omitted.
        pool: the inputs that queries will be drawn from, as `committed_pool` describes them.

    Raises:
        ArgumentError: a pool is named, but no model: the clean model chooses among the inputs that are drawn.
        CommitmentError: the model file cannot be read.
    """
    if pool is not None and model is None:
        raise ArgumentError(
            "A statement that names a pool must name the model too, whose answers choose among the inputs drawn: "
            "commit(key, model=..., pool=...) (dynamarks commit KEY --model FILE --pool POOL)."
        )
    try:
        model_sha256 = None if model is None else files.file_sha256(model)
    except OSError as error:
        raise CommitmentError(f"Cannot read the model file {os.fspath(model or '')}: {error.strerror}") from error
    unsigned = Statement(
        owner=key.owner,
        key_id=key.key_id,
        commitment=key.commitment,
        model_sha256=model_sha256,
        date=date or datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        public_key=public_key(key),
        signature="",
        pool=pool,
    )
    return dataclasses.replace(unsigned, signature=sign(_signed_bytes(unsigned), key))


def sign(data: bytes, key: MarkKey) -> str:
    """Ed25519 signature over `data` by the signing key that derives from `key`, base64."""
    return base64.b64encode(_signing_key(key).sign(data)).decode()


def public_key(key: MarkKey) -> str:
    """The public key that belongs to the signatures of `sign`, base64."""
    return base64.b64encode(_signing_key(key).public_key().public_bytes_raw()).decode()


def is_signed(data: bytes, public_key: str, signature: str) -> bool:
    """Whether `signature` over `data` is by the holder of `public_key`; both base64."""
    try:
        verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        verifier.verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _signing_key(key: MarkKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.derive(_SIGNATURE_LABEL, 32))


def _signed_bytes(statement: Statement) -> bytes:
    content = {name: value for name, value in statement.to_dict().items() if name != "signature"}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
