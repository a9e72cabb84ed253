"""API keys and certificates that are exchanged while the proxy runs."""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import prediction_service_pb2_grpc

from dynamarks_tf.serving.gateway import Admission, ApiKeys, Proxy, Tls, watched_files
from tests.helpers.asking import ROWS, digest, over_grpc, over_rest
from tests.helpers.certificates import Authority, channel_credentials
from tests.helpers.waiting import eventually

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "EVERY_S", 0.02)


def put(path: Path, content: str) -> None:
    """Replaces a file at once: written in place, it might be looked at while half of it is there."""
    other = path.with_suffix(".new")
    other.write_text(content)
    other.replace(path)


def reloads(proxy: Proxy, what: str) -> dict[str, float]:
    """How often changed files were used or refused."""
    text = requests.get(f"{proxy.ops_url}/metrics", timeout=30).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.labels["outcome"]: sample.value
        for sample in samples
        if sample.name == "dynamarks_proxy_reloads_total" and sample.labels["what"] == what
    }


def test_keys_are_exchanged_on_connections_that_stay_open(
    make_proxy: Callable[..., Proxy], ask: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clients.keys"
    path.write_text(f"alice:{digest('old')}\n")
    request = ask(image=np.float32(ROWS))
    proxy = make_proxy(admission=Admission(keys=ApiKeys.load(path)), ops_port=0)
    with proxy, grpc.insecure_channel(proxy.grpc_address) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict

        def code(key: str) -> Any:
            call = predict.future(request, metadata=[("x-api-key", key)], timeout=10)
            return call.code()

        assert (code("old"), code("new")) == (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
        put(path, f"alice:{digest('new')}\n")
        eventually(lambda: code("new") is grpc.StatusCode.OK)
        assert code("old") is grpc.StatusCode.UNAUTHENTICATED
        assert over_rest(proxy, {"x-api-key": "new"}).status_code == 200

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


def test_a_certificate_is_exchanged_file_by_file(
    make_proxy: Callable[..., Proxy], ask: Any, authority: Authority, tmp_path: Path
) -> None:
    first, second = (authority.issue(name, LOOPBACK) for name in ("first", "second"))
    files = (tmp_path / "tls.crt", tmp_path / "tls.key")
    for source, target in zip(first, files, strict=True):
        put(target, source.read_text())
    request, credentials = ask(image=np.float32(ROWS)), channel_credentials(authority)
    with make_proxy(tls=Tls(*files), ops_port=0) as proxy:

        def shown() -> list[str]:
            addresses = (("127.0.0.1", proxy.grpc_port), ("127.0.0.1", proxy.rest_port))
            return [ssl.get_server_certificate(address).strip() for address in addresses]

        with grpc.secure_channel(proxy.grpc_address, credentials) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            predict(request, timeout=10)
            assert shown() == [first[0].read_text().strip()] * 2
            put(files[0], second[0].read_text())
            eventually(lambda: reloads(proxy, "certificates") == {"used": 0, "refused": 1})
            assert shown() == [first[0].read_text().strip()] * 2  # and its own key: else nobody could connect
            assert over_grpc(proxy, request, credentials=credentials) is grpc.StatusCode.OK
            put(files[1], second[1].read_text())
            eventually(lambda: reloads(proxy, "certificates") == {"used": 1, "refused": 1})
            assert shown() == [second[0].read_text().strip()] * 2
            assert over_rest(proxy, verify=str(authority.path)).status_code == 200
            assert over_grpc(proxy, request, credentials=credentials) is grpc.StatusCode.OK
            predict(request, timeout=10)  # on the old connection


def test_what_has_not_changed_is_left_alone(
    make_proxy: Callable[..., Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clients.keys"
    path.write_text(f"alice:{digest('key')}\n")
    keys = ApiKeys.load(path)
    read: list[None] = []
    monkeypatch.setattr(ApiKeys, "reload", lambda self: read.append(None))
    with make_proxy(admission=Admission(keys=keys), ops_port=0) as proxy:
        time.sleep(0.2)
        assert not read
        path.touch()
        eventually(lambda: reloads(proxy, "API keys") == {"used": 1, "refused": 0})
    assert len(read) == 1
