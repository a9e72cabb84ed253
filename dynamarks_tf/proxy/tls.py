"""TLS towards clients, with or without certificates of theirs, the same for gRPC and REST."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from dynamarks_tf.errors import ArgumentError


class Tls:
    """The proxy's certificate, and the authority whose clients it takes.

    Args:
        certificate: PEM file with the proxy's certificate and those that lead from it to its authority.
        private_key: PEM file with the private key for it, without a password.
        client_authority: PEM file with the certificate of the authority that signs clients' certificates. If given,
            only clients with such a certificate can connect.

    Raises:
        ArgumentError: a file cannot be read, or does not fit the others.
    """

    def __init__(
        self,
        certificate: str | os.PathLike[str],
        private_key: str | os.PathLike[str],
        client_authority: str | os.PathLike[str] | None = None,
    ) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._context.load_cert_chain(certificate, private_key, password="")
            if client_authority is not None:
                self._context.load_verify_locations(client_authority)
                self._context.verify_mode = ssl.CERT_REQUIRED
            chain, key = Path(certificate).read_bytes(), Path(private_key).read_bytes()
            authority = Path(client_authority).read_bytes() if client_authority is not None else None
        except (OSError, ssl.SSLError) as error:
            given = ", ".join(str(path) for path in (certificate, private_key, client_authority) if path is not None)
            raise ArgumentError(
                f"TLS cannot be set up with {given}: {error}. Needed are PEM files: the certificate, the private key "
                "for it without a password, and the authority of the clients if they must show certificates."
            ) from error
        self.checks_clients = authority is not None
        self._credentials = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=authority, require_client_auth=self.checks_clients
        )

    @property
    def context(self) -> ssl.SSLContext:
        """For servers on sockets."""
        return self._context

    @property
    def credentials(self) -> grpc.ServerCredentials:
        """For servers of gRPC."""
        return self._credentials


def names_of(certificate: Mapping[str, Any] | None) -> list[str]:
    """Returns the names in what `SSLSocket.getpeercert` gives: the common name, then the alternative ones."""
    if not certificate:
        return []
    common = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return [name for name in (*common, *(value for _, value in certificate.get("subjectAltName", ()))) if name]


def names_in_context(context: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Returns the same from the authentication context of a gRPC call."""
    names = [*context.get("x509_common_name", ()), *context.get("x509_subject_alternative_name", ())]
    return [name.decode("utf-8", errors="replace") for name in names if name]
