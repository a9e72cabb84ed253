"""The RFC 3161 timestamp of a statement: an authority's signature that the statement existed at a certain time.

It is the authority's reply as it came, in a file beside the statement: `statement.json.tsr`. `openssl ts -verify` reads
the same file. Reading it takes `rfc3161-client`; where only NumPy and `cryptography` are installed, it stays unread.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dynamarks_tf._support import files
from dynamarks_tf._support.own_files import read_regular
from dynamarks_tf.errors import CommitmentError
from dynamarks_tf.foreign_text import shown

if TYPE_CHECKING:  # takes 40 ms, and most commands need none of it
    from cryptography import x509

SUFFIX = ".tsr"
LARGEST_REPLY = 2**16  # bytes; authorities send 1 to 10 kB
LARGEST_ROOTS = 2**21  # bytes; all roots that a browser trusts take 2**18
_LONGEST_NAME = 200
_HASHES = {
    "2.16.840.1.101.3.4.2.1": hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}
_INSTALL = "pip install rfc3161-client"
NO_ROOTS = "no roots of a time-stamping authority were given (--timestamp-roots PEM)"
_NO_READER = f"rfc3161-client is not installed here ({_INSTALL})"


@dataclasses.dataclass(frozen=True)
class StatementDate:
    """What a timestamp says of a statement.

    Attributes:
        moment: when the statement existed, ISO 8601 in UTC; `None` if the timestamp could not be read.
        authority: name of who signed that; `None` if it could not be read.
        obstacle: why this is not verified; `None` if it is.
    """

    moment: str | None
    authority: str | None
    obstacle: str | None

    @property
    def is_verified(self) -> bool:
        """Whether the signature leads to a root that was given."""
        return self.obstacle is None

    def in_words(self) -> str:
        """One sentence."""
        if self.is_verified:
            return (
                f"The statement existed at {self.moment}: the time-stamping authority {self.authority} signed that, "
                "and its certificate leads to a given root."
            )
        says = "" if self.moment is None else f" that says {self.moment}"
        return f"A timestamp of the statement{says} is there, not verified: {self.obstacle}."


def beside(statement: str | os.PathLike[str]) -> Path:
    """Where the timestamp of a statement's file is."""
    return Path(f"{os.fspath(statement)}{SUFFIX}")


def make_request(data: bytes) -> bytes:
    """The request for a timestamp, to be sent to any time-stamping authority.

    Args:
        data: what is to be dated; the request holds its SHA-256 only.

    Raises:
        CommitmentError: `rfc3161-client` is not installed.
    """
    reader = _needed_reader()
    builder = reader.TimestampRequestBuilder(data=data, hash_algorithm=reader.HashAlgorithm.SHA256)
    return bytes(builder.build().as_bytes())


def date_of(data: bytes, reply: bytes, source: str, roots: Sequence[x509.Certificate] | None = None) -> StatementDate:
    """Checks a timestamp: that it is one, of these data, and with roots, that it was signed by whom they trust.

    The authority's certificates must have been valid at the time that it signed; they may have expired since. Whether
    they were revoked is not asked.

    Args:
        data: what was dated.
        reply: the authority's reply.
        source: where it comes from, for messages.
        roots: certificates that are trusted; `None` for none.

    Raises:
        CommitmentError: it is not so, or roots are given and `rfc3161-client` is not installed.
    """
    reader = _reader() if roots is None else _needed_reader()
    if reader is None:
        return StatementDate(None, None, _NO_READER)
    token = _read(reader, reply, source)
    if token.hash_name not in _HASHES or _HASHES[token.hash_name](data).digest() != token.digest:
        raise CommitmentError(
            f"{source} is a timestamp of something else than the statement. Use the reply to the request that was made "
            "for this statement."
        )
    if roots is None:
        return StatementDate(token.moment, token.authority, NO_ROOTS)
    try:
        reader.VerifierBuilder(roots=[*roots]).build().verify(token.response, token.digest)
    except Exception:  # its messages quote what others wrote into the file
        raise CommitmentError(
            f"{source}: the timestamp was not signed by an authority that the given roots trust, or was altered. Give "
            "the root certificate of the authority that was asked (--timestamp-roots PEM)."
        ) from None
    return StatementDate(token.moment, token.authority, None)


