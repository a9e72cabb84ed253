"""Who a client is: tokens, certificates, or a header that something in front sets."""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.serving.gateway import clients
from dynamarks_tf.serving.gateway.launcher import Gateway
from tests.helpers.certificates import Authority, channel_credentials
from tests.helpers.fake_model import PREDICT, TARGET, FakeModel
from tests.helpers.gateway_log import logged, read_log
from tests.helpers.waiting import eventually
from tests.serving.gateway.conftest import Start

BODY = {"instances": [[1.0, 2.0]]}
LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def post(gateway: Gateway, headers: dict[str, str] | None = None, **options: Any) -> requests.Response:
    return requests.post(gateway.rest_url + TARGET, json=BODY, headers=headers, timeout=30, **options)


def call(
    gateway: Gateway, *metadata: tuple[str, str], credentials: grpc.ChannelCredentials | None = None
) -> grpc.StatusCode:
    address = gateway.grpc_address
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        try:
            channel.unary_unary(PREDICT)(b"abc", metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients") / "clients"


@pytest.fixture(scope="module")
def alice(folder: Path) -> str:
    return clients.add(folder, "alice@acme", days=1)


@pytest.fixture(scope="module")
def guarded(start_shared: Start, folder: Path, alice: str, log_dir: Path) -> Gateway:
    """A gateway that admits clients with tokens only."""
    return start_shared(clients=folder / clients.PUBLIC, log_dir=log_dir)


def forged(folder: Path, key: Any = None, algorithm: str = "EdDSA", **changed: Any) -> str:
    """A token like those of the folder, with another key or other claims."""
    public = json.loads((folder / clients.PUBLIC / clients.JWKS).read_text())["keys"][0]
    claims = {"iss": "dynamarks", "aud": "predictions", "sub": "alice@acme", "jti": "1", "exp": time.time() + 999}
    headers = {"kid": public.get("kid")} if public.get("kid") else None
    return jwt.encode({**claims, **changed}, key, algorithm=algorithm, headers=headers)


def test_clients_with_a_token_are_answered_and_the_log_has_their_names(
    guarded: Gateway, alice: str, folder: Path, model: FakeModel, log_dir: Path
) -> None:
    before, eve = len(read_log(log_dir)), {"x-client-id": "eve"}
    assert post(guarded, {"Authorization": f"Bearer {alice}", **eve}).status_code == 200
    assert post(guarded, {"x-api-key": alice, **eve}).status_code == 200
    assert call(guarded, ("authorization", f"Bearer {alice}"), ("x-client-id", "eve")) is grpc.StatusCode.OK
    assert call(guarded, ("x-api-key", alice), ("x-client-id", "eve")) is grpc.StatusCode.OK
    eventually(lambda: len(read_log(log_dir)) >= before + 4)
    assert [copy.client for copy in read_log(log_dir)[before:]] == 4 * ["alice@acme"]
    seen = [{name.lower() for name in headers} for _, headers, _ in [*model.posts, *model.calls]]
    assert not any({"authorization", "x-api-key", "x-client-id"} & names for names in seen)
    written = b"".join(path.read_bytes() for path in log_dir.iterdir())
    assert alice.encode() not in written


def test_all_others_are_refused_and_do_not_reach_the_server(guarded: Gateway, folder: Path, model: FakeModel) -> None:
    own = Ed25519PrivateKey.generate()
    signing = (folder / clients.KEY).read_bytes()
    public = json.loads((folder / clients.PUBLIC / clients.JWKS).read_text())["keys"][0]["x"]
    tokens = {
        "": "none",
        "guess": "no token",
        clients.add(folder.parent / "other", "alice@acme", days=1): "of another folder",
        forged(folder, own): "signed by another key",
        forged(folder, "", "none"): "not signed",
        forged(folder, public, "HS256"): "signed with the public key",
        forged(folder, signing, exp=time.time() - 99): "ended",
        forged(folder, signing, aud="other"): "for another purpose",
        forged(folder, signing, iss="other"): "of another issuer",
    }
    for token, why in tokens.items():
        headers = {"Authorization": f"Bearer {token}", "x-client-id": "alice@acme"} if token else {}
        answer = post(guarded, headers)
        assert answer.status_code in (401, 403), why
        assert "error" in answer.json(), why
        assert call(guarded, *((name.lower(), value) for name, value in headers.items())) in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        ), why
    assert requests.get(f"{guarded.rest_url}/v1/models/m", timeout=30).status_code == 401  # for other requests too
    assert not model.posts
    assert not model.calls


