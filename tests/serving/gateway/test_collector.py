"""The collector by itself, where another Envoy sends it copies over TCP."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ServingError
from dynamarks_tf.serving.gateway.collector import METHOD, run
from dynamarks_tf.serving.gateway.messages import StreamAccessLogsMessage
from dynamarks_tf.serving.protocol import ports
from tests.helpers.gateway_log import logged


def copies(**fields: bytes) -> Any:
    """Two entries of an access log: one with a copy, and one of another request."""
    message = StreamAccessLogsMessage()
    common = message.http_logs.log_entry.add().common_properties
    entry = common.metadata.filter_metadata.add(key=b"dynamarks")
    for name, value in fields.items():
        entry.value.fields.add(key=name.encode()).value.string_value = base64.b64encode(value)
    message.http_logs.log_entry.add()
    return message.SerializeToString()


def test_copies_over_tcp_are_logged_and_counted(tmp_path: Path) -> None:
    stop = threading.Event()
    port, metrics_port = (ports.find_free("127.0.0.1", 0, "test") for _ in range(2))
    options: dict[str, Any] = {"upstream_rest": None, "upstream_ca": None, "max_body_bytes": 1000, "stop": stop}
    options |= {"listen": f"127.0.0.1:{port}", "metrics_port": metrics_port}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, tmp_path / "run", tmp_path / "logs", **options)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            path = b"/tensorflow.serving.PredictionService/Predict"
            entries = copies(path=path, client=b"alice", request=b"\0\0\0\0\x03abc", answer=bytes(5))
            call = channel.stream_unary("/" + "/".join(METHOD))
            call(iter([entries]), timeout=30, wait_for_ready=True)
            (copy,) = logged(tmp_path / "logs")
        text = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30).text
        stop.set()
        running.result(30)
    assert (copy.client, copy.request) == ("alice", b"abc")
    assert "dynamarks_proxy_log_written_total 1.0" in text
    assert "dynamarks_proxy_log_dropped_total 1.0" in text


def test_addresses_that_cannot_be_used_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collector", "--folder", str(tmp_path), "--log-dir", str(tmp_path / "logs")]
    assert main([*words, "--listen", "nowhere"]) == 2
    assert "'nowhere' is no address; accepted: HOST:PORT" in capsys.readouterr().err
    port = ports.listen("127.0.0.1", 0, "test")
    given: dict[str, Any] = {"upstream_rest": None, "upstream_ca": None, "max_body_bytes": 1, "stop": threading.Event()}
    with port, pytest.raises(ServingError, match="The collector cannot listen on 127.0.0.1:"):
        run(tmp_path, tmp_path / "logs", listen=f"127.0.0.1:{port.getsockname()[1]}", **given)
