"""Envoy accepts every configuration that can be rendered, by its own check."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.serving.gateway import clients, configuration
from dynamarks_tf.serving.gateway.launcher import find_envoy
from dynamarks_tf.serving.gateway.settings import Settings
from tests.helpers.certificates import Authority

FULL: dict[str, Any] = {
    "upstream": "127.0.0.1:8500",
    "upstream_rest": "localhost:8501",
    "ops_port": 9502,
    "is_logged": True,
    "rate": 50.0,
    "burst": 100.0,
}
CASES: dict[str, dict[str, Any]] = {
    "gRPC only": {"upstream": "model:8500"},
    "REST only, on IPv6": {"upstream_rest": "[::1]:8501", "host": "::1", "ops_port": 1},
    "everything, and tokens": {**FULL, "clients": True, "tls": True, "upstream_ca": True},
    "everything, and certificates": {
        **FULL,
        "client_ca": True,
        "tls": True,
        "client_header": "X-Who",
        "allow_reload": True,
    },
    "one port, a small rate, small bodies": {
        **FULL,
        "rest_port": 9500,
        "rate": 0.001,
        "burst": None,
        "max_body_bytes": 1,
    },
    "a large rate, large bodies": {**FULL, "rate": 1e6, "burst": 4e9, "max_body_bytes": 2**31, "idle_s": 0.25},
}


@pytest.mark.parametrize("case", CASES)
def test_envoy_accepts_it(case: str, tmp_path: Path, authority: Authority) -> None:
    options = dict(CASES[case])
    try:
        envoy = find_envoy()
    except ServingError as error:
        pytest.skip(str(error))
    if options.pop("tls", False):
        options["tls_cert"], options["tls_key"] = authority.issue("server", x509.DNSName("localhost"))
    for name in ("upstream_ca", "client_ca"):
        if options.get(name):
            options[name] = authority.path
    if options.get("clients"):
        options["clients"] = tmp_path / "clients" / clients.PUBLIC
        clients.add(tmp_path / "clients", "alice", days=1)
        clients.revoke(tmp_path / "clients", "alice")
    main = configuration.write(Settings(folder=tmp_path / "run", **options))
    words = [envoy, "--mode", "validate", "--config-path", main, "--log-level", "warning"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "Give the server's gRPC address"),
        *[
            ({"upstream": address}, "is no address; accepted: HOST:PORT")
            for address in ("localhost", ":1", "a:0", "a:b")
        ],
        ({"upstream": "a:1", "max_body_bytes": 0}, "`max_body_bytes` must be at least 1"),
        *[
            ({"upstream": "a:1", "rate": rate}, "`rate` must be above 0")
            for rate in (0, -1, float("nan"), float("inf"))
        ],
        ({"upstream": "a:1", "rate": 1, "burst": 0.5}, "`burst` at least 1"),
        ({"upstream": "a:1", "client_header": "x y"}, "letters, digits and hyphens"),
        ({"upstream": "a:1", "tls_cert": Path("x")}, "go together"),
        ({"upstream": "a:1", "client_ca": Path("x")}, "client certificates need both"),
        ({"upstream": "a:1", "folder": Path("/" + "x" * 99)}, "is too long"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        Settings(**{"folder": Path("run"), **options})


def test_paths_that_envoy_cannot_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="Envoy reads UTF-8"):
        configuration.write(Settings(folder=tmp_path, upstream="a:1", upstream_ca=Path("\udcff")))


def test_no_name_and_no_secret_of_a_client_is_rendered(tmp_path: Path) -> None:
    token = clients.add(tmp_path, "alice", days=1)
    settings = Settings(folder=tmp_path, upstream="a:1", clients=tmp_path / clients.PUBLIC)
    text = configuration.render(dataclasses.replace(settings, is_logged=True))
    assert "alice" not in text
    assert token not in text