def test_a_token_without_an_end_is_refused(guarded: Gateway, folder: Path) -> None:
    claims = {"iss": "dynamarks", "aud": "predictions", "sub": "alice@acme", "jti": "1"}
    endless = jwt.encode(claims, (folder / clients.KEY).read_bytes(), algorithm="EdDSA")
    assert post(guarded, {"Authorization": f"Bearer {endless}"}).status_code == 401


def test_a_revoked_token_is_refused_on_open_connections_within_seconds(
    guarded: Gateway, alice: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["client", "add", "bob", "--folder", str(folder)]) == 0
    bob = capsys.readouterr().out.strip()
    second = clients.add(folder, "bob", days=1)
    with grpc.insecure_channel(guarded.grpc_address) as channel, requests.Session() as session:

        def codes(token: str) -> tuple[Any, int]:
            pending = channel.unary_unary(PREDICT).future(b"abc", metadata=[("x-api-key", token)], timeout=30)
            answer = session.post(guarded.rest_url + TARGET, json=BODY, headers={"x-api-key": token}, timeout=30)
            return pending.code(), answer.status_code

        assert codes(bob) == codes(second) == codes(alice) == (grpc.StatusCode.OK, 200)
        (number,) = [token.number for token in clients.load(folder) if token.name == "bob"][:1]
        assert main(["client", "revoke", "bob", "--token", number, "--folder", str(folder)]) == 0
        began = time.monotonic()
        eventually(lambda: codes(bob) == (grpc.StatusCode.PERMISSION_DENIED, 403))
        assert time.monotonic() - began < 5
        assert codes(second) == codes(alice) == (grpc.StatusCode.OK, 200)
        assert clients.revoke(folder, "bob") == 1
        eventually(lambda: codes(second) == (grpc.StatusCode.PERMISSION_DENIED, 403))
        assert codes(alice) == (grpc.StatusCode.OK, 200)
    capsys.readouterr()
    assert main(["client", "list", "--folder", str(folder)]) == 0
    states = [line.split()[2:] for line in capsys.readouterr().out.splitlines() if "bob" in line]
    assert states == 2 * [["revoked", "bob"]]


def test_what_a_folder_of_clients_refuses(tmp_path: Path) -> None:
    for name in ("", "a b", "eve\n", "-x", "ü", "a" * 300):
        with pytest.raises(ArgumentError, match="A client's name is made of"):
            clients.add(tmp_path, name, days=1)
    for days in (0, -1, 10**6, float("nan")):
        with pytest.raises(ArgumentError, match="valid for up to 3650 days"):
            clients.add(tmp_path, "alice", days=days)
    with pytest.raises(
        ArgumentError, match="has no jwks.json and no revoked.json. Make a client, dynamarks client add"
    ):
        clients.check(tmp_path)
    clients.add(tmp_path, "alice", days=1)
    with pytest.raises(ArgumentError, match="has no token of a client 'bob'"):
        clients.revoke(tmp_path, "bob")
    assert (tmp_path / clients.KEY).stat().st_mode & 0o777 == 0o600
    (tmp_path / clients.KEY).rename(tmp_path / "elsewhere")
    with pytest.raises(ArgumentError, match="has no signing.key, so no token can be made here"):
        clients.add(tmp_path, "bob", days=1)
    listed = tmp_path / clients.CLIENTS
    written = listed.read_text()
    for content, message in (
        ("[]", "is not a list of clients"),
        (written.replace('"version": 1', '"version": 2'), "a list of clients.* of version 2"),
        (written.replace('"ends": ', '"ends": "x", "more": '), "its entry tokens\\[0\\].ends"),
        (written.replace('"ends"', '"name": "bob", "ends"'), "holds the member 'name' twice"),
    ):
        listed.write_text(content)
        with pytest.raises(ArgumentError, match=message):
            clients.revoke(tmp_path, "alice")


def test_a_key_or_list_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    """Who plants the key that signs tokens decides which client a log names."""
    clients.add(tmp_path, "alice", days=1)
    for name in (clients.KEY, clients.CLIENTS):
        (tmp_path / name).chmod(0o666)
        with pytest.raises(ArgumentError, match="can be changed by others"):
            clients.add(tmp_path, "bob", days=1)
        (tmp_path / name).chmod(0o600)
    (tmp_path / clients.KEY).rename(tmp_path / "planted")
    (tmp_path / clients.KEY).symlink_to("planted")
    with pytest.raises(ArgumentError, match="link"):
        clients.add(tmp_path, "bob", days=1)


def test_api_keys_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proxy", "--upstream", "a:1", "--api-keys", "clients.keys"]) == 2
    assert "dynamarks client add NAME" in capsys.readouterr().err


