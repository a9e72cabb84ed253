"""The key for a suspect's API: where it comes from, where it is sent, and that it is shown nowhere."""

from __future__ import annotations

import base64
import contextlib
import logging
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from werkzeug.wrappers import Request, Response

from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.addresses import Address
from dynamarks_tf.suspects.api_key import VARIABLE, ApiKey
from tests.helpers import ROOT, self_signed
from tests.helpers.grpc_services import GuardedService, grpc_server
from tests.helpers.model_server import ModelServer, respond, serving
from tests.helpers.suspects import shown

KEY = "sk-hunter2-0123456789"
PATHS = ("/v1/models/clf", "/v2/models/clf")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY + "\n")  # as files often end


class Guarded:
    """Requires a key, and repeats the one that it gets."""

    def __init__(self, header: str = "Authorization", value: str = f"Bearer {KEY}") -> None:
        self.header, self.value = header, value

    def __call__(self, request: Request) -> Response | None:
        given = request.headers.get(self.header)
        return None if given == self.value else respond({"error": f"{given} from {dict(request.headers)}"}, 401)


def guarded(guard: Any) -> Any:
    return serving(
        ModelServer(lambda batch: {"probabilities": batch[:, 0, :3, 0]}, {"probabilities": "FP32"}, before=guard)
    )


def chain(error: BaseException) -> str:
    """Everything that an error and those before it hold, whether a traceback would show it or not."""
    texts = traceback.format_exception(error)
    found: BaseException | None = error
    while found is not None:
        texts += [str(found), repr(found), repr(found.args), repr(vars(found))]
        found = found.__cause__ or found.__context__
    return "\n".join(texts)