def load_roots(path: str | os.PathLike[str]) -> tuple[x509.Certificate, ...]:
    """Reads the certificates that are trusted to date.

    Args:
        path: a PEM file with the root certificates of one or more time-stamping authorities.

    Raises:
        CommitmentError: it cannot be read, or holds no certificate.
    """
    from cryptography import x509

    data = _bounded(path, LARGEST_ROOTS, "root certificates")
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise CommitmentError(
            f"{os.fspath(path)} does not hold root certificates: expected PEM text with one or more blocks that begin "
            "with -----BEGIN CERTIFICATE-----."
        ) from None


def load_reply(path: str | os.PathLike[str]) -> bytes:
    """Reads an authority's reply, unchecked.

    Raises:
        CommitmentError: it cannot be read, or is too large for one.
    """
    return _bounded(path, LARGEST_REPLY, "a timestamp")


def save_reply(statement: str | os.PathLike[str], reply: bytes) -> Path:
    """Writes a timestamp beside its statement.

    Args:
        statement: the statement's file.
        reply: the authority's reply, checked.

    Returns:
        The file written.

    Raises:
        CommitmentError: there is one already.
    """
    target = beside(statement)
    try:
        files.write_atomically(target, reply, overwrite=False)
    except FileExistsError as error:
        raise CommitmentError(
            f"{target} exists; a timestamp is not overwritten, since the older one proves more. Move it away if it is "
            "of no use."
        ) from error
    return target


@dataclasses.dataclass(frozen=True)
class _Token:
    response: Any
    moment: str
    authority: str
    hash_name: str
    digest: bytes


def _read(reader: ModuleType, reply: bytes, source: str) -> _Token:
    try:
        if len(reply) > LARGEST_REPLY:
            raise ValueError
        response = reader.decode_timestamp_response(reply)
        status = reader.PKIStatus(response.status)
    except Exception:  # its messages quote the file
        raise CommitmentError(
            f"{source} is not a timestamp: expected the reply of an RFC 3161 time-stamping authority, DER, as it came. "
            "A reply whose certificates are not in DER's order cannot be read here; `openssl ts -verify` reads it."
        ) from None
    if status != reader.PKIStatus.GRANTED:
        raise CommitmentError(
            f"{source}: the authority did not grant a timestamp, its status is {status.name}. Ask again, or another."
        )
    try:
        about = response.tst_info
        moment = about.gen_time.astimezone(datetime.timezone.utc).isoformat(timespec="seconds")
        imprint = about.message_imprint
        return _Token(response, moment, _signer(response), imprint.hash_algorithm.dotted_string, bytes(imprint.message))
    except Exception:  # as above
        raise CommitmentError(
            f"{source} is a damaged timestamp: what it says of time and digest cannot be read."
        ) from None


def _signer(response: Any) -> str:
    from cryptography import x509

    (signer,) = response.signed_data.signer_infos
    certificates = map(x509.load_der_x509_certificate, response.signed_data.certificates)
    names = (one.subject for one in certificates if one.serial_number == signer.serial_number)
    name = next(names, signer.issuer).rfc4514_string()
    return shown(name, _LONGEST_NAME)


def _bounded(path: str | os.PathLike[str], largest: int, what: str) -> bytes:
    try:
        return read_regular(path, largest)
    except OSError as error:
        raise CommitmentError(f"Cannot read {what} from {os.fspath(path)}: {error.strerror or error}") from error


def _reader() -> ModuleType | None:
    try:
        import rfc3161_client
    except ImportError:
        return None
    return rfc3161_client


def _needed_reader() -> ModuleType:
    reader = _reader()
    if reader is None:
        raise CommitmentError(f"A timestamp can be requested and verified only with rfc3161-client: {_INSTALL}")
    return reader
