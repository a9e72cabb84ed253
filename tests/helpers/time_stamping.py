"""A time-stamping authority on this machine, made of `openssl ts`."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
_CONFIGURATION = """
[tsa]
default_tsa = t
[t]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/signer.pem
signer_key = {folder}/signer.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256,sha512
ess_cert_id_alg = sha256
"""


class TimeStampingAuthority:
    """An authority of its own root.

    Attributes:
        roots: PEM file with its root certificate.
    """

    def __init__(self, folder: Path, name: str = "Clock & Sons") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.roots = folder / "roots.pem"
        root_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root = _certificate(f"{name} root", f"{name} root", root_key, root_key, is_root=True)
        signer = _certificate(name, f"{name} root", signer_key, root_key, is_root=False)
        self.roots.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        (folder / "signer.pem").write_bytes(signer.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "signer.key").write_bytes(signer_key.private_bytes(*form))
        (folder / "serial").write_text("01\n")
        (folder / "openssl.cnf").write_text(_CONFIGURATION.format(folder=folder))

    def reply(self, request: bytes) -> bytes:
        """The answer to a request."""
        (self.folder / "request.tsq").write_bytes(request)
        files = ["-queryfile", self.folder / "request.tsq", "-out", self.folder / "reply.tsr"]
        command = ["openssl", "ts", "-reply", "-config", self.folder / "openssl.cnf", *files]
        subprocess.run(command, check=True, capture_output=True, timeout=20)
        return (self.folder / "reply.tsr").read_bytes()


def _certificate(subject: str, issuer: str, key: Any, issuer_key: Any, *, is_root: bool) -> x509.Certificate:
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    names = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (issuer, subject))
    builder = (
        x509.CertificateBuilder(*names, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
    )
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


@contextlib.contextmanager
def serving(answer: Callable[[bytes, Any], bytes]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server whose whole answers, status line included, are what `answer` makes of a request's body.

    Yields:
        Its address, and the headers of the requests that it got.
    """
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(dict(self.headers.items()))
            with contextlib.suppress(OSError):
                self.wfile.write(answer(self.rfile.read(int(self.headers["Content-Length"])), self.wfile))

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/tsa", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An answer of a server."""
    lines = [f"HTTP/1.0 {status}", "Content-Type: application/timestamp-reply", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
