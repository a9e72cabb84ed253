"""TLS towards clients, with or without client certificates, the same for gRPC and REST."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynamarks_tf.errors import ArgumentError


class Tls:
    """The proxy's certificate, and the authority whose clients it accepts.

    Args:
        certificate: PEM file with the proxy's certificate and its chain to the authority.
        private_key: PEM file with the private key of the certificate, without a password.
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
        self.checks_clients = client_authority is not None
        self.files = (Path(certificate), Path(private_key))
        self._context, self._grpc_context = _context(), _context()
        self._grpc_context.set_alpn_protocols(["h2"])
        self.reload()
        if client_authority is not None:
            for context in self._contexts:
                with _explained(client_authority):
                    context.load_verify_locations(client_authority)
                context.verify_mode = ssl.CERT_REQUIRED

    def reload(self) -> None:
        """Reads certificate and private key again, for connections from now on. The authority stays.

        Raises:
            ArgumentError: a file cannot be read, or does not fit the other; nothing changes then.
        """
        with _explained(*self.files):
            # First into a new context: with a key that does not fit, half of the new pair would be in use.
            for context in (_context(), *self._contexts):
                context.load_cert_chain(*self.files, password="")

    @property
    def _contexts(self) -> tuple[ssl.SSLContext, ...]:
        return self._context, self._grpc_context

    @property
    def context(self) -> ssl.SSLContext:
        """For HTTP/1.1."""
        return self._context

    @property
    def grpc_context(self) -> ssl.SSLContext:
        """For gRPC, whose clients need HTTP/2."""
        return self._grpc_context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextlib.contextmanager
def _explained(*files: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the files and the requirements to the message of an error."""
    try:
        yield
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(map(str, files))
        raise ArgumentError(
            f"TLS cannot be set up with {names}: {error}. Needed are PEM files: the certificate, the private key for "
            "it without a password, and the authority of the clients if they must show certificates."
        ) from error


def names_of(certificate: Mapping[str, Any] | None) -> list[str]:
    """Returns the names in the result of `SSLSocket.getpeercert`: the common name, then the alternative ones."""
    if not certificate:
        return []
    common = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return [name for name in (*common, *(value for _, value in certificate.get("subjectAltName", ()))) if name]
