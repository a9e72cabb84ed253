"""`dynamarks serve` with TensorFlow Serving's configuration files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from dynamarks_tf.cli.main import main
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.server_clients import ask, check_health, over_rest

Add = Callable[..., Path]
PORTS = ["--grpc-port", "0", "--rest-port", "0"]


def test_all_options_at_once(
    add_version: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in (1, 2):
        add_version(version)
    (tmp_path / "models.config").write_text(
        f"""model_config_list {{ config {{
          name: "clf" base_path: "{tmp_path}/clf" model_platform: "tensorflow"
          model_version_policy {{ latest {{ num_versions: 2 }} }}
          version_labels {{ key: "stable" value: 1 }}
        }} }}"""
    )
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    seen: dict[str, Any] = {}

    def look(server: LocalServer) -> None:
        seen["answers"] = ask(server), ask(server, "/labels/stable")
        seen["metrics"] = requests.get(server.metrics_url, timeout=30).text
        seen["health"] = check_health(server, "")
        long = over_rest(server, b" " * 2000)
        seen["too long"] = long.status_code
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalServer, "wait", look)
    files = {"model-config": "models", "monitoring-config": "monitoring"}
    words = [word for option, name in files.items() for word in (f"--{option}-file", str(tmp_path / f"{name}.config"))]
    flags = ["--max-request-bytes", "1000", "--enable-grpc-healthcheck-service", "--allow-config-reload"]
    polls = ["--file-system-poll-wait-seconds", "0.5", "--model-config-file-poll-wait-seconds", "5"]
    assert main(["serve", *PORTS, *words, *flags, *polls]) == 0
    assert seen["answers"] == (2, 1)
    assert ':tensorflow:serving:request_count{model_name="clf",status="OK"} 2.0' in seen["metrics"]
    assert (seen["health"], seen["too long"]) == (1, 413)
    out = capsys.readouterr().out
    assert "serving clf version 2" in out
    assert "/monitoring/prometheus/metrics" in out


def test_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.config").write_text("model_config_list { config { } }")
    for words, message in (
        ([], "Give either a model's folder"),
        (["--model-config-file", str(tmp_path / "models.config")], "A model in the config list has no name"),
        ([str(tmp_path), "--monitoring-config-file", str(tmp_path / "none")], "none cannot be read"),
        ([str(tmp_path), "--batching-parameters-file", "x"], "No such option"),
        ([str(tmp_path), "--max-request-bytes", "0"], "0 is not in the range"),
    ):
        assert main(["serve", *PORTS, *words]) == 2
        assert message in capsys.readouterr().err
