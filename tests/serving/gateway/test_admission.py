"""Admission of clients: API keys, certificates, rates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from cryptography import x509

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.serving.gateway import Admission, ApiKeys, Proxy, RateLimiter, Tls, rate_limit
from tests.helpers.certificates import Authority, channel_credentials
from tests.helpers.logs import read_predictions
from tests.helpers.server_clients import ROWS, digest, grpc_status, over_rest, predict_request

SECRET = "alice-s-secret-key"
OLD_SECRET = "alice-s-old-secret-key"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.keys"
    lines = ["# dynamarks client keys, format 1", "", f"alice:{digest(SECRET)}", f"bob@acme:{digest('b')}"]
    path.write_text("\n".join([*lines, f" alice:{digest(OLD_SECRET).upper()} "]))
    return path


def test_a_key_names_its_client(key_file: Path) -> None:
    keys = ApiKeys.load(key_file)
    owners = [keys.owner(key) for key in (SECRET, OLD_SECRET, "b", "", SECRET + " ", digest(SECRET), "ü\udc80")]
    assert owners == ["alice", "alice", "bob@acme", None, None, None, None]


@pytest.mark.parametrize(
    "line", [SECRET, f"alice:{SECRET}", f"alice {digest(SECRET)}", f":{digest(SECRET)}", f"a:b:{digest(SECRET)}"]
)
def test_a_malformed_line_is_refused_and_not_shown(key_file: Path, line: str) -> None:
    key_file.write_text(f"\n{line}\n")
    with pytest.raises(ArgumentError, match="line 2, is not of the form NAME:SHA256") as caught:
        ApiKeys.load(key_file)
    assert SECRET not in str(caught.value)
    assert digest(SECRET) not in str(caught.value)


def test_a_key_file_without_keys_is_refused(key_file: Path, tmp_path: Path) -> None:
    key_file.write_text("# nothing\n")
    with pytest.raises(ArgumentError, match="holds no key, so it admits no client"):
        ApiKeys.load(key_file)
    with pytest.raises(ArgumentError, match="cannot be read"):
        ApiKeys.load(tmp_path / "missing")


def test_only_clients_with_a_key_are_answered_and_the_log_has_their_names(
    make_proxy: Callable[..., Proxy], key_file: Path, tmp_path: Path
) -> None:
    request = predict_request("m", image=np.float32(ROWS))
    spoofed = {"x-client-id": "bob@acme"}
    with make_proxy(admission=Admission(keys=ApiKeys.load(key_file)), request_log=tmp_path / "logs") as proxy:
        for wrong in ({}, {"x-api-key": "guess"}, {"Authorization": f"Basic {SECRET}"}, {"x-api-key": digest(SECRET)}):
            answer = over_rest(proxy, headers={**wrong, **spoofed})
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert answer.json() == {
                "error": "A valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY."
            }
            metadata = [(name.lower(), value) for name, value in wrong.items()]
            code, _ = grpc_status(proxy, request, *metadata, ("x-client-id", "bob@acme"))
            assert code is grpc.StatusCode.UNAUTHENTICATED
        assert over_rest(proxy, headers={"Authorization": f"bearer {SECRET}", **spoofed}).status_code == 200
        assert over_rest(proxy, headers={"X-API-Key": OLD_SECRET}).status_code == 200
        assert grpc_status(proxy, request, ("authorization", f"Bearer {SECRET}"))[0] is grpc.StatusCode.OK
        assert grpc_status(proxy, request, ("x-api-key", "b"))[0] is grpc.StatusCode.OK
        refused = requests.get(f"{proxy.rest_url}/v1/models/m", timeout=30)
        assert refused.status_code == 401  # for other requests too
    found = [entry.client for entry in read_predictions(tmp_path / "logs")]
    assert found == ["alice", "alice", "alice", "bob@acme"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "logs").iterdir())
    assert not [secret for secret in (SECRET, OLD_SECRET, "bearer") if secret.encode() in written]


@pytest.mark.parametrize("forward", [False, True])
def test_keys_are_passed_on_only_with_forward_credentials(key_file: Path, forward: bool) -> None:
    admission = Admission(keys=ApiKeys.load(key_file), forward_credentials=forward)
    assert [admission.passed_on(name) for name in ("Authorization", "x-api-key", "X-Trace")] == [forward, forward, True]
    assert not admission.passed_on("X-Client-ID")  # the upstream server must not trust a name that a client chose
    assert Admission().passed_on("x-client-id")
    assert Admission().passed_on("Authorization")  # the upstream server may check keys if the proxy does not


def test_keys_and_certificates_exclude_each_other(key_file: Path) -> None:
    with pytest.raises(ArgumentError, match="Give one of `keys` and `certificates`"):
        Admission(keys=ApiKeys.load(key_file), certificates=True)
    with pytest.raises(ArgumentError, match="`tls` that has a `client_authority`"):
        Proxy("localhost:1", admission=Admission(certificates=True))
    with pytest.raises(ArgumentError, match="carries secrets"):
        Admission(client_header="Authorization")


def test_tls_without_client_certificates(
    make_proxy: Callable[..., Proxy], authority: Authority, server_certificate: tuple[Path, Path]
) -> None:
    with make_proxy(tls=Tls(*server_certificate)) as proxy:
        assert proxy.rest_url.startswith("https://")
        assert over_rest(proxy, verify=str(authority.path)).status_code == 200
        request = predict_request("m", image=np.float32(ROWS))
        assert grpc_status(proxy, request, credentials=channel_credentials(authority))[0] is grpc.StatusCode.OK
        with pytest.raises(requests.exceptions.SSLError):
            over_rest(proxy)  # the client does not know the authority
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(proxy.rest_url.replace("https", "http"), timeout=30)


def test_clients_are_named_by_their_certificates(
    make_proxy: Callable[..., Proxy],
    authority: Authority,
    server_certificate: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    alice = authority.issue("alice", x509.DNSName("other"))
    nameless = authority.issue(None, x509.UniformResourceIdentifier("spiffe://acme/bob"))
    forged = Authority(tmp_path, "forger").issue("alice")
    request = predict_request("m", image=np.float32(ROWS))
    options: dict[str, Any] = {
        "admission": Admission(certificates=True),
        "tls": Tls(*server_certificate, client_authority=authority.path),
    }
    with make_proxy(request_log=tmp_path / "logs", **options) as proxy:
        for client in (alice, nameless):
            answer = over_rest(
                proxy, headers={"x-client-id": "eve"}, verify=str(authority.path), cert=tuple(map(str, client))
            )
            assert answer.status_code == 200
            credentials = channel_credentials(authority, client)
            assert grpc_status(proxy, request, credentials=credentials)[0] is grpc.StatusCode.OK
        for refused in (None, forged):
            with pytest.raises((requests.exceptions.SSLError, requests.exceptions.ConnectionError)):
                over_rest(proxy, verify=str(authority.path), cert=tuple(map(str, refused)) if refused else None)
            credentials = channel_credentials(authority, refused)
            assert grpc_status(proxy, request, credentials=credentials)[0] is grpc.StatusCode.UNAVAILABLE
    found = [entry.client for entry in read_predictions(tmp_path / "logs")]
    assert found == ["alice", "alice", "spiffe://acme/bob", "spiffe://acme/bob"]


def test_tls_files_that_do_not_fit_are_refused(
    authority: Authority, server_certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    certificate, key = server_certificate
    other_key = authority.issue("other")[1]
    for files in ((certificate, other_key), (tmp_path / "missing", key), (key, certificate), (certificate, key, key)):
        with pytest.raises(ArgumentError, match="TLS cannot be set up with .* Needed are PEM files"):
            Tls(*files)


def test_a_bucket_holds_a_burst_and_fills_at_its_rate() -> None:
    now = [100.0]
    limiter = RateLimiter(2.0, 3, clock=lambda: now[0])
    assert [limiter.take("a") for _ in range(3)] == [0, 0, 0]
    assert limiter.take("a") == pytest.approx(0.5)
    assert limiter.take("b") == 0  # each client has a bucket of its own
    now[0] += 0.4
    assert limiter.take("a") == pytest.approx(0.1)  # a refused request costs nothing
    now[0] += 0.1
    assert limiter.take("a") == 0
    now[0] += 1000
    assert [limiter.take("a") > 0 for _ in range(4)] == [False, False, False, True]  # at most the burst is saved


def test_the_number_of_remembered_clients_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_CLIENTS", 3)
    limiter = RateLimiter(0.001, 1, clock=lambda: 0.0)
    assert [limiter.take(name) for name in "abcd"] == [0, 0, 0, 0]
    assert [limiter.take(name) > 0 for name in "dcb"] == [True, True, True]
    assert limiter.take("a") == 0  # the first one was forgotten


def test_a_slow_rate_still_lets_one_request_through() -> None:
    limiter = RateLimiter(0.01, clock=lambda: 0.0)
    assert limiter.take("a") == 0
    assert limiter.take("a") == pytest.approx(100)


@pytest.mark.parametrize(("rate", "burst"), [(0, None), (-1, 5), (1, 0.5), (float("nan"), None)])
def test_invalid_rates_are_refused(rate: float, burst: float | None) -> None:
    with pytest.raises(ArgumentError, match="`rate` must be above 0 and `burst` at least 1"):
        RateLimiter(rate, burst)


def test_clients_above_their_rate_are_told_when_to_try_again(make_proxy: Callable[..., Proxy]) -> None:
    with make_proxy(admission=Admission(limiter=RateLimiter(0.01, 2))) as proxy:
        alice, bob = {"x-client-id": "alice"}, ("x-client-id", "bob")
        assert [over_rest(proxy, headers=alice).status_code for _ in range(3)] == [200, 200, 429]
        refused = over_rest(proxy, headers=alice)
        assert 90 <= int(refused.headers["Retry-After"]) <= 100
        assert refused.json()["error"].startswith("Too many requests. Try again in ")
        request = predict_request("m", image=np.float32(ROWS))
        codes = [grpc_status(proxy, request, bob)[0] for _ in range(3)]
        assert codes == [grpc.StatusCode.OK, grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert [over_rest(proxy).status_code for _ in range(3)] == [200, 200, 429]  # without a name, by address