@contextlib.contextmanager
def raw_server(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answers every connection by the same bytes; keeps what it was sent."""
    received: list[bytes] = []

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            with client:
                received.append(client.recv(65536))
                if received[-1] == b"":
                    return
                client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", received
        finally:
            socket.create_connection(listener.getsockname()).close()
            thread.join()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("header", "guard"),
    [(None, Guarded()), ("X-Api-Key", Guarded("X-Api-Key", KEY)), ("authorization", Guarded(value=KEY))],
)
def test_key_from_the_environment_opens(path: str, header: str | None, guard: Guarded) -> None:
    with guarded(guard) as url:
        suspect = as_suspect(url + path, api_key_header=header)
        assert suspect.predict(np.ones((2, 8, 8, 1))).shape == (2, 3)
        assert KEY not in shown(suspect)
        suspect.close()


@pytest.mark.parametrize("path", PATHS)
def test_without_a_key_the_error_names_its_variable(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    with guarded(Guarded()) as url, pytest.raises(SuspectError, match=f"status 401: .*put it into {VARIABLE}"):
        as_suspect(url + path)


@pytest.mark.parametrize("path", PATHS)
def test_server_that_repeats_the_key_does_not_make_it_public(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with guarded(Guarded("X-Other", "unknown")) as url:
        caplog.clear()
        with pytest.raises(SuspectError, match=r"status 401: .*\*\*\*") as raised:
            as_suspect(url + path, api_key_header="X-Other")
    assert KEY not in chain(raised.value)
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("header", "entry"), [(None, ("authorization", f"Bearer {KEY}")), ("X-Api-Key", ("x-api-key", KEY))]
)
def test_grpc_key_from_the_environment_opens(header: str | None, entry: tuple[str, str]) -> None:
    with grpc_server(GuardedService(entry)) as port:
        suspect = as_suspect(f"grpc://127.0.0.1:{port}/clf", api_key_header=header)
        np.testing.assert_array_equal(suspect.predict(np.ones((1, 2))), [[1.0]])
        assert KEY not in shown(suspect)
        suspect.close()


def test_grpc_server_that_repeats_the_key_does_not_make_it_public() -> None:
    text = r"UNAUTHENTICATED: not .*\*\*\*.*put it into"
    with (
        grpc_server(GuardedService(("x-other", "unknown"))) as port,
        pytest.raises(SuspectError, match=text) as raised,
    ):
        as_suspect(f"grpc://127.0.0.1:{port}/clf")
    assert KEY not in chain(raised.value)


@pytest.mark.parametrize("url", ["http://host/v1/models/clf", "http://host/v2/models/clf", "grpc://host:8500/clf"])
def test_key_is_not_sent_in_the_clear(url: str) -> None:
    with pytest.raises(ArgumentError, match=f"The key in {VARIABLE} would go to host unencrypted. Use ") as raised:
        as_suspect(url)
    assert KEY not in chain(raised.value)


@pytest.mark.parametrize(
    ("header", "key", "text"),
    [
        ("X-Api-Key", "", f"The header X-Api-Key must carry a key; set the variable {VARIABLE}"),
        ("X-Api-Key: secret", KEY, "is not the name of a header"),
        (None, f"{KEY} {KEY}", f"The key in {VARIABLE} holds characters that no header can carry"),
        (None, f"{KEY}\n{KEY}", f"The key in {VARIABLE} holds characters that no header can carry"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    header: str | None, key: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ArgumentError, match=text) as raised:
        as_suspect("http://127.0.0.1:1/v1/models/clf", api_key_header=header)
    assert KEY not in chain(raised.value)


def test_key_is_no_part_of_its_representation() -> None:
    assert KEY not in repr(ApiKey(KEY)) + str(ApiKey(KEY, "X-Api-Key"))


@pytest.mark.parametrize("kind", ["model", "file"])
def test_key_header_is_for_servers_only(kind: str, classifier: Any, keras_file: Path) -> None:
    with pytest.raises(ArgumentError, match=r"`api_key_header` \(--api-key-header\) does not go with "):
        as_suspect(classifier if kind == "model" else keras_file, api_key_header="X-Api-Key")


def test_tls(tmp_path: Path) -> None:
    """Over HTTPS and gRPC with TLS, a certificate is checked; one that the operator trusts lets the key through.

    In a process of its own: gRPC reads its list of authorities once.
    """
    for name in ("good", "bad"):
        self_signed(tmp_path, name)
    done = subprocess.run(
        [sys.executable, "-c", TLS_SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "as it should be" in done.stdout


TLS_SCRIPT = f"""
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
os.environ.update({VARIABLE}={KEY!r}, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(folder / "good.pem"))
from concurrent import futures
import grpc
import numpy as np
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tests.helpers.grpc_services import GuardedService
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects import as_suspect

def ask(name):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service = GuardedService(("authorization", "Bearer {KEY}"))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    pair = ((folder / f"{{name}}.key").read_bytes(), (folder / f"{{name}}.pem").read_bytes())
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        suspect = as_suspect(f"grpcs://localhost:{{port}}/clf", timeout_s=10)
        assert suspect.description == f"grpcs://localhost:{{port}}/clf"
        return suspect.predict(np.ones((1, 2)))
    finally:
        server.stop(0).wait()

assert ask("good").tolist() == [[1.0]]
try:
    ask("bad")
except SuspectError as error:
    assert "cannot be reached" in str(error), error
    print("as it should be")
"""


OK = b"HTTP/1.1 200 OK\r\n"
SHORT = b"Content-Length: 4\r\n\r\n{}{}"
ECHOES = {
    "protocol": b"%b 200 OK\r\n\r\n",
    "status": b"HTTP/1.1 %b OK\r\n\r\n",
    "reason": b"HTTP/1.1 500 %b\r\n" + SHORT,
    "header": OK + b"X-Echo: %b\r\n" + SHORT,
    "broken header": OK + b"%b\r\n" + SHORT,
    "length": OK + b"Content-Length: %b\r\n\r\n{}",
    "chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n%b\r\n{}",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://%b/\r\nContent-Length: 0\r\n\r\n",
    "encoding": OK + b"Content-Encoding: %b\r\nTransfer-Encoding: %b\r\n" + SHORT,
    "body": b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 290 + b"%b",  # a cut must not leave its beginning
    "member": OK + b'\r\n{"metadata": {"signature_def": {"signature_def": {"%b": 1}}}}',
}
BASIC = base64.b64encode(f"user:{KEY}".encode())


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("form", [KEY.encode(), BASIC], ids=["plain", "base64"])
def test_the_key_is_in_no_error_cause_or_log_wherever_a_server_repeats_it(
    echo: str, form: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with raw_server(ECHOES[echo].replace(b"%b", form)) as (url, received), pytest.raises(SuspectError) as raised:
        as_suspect(url + PATHS[0], timeout_s=5.0)
    assert KEY.encode() in received[0]  # it was sent, where it belongs
    told = chain(raised.value) + caplog.text
    for secret in (KEY, KEY.lower()[:12], BASIC.decode()[8:24]):
        assert secret not in told


def test_credentials_that_nobody_gave_are_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE)
    (tmp_path / ".netrc").write_text("default login alice password hunter22\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setattr(Address, "is_loopback", property(lambda _: False))  # requests reads the environment for others
    with raw_server(OK + SHORT) as (url, received), pytest.raises(SuspectError):
        as_suspect(url + PATHS[0])
    assert received[0].startswith(b"GET ")
    assert b"authorization" not in received[0].lower()


def test_a_key_is_neither_pickled_nor_part_of_an_address() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(ApiKey(KEY))
    with pytest.raises(ArgumentError, match=f"holds the key in {VARIABLE}") as raised:
        as_suspect(f"http://127.0.0.1:1/{KEY}/v1/models/clf")
    assert KEY not in chain(raised.value)
