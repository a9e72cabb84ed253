"""The arguments that `as_suspect` takes and refuses, and that it never shows a password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf.errors import ArgumentError, DynaMarksError, SuspectError
from dynamarks_tf.suspects import addresses, as_suspect
from dynamarks_tf.suspects.keras_model import KerasSuspect

LIST = r"accepted: a Keras model, a function .*, a path \(.keras, .*\), or a URL \(grpc://host:port/name.*http://"


@pytest.mark.parametrize("thing", [None, 3, np.ones((2, 3)), b"model.keras", KerasSuspect, int, ["model.keras"]])
def test_other_things_are_refused_with_the_list_of_what_is_accepted(thing: Any) -> None:
    with pytest.raises(ArgumentError, match=r"(A \w+|The class \w+) is not a suspect; " + LIST):
        as_suspect(thing)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(SuspectError, match="There is no file or folder .*clf.keras; " + LIST):
        as_suspect(tmp_path / "clf.keras")


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "clf.pt").write_bytes(b"")
    with pytest.raises(ArgumentError, match="clf.pt is not a suspect; " + LIST):
        as_suspect(tmp_path / "clf.pt")


@pytest.mark.parametrize("url", ["ftp://host:21/clf", "grpcx://host:8500/clf", "://", "file:///tmp/clf"])
def test_other_schemes(url: str) -> None:
    with pytest.raises(ArgumentError, match=f"'{url}' is not a suspect; " + LIST):
        as_suspect(url)


GRPC_FORM = r"accepted: grpc://host:port/name or grpc://host:port/name/versions/N"
REST_FORM = r"accepted: http://host:port/v1/models/name or "


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("grpc://host/clf", GRPC_FORM),
        ("grpc://host:port/clf", GRPC_FORM),
        ("grpc://host:99999/clf", GRPC_FORM),
        ("grpc://host:8500", GRPC_FORM),
        ("grpc://:8500/clf", GRPC_FORM),
        ("grpc://host:8500/clf/versions/new", GRPC_FORM),
        ("grpc://host:8500/v1/models/clf", GRPC_FORM),
        ("grpc://[::1/clf", GRPC_FORM),
        ("http://host:8501", REST_FORM),
        ("http://host:8501/clf", REST_FORM),
        ("http://host:8501/v1/models/clf:predict", REST_FORM),
        ("http://host:8501/v1/models/clf?x=1", REST_FORM),
        ("https://host/v1/models/clf#top", REST_FORM),
        ("http://host:8501/v1/models/clf/versions/", REST_FORM),
    ],
)
def test_malformed_addresses(url: str, form: str) -> None:
    with pytest.raises(ArgumentError, match="is not the address of a model; " + form):
        as_suspect(url)


@pytest.mark.parametrize(
    "text",
    [
        "grpc://eve:hunter2@host:8500/clf",
        "http://eve:hunter2@host:8501/v1/models/clf",
        "https://hunter2@host/v1/models/clf",
        "http://eve:hunter2@host:port/v1/models/clf",
        "http://eve:hunter2@host:8501/clf",
        "ftp://eve:hunter2@host/clf",
        "eve:hunter2@host:8500",
        "grpc:/eve:hunter2@host:8500/clf",
    ],
)
def test_password_is_refused_and_never_shown(text: str) -> None:
    with pytest.raises(DynaMarksError) as raised:
        as_suspect(text, timeout_s=0.1)
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_password_is_refused_with_the_reason() -> None:
    with pytest.raises(ArgumentError, match=r"http://.*@host.* holds a user name or password, and addresses end up in"):
        addresses.parse_rest("http://eve:hunter2@host:8501/v1/models/clf")


def test_parts_of_a_grpc_address() -> None:
    address = addresses.parse_grpc(" grpc://[::1]:8500/my%20clf/versions/12/ ")
    assert (address.host, address.port, address.name, address.version) == ("::1", 8500, "my clf", 12)
    assert address.is_loopback


def test_parts_of_a_rest_address() -> None:
    address = addresses.parse_rest("https://models.example.org/proxy/v1/models/clf/")
    assert (address.host, address.port, address.name, address.version) == ("models.example.org", 443, "clf", None)
    assert address.url == "https://models.example.org/proxy/v1/models/clf"
    assert not address.is_loopback


@pytest.mark.parametrize(("host", "expected"), [("localhost", True), ("127.0.0.9", True), ("10.0.0.1", False)])
def test_loopback(host: str, expected: bool) -> None:
    assert addresses.is_loopback(host) is expected
