"""Certificates for tests: an authority, the certificates it signs, and credentials for gRPC."""

from __future__ import annotations

import datetime
import inspect
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Signs certificates, for one test run."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.path.write_bytes(self._sign(self.name, self.key, basic, True).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str | None, *alternatives: x509.GeneralName) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        names = x509.SubjectAlternativeName(alternatives) if alternatives else None
        certificate = self._sign(subject, key, names, False)
        paths = (self.folder / f"{name}-{self.path.stem}.crt", self.folder / f"{name}-{self.path.stem}.key")
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        paths[1].write_bytes(key.private_bytes(*form))
        return paths

    def _sign(self, subject: x509.Name, key: Any, extension: Any, critical: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            # Python 3.13 requires the first of an authority, and the second of each certificate.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical)
        if isinstance(extension, x509.BasicConstraints):
            uses = {name: False for name in inspect.signature(x509.KeyUsage).parameters}
            builder = builder.add_extension(x509.KeyUsage(**{**uses, "key_cert_sign": True}), critical=True)
        return builder.sign(self.key, hashes.SHA256())


def channel_credentials(authority: Authority, client: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    chain, key = (path.read_bytes() for path in client) if client else (None, None)
    return grpc.ssl_channel_credentials(authority.path.read_bytes(), key, chain)
