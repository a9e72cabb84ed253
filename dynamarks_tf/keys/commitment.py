"""The statement about a key, to be published before any suspect appears and opened later with the key itself."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dynamarks_tf._support import files
from dynamarks_tf._support.formats import check_format
from dynamarks_tf._support.own_files import read_regular
from dynamarks_tf._support.strict_json import check, is_time, read_json
from dynamarks_tf.errors import ArgumentError, CommitmentError
from dynamarks_tf.keys import timestamp as timestamps
from dynamarks_tf.keys import timestamp_authority
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.pool import CommittedPool

if TYPE_CHECKING:
    from cryptography import x509

FORMAT = "dynamarks-commitment"
FORMAT_VERSION = 2
_WITHOUT_POOL = 1  # the version of statements that name no pool: what older releases signed, and still read
_LARGEST = 2**20  # bytes of a statement
_SIGNATURE_LABEL = "commitment/ed25519"
_ENTRIES = ("owner", "key_id", "commitment", "model_sha256", "date", "public_key", "signature")


@dataclasses.dataclass(frozen=True)
class Statement:
    """The statement that an owner publishes: "I hold a key with this commitment".

    The signature, by an Ed25519 key derived from the secret, shows that the statement was not altered since. It does
    not show *when* it was made: have it dated by a third party, such as an RFC 3161 time-stamping authority
    (`timestamped`), a notary or a public repository.

    Attributes:
        owner: name of the owner of the model.
        key_id: short name of the key.
        commitment: SHA-256 over owner and secret; see docs/key-format.md.
        model_sha256: digest of the model file that the statement is about; `None` if it is about the key alone.
        date: when it was made according to the owner, ISO 8601 in UTC.
        public_key: Ed25519 public key, base64.
        signature: Ed25519 signature over all other entries, base64.
        pool: the inputs that queries will be drawn from, and how many; `None` if the statement names none.
        timestamp: a time-stamping authority's reply about the statement, which stands in a file beside it; `None` if
            there is none.
    """

    owner: str
    key_id: str
    commitment: str
    model_sha256: str | None
    date: str
    public_key: str
    signature: str
    pool: CommittedPool | None = None
    timestamp: bytes | None = dataclasses.field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the timestamp."""
        content = dataclasses.asdict(self)
        del content["timestamp"]
        if self.pool is None:
            del content["pool"]
        version = _WITHOUT_POOL if self.pool is None else FORMAT_VERSION
        return {"format": FORMAT, "version": version, **content}

    def to_bytes(self) -> bytes:
        """The content of the statement's file: what a timestamp is about."""
        return (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the statement as JSON, and its timestamp, if it has one, beside it: `statement.json.tsr`.

        Raises:
            CommitmentError: a file exists and `overwrite` is false.
        """
        try:
            files.write_atomically(path, self.to_bytes(), overwrite=overwrite)
        except FileExistsError as error:
            raise CommitmentError(
                f"{os.fspath(path)} exists; a statement is not overwritten. Name another file."
            ) from (error)
        if self.timestamp is not None:
            timestamps.save_reply(path, self.timestamp)

    def timestamped(self, url: str, *, timeout_s: float = 30.0) -> Statement:
        """Has the statement dated by an RFC 3161 time-stamping authority.

        The authority learns the SHA-256 of the statement only. Without a network, write `timestamp_request()` to a
        file, have it answered elsewhere, and put the reply beside the statement (`dynamarks timestamp`).

        Args:
            url: address of the authority, http or https.
            timeout_s: seconds to wait for the connection, and then for the whole reply.

        Returns:
            The statement with its timestamp, which `save` writes beside it.

        Raises:
            ArgumentError: the address is none.
            CommitmentError: there is no reply, or it is no timestamp of this statement.

        Example:

        >>> dm.commit(key).timestamped("http://timestamp.example.com").save("statement.json")
        """
        reply = timestamp_authority.ask(self.timestamp_request(), url, timeout_s=timeout_s)
        return self.with_timestamp(reply, "The reply")

    def timestamp_request(self) -> bytes:
        """The request that an RFC 3161 time-stamping authority answers; it holds a digest of the statement only."""
        return timestamps.make_request(self.to_bytes())

    def with_timestamp(self, reply: bytes, source: str) -> Statement:
        """The statement with an authority's reply as its timestamp.

        Args:
            reply: as it came.
            source: where it comes from, for messages.

        Raises:
            CommitmentError: it is no timestamp of this statement.
        """
        timestamps.date_of(self.to_bytes(), reply, source)
        return dataclasses.replace(self, timestamp=reply)

    def proven_date(
        self, roots: Sequence[x509.Certificate] | None = None, source: str = "The timestamp"
    ) -> timestamps.StatementDate | None:
        """What the timestamp says of when the statement existed; `None` if there is no timestamp.

        Args:
            roots: root certificates of time-stamping authorities that are trusted, as `load_roots` reads them; `None`
                for none: the timestamp is then not verified.
            source: where it comes from, for messages.

        Raises:
            CommitmentError: it is no timestamp of this statement. Or roots are given, and it was not signed by whom
                they trust, or there is none.
        """
        if self.timestamp is None and roots is not None:
            raise CommitmentError(
                "Roots of a time-stamping authority were given, and the statement has no timestamp. Put it beside the "
                "statement before the test (dynamarks timestamp), or leave the roots out (--timestamp-roots)."
            )
        return None if self.timestamp is None else timestamps.date_of(self.to_bytes(), self.timestamp, source, roots)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statement:
        """Reads a statement and checks its signature. A timestamp beside it is read too, and must be about it.

        Raises:
            CommitmentError: the file cannot be read, or was altered after it was signed; or the timestamp is about
                something else.
            FormatError: it is not a statement, or of an unknown version.
        """
        try:
            data = read_regular(path, _LARGEST)
        except OSError as error:
            raise CommitmentError(f"Cannot read a commitment statement from {os.fspath(path)}: {error}") from error
        content = read_json(data, os.fspath(path), "a commitment statement", error=CommitmentError)
        statement = cls.from_dict(content, os.fspath(path))
        reply = timestamps.beside(path)
        return statement.with_timestamp(timestamps.load_reply(reply), str(reply)) if reply.exists() else statement

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
        check(content, "statement", path, error=CommitmentError)
        if names_no_pool == ("pool" in content):
            raise CommitmentError(f"{path} is damaged: statements of version 1 name no pool, later ones name one.")
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
    date = date or datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    if not is_time(date):
        raise ArgumentError(f"`date` must be a date or time in ISO 8601, such as 2026-01-02. Received: {date!a:.80}")
    try:
        model_sha256 = None if model is None else files.file_sha256(model)
    except OSError as error:
        raise CommitmentError(f"Cannot read the model file {os.fspath(model or '')}: {error.strerror}") from error
    unsigned = Statement(
        owner=key.owner,
        key_id=key.key_id,
        commitment=key.commitment,
        model_sha256=model_sha256,
        date=date,
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
