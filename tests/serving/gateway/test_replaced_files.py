"""API keys and certificates that are replaced while the proxy runs."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from dynamarks_tf.serving.gateway import Admission, ApiKeys, Proxy, Tls, watched_files
from dynamarks_tf.serving.gateway.watched_files import WatchedFiles
from tests.helpers.certificates import Authority, channel_credentials
from tests.helpers.server_clients import ROWS, digest, grpc_status, over_rest, predict_request, stub
from tests.helpers.waiting import count_calls, eventually

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "EVERY_S", 0.02)


def put(path: Path, content: str) -> None:
    """Replaces a file at once: a file written in place could be read while it is incomplete."""
    other = path.with_suffix(".new")
    other.write_text(content)
    other.replace(path)


def reloads(proxy: Proxy, what: str) -> dict[str, float]:
    """Counts how often changed files were used or refused."""
    text = requests.get(f"{proxy.ops_url}/metrics", timeout=30).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.labels["outcome"]: sample.value
        for sample in samples
        if sample.name == "dynamarks_proxy_reloads_total" and sample.labels["what"] == what
    }


def test_keys_are_replaced_on_connections_that_stay_open(
    make_proxy: Callable[..., Proxy], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clients.keys"
    path.write_text(f"alice:{digest('old')}\n")
    request = predict_request("m", image=np.float32(ROWS))
    proxy = make_proxy(admission=Admission(keys=ApiKeys.load(path)), ops_port=0)
    with proxy, stub(proxy) as service:

        def code(key: str) -> Any:
            return service.Predict.future(request, metadata=[("x-api-key", key)], timeout=10).code()

        assert (code("old"), code("new")) == (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
        put(path, f"alice:{digest('new')}\n")
        eventually(lambda: code("new") is grpc.StatusCode.OK)
        assert code("old") is grpc.StatusCode.UNAUTHENTICATED
        assert over_rest(proxy, headers={"x-api-key": "new"}).status_code == 200

        put(path, "alice:new\n")  # the key itself, in place of its hash
        eventually(lambda: reloads(proxy, "API keys") == {"used": 1, "refused": 1})
        assert code("new") is grpc.StatusCode.OK
        path.unlink()
        eventually(lambda: reloads(proxy, "API keys")["refused"] == 2)
        assert code("new") is grpc.StatusCode.OK
        put(path, f"alice:{digest('old')}\nalice:{digest('new')}\n")
        eventually(lambda: code("old") is grpc.StatusCode.OK)
        assert code("new") is grpc.StatusCode.OK
    said = [record.getMessage() for record in caplog.records if record.name == watched_files.__name__]
    assert [line.split(":")[0] for line in said] == [
        "the API keys changed and were read again",
        "the API keys changed and stay as they were",
        "the API keys changed and stay as they were",
        "the API keys changed and were read again",
    ]
    assert "line 1, is not of the form NAME:SHA256" in said[1]
    assert "alice:new" not in caplog.text


def test_a_certificate_is_replaced_file_by_file(
    make_proxy: Callable[..., Proxy], authority: Authority, tmp_path: Path
) -> None:
    first, second = (authority.issue(name, LOOPBACK) for name in ("first", "second"))
    files = (tmp_path / "tls.crt", tmp_path / "tls.key")
    for source, target in zip(first, files, strict=True):
        put(target, source.read_text())
    request, credentials = predict_request("m", image=np.float32(ROWS)), channel_credentials(authority)
    with make_proxy(tls=Tls(*files), ops_port=0) as proxy:

        def shown() -> list[str]:
            addresses = (("127.0.0.1", proxy.grpc_port), ("127.0.0.1", proxy.rest_port))
            return [ssl.get_server_certificate(address).strip() for address in addresses]

        with stub(proxy, credentials) as service:
            service.Predict(request, timeout=10)
            assert shown() == [first[0].read_text().strip()] * 2
            put(files[0], second[0].read_text())
            eventually(lambda: reloads(proxy, "certificates") == {"used": 0, "refused": 1})
            assert shown() == [first[0].read_text().strip()] * 2  # with its own key: otherwise no client could connect
            assert grpc_status(proxy, request, credentials=credentials)[0] is grpc.StatusCode.OK
            put(files[1], second[1].read_text())
            eventually(lambda: reloads(proxy, "certificates") == {"used": 1, "refused": 1})
            assert shown() == [second[0].read_text().strip()] * 2
            assert over_rest(proxy, verify=str(authority.path)).status_code == 200
            assert grpc_status(proxy, request, credentials=credentials)[0] is grpc.StatusCode.OK
            service.Predict(request, timeout=10)  # on the old connection


def test_files_that_have_not_changed_are_not_read_again(
    make_proxy: Callable[..., Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clients.keys"
    path.write_text(f"alice:{digest('key')}\n")
    keys = ApiKeys.load(path)
    read: list[None] = []
    monkeypatch.setattr(ApiKeys, "reload", lambda self: read.append(None))
    looks = count_calls(monkeypatch, WatchedFiles, "look")
    with make_proxy(admission=Admission(keys=keys), ops_port=0) as proxy:
        eventually(lambda: len(looks) >= 3)
        assert not read
        path.touch()
        eventually(lambda: reloads(proxy, "API keys") == {"used": 1, "refused": 0})
    assert len(read) == 1