@pytest.mark.parametrize("forward", [False, True])
def test_tokens_are_passed_on_only_with_forward_credentials(
    forward: bool, start: Start, folder: Path, alice: str, model: FakeModel
) -> None:
    gateway = start(clients=folder / clients.PUBLIC, forward_credentials=forward)
    assert post(gateway, {"x-api-key": alice, "Authorization": "Basic abc"}).status_code == 200
    names = {name.lower() for name in model.posts[0][1]}
    assert ({"x-api-key", "authorization"} <= names) is forward
    assert "x-client-id" not in names


# Certificates


def test_clients_are_named_by_their_certificates_and_the_gateways_own_is_replaced_file_by_file(
    start: Start, authority: Authority, tmp_path: Path, model: FakeModel
) -> None:
    first, second = (authority.issue(name, LOOPBACK) for name in ("first", "second"))
    files = (tmp_path / "tls.crt", tmp_path / "tls.key")
    for source, target in zip(first, files, strict=True):
        target.write_text(source.read_text())
    gateway = start(tls_cert=files[0], tls_key=files[1], client_ca=authority.path, log_dir=tmp_path / "logs")
    assert gateway.rest_url.startswith("https://")
    people = {
        "alice.example,other": authority.issue("alice", x509.DNSName("alice.example"), x509.DNSName("other")),
        "spiffe://acme/bob": authority.issue("bob", x509.UniformResourceIdentifier("spiffe://acme/bob")),
        "CN=carol": authority.issue("carol"),
    }
    for pair in people.values():
        credentials = channel_credentials(authority, pair)
        assert call(gateway, ("x-client-id", "eve"), credentials=credentials) is grpc.StatusCode.OK
        options = {"verify": str(authority.path), "cert": tuple(map(str, pair))}
        assert post(gateway, {"x-client-id": "eve"}, **options).status_code == 200
    assert not any("x-client-id" in {name.lower() for name in seen} for _, seen, _ in [*model.calls, *model.posts])
    assert [copy.client for copy in logged(tmp_path / "logs", 6)] == [name for name in people for _ in range(2)]
    for wrong in (None, Authority(tmp_path, "forger").issue("alice")):
        assert call(gateway, credentials=channel_credentials(authority, wrong)) is grpc.StatusCode.UNAVAILABLE
        with pytest.raises((requests.exceptions.SSLError, requests.exceptions.ConnectionError)):
            post(gateway, verify=str(authority.path), cert=tuple(map(str, wrong)) if wrong else None)

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", gateway.settings.grpc_port)).strip()

    assert shown() == first[0].read_text().strip()
    files[0].write_text(second[0].read_text())  # in place, and without its key
    time.sleep(1)
    assert shown() == first[0].read_text().strip()
    files[1].write_text(second[1].read_text())
    eventually(lambda: shown() == second[0].read_text().strip())
    assert call(gateway, credentials=channel_credentials(authority, people["CN=carol"])) is grpc.StatusCode.OK


def test_tls_without_client_certificates_and_to_the_server(start: Start, authority: Authority, tmp_path: Path) -> None:
    """One gateway before another: the first speaks TLS to the second."""
    pair = authority.issue("server", LOOPBACK)
    inner = start(tls_cert=pair[0], tls_key=pair[1])
    assert call(inner, credentials=channel_credentials(authority)) is grpc.StatusCode.OK
    assert post(inner, verify=str(authority.path)).status_code == 200
    with pytest.raises(requests.exceptions.SSLError):
        post(inner)  # the client does not know the authority
    rest = inner.rest_url.removeprefix("https://")
    outer = start(
        upstream=inner.grpc_address, upstream_rest=rest, upstream_ca=authority.path, log_dir=tmp_path / "logs"
    )
    assert (call(outer), post(outer).status_code) == (grpc.StatusCode.OK, 200)
    assert [copy.version for copy in logged(tmp_path / "logs", 2)] == [0, 7]
    other = Authority(tmp_path, "other")
    distrusting = start(upstream=inner.grpc_address, upstream_rest=rest, upstream_ca=other.path)
    assert (call(distrusting), post(distrusting).status_code) == (grpc.StatusCode.UNAVAILABLE, 503)


def test_a_header_names_clients_where_nothing_else_does(start: Start, tmp_path: Path, model: FakeModel) -> None:
    gateway = start(client_header="X-Customer", log_dir=tmp_path)
    assert post(gateway, {"x-customer": "carol", "x-client-id": "eve"}).status_code == 200
    assert call(gateway) is grpc.StatusCode.OK
    assert [copy.client for copy in logged(tmp_path, 2)] == ["carol", ""]
    assert model.posts[0][1]["x-customer"] == "carol"
