"""Logs of KServe's payload logger."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamarks_tf._support.json_bounds import check_nesting
from dynamarks_tf.request_logs import cloud_events, open_log
from dynamarks_tf.request_logs.cloud_events import EventsFile
from tests.helpers.logs import stored

X = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
P = np.full((3, 2), 0.5, np.float32)
PREFIX = "org.kubeflow.serving.inference."


def structured(kind: str, name: str, data: Any, client: str | None = "alice", **more: Any) -> dict[str, Any]:
    metadata = json.dumps({"X-Client-Id": [client], "X-Other": ["x"]} if client else {})
    event = {"specversion": "1.0", "id": name, "type": PREFIX + kind, "source": "http://clf", "data": data}
    return event | {"inferenceservicename": "clf", "metadata": metadata, "time": "2026-01-02T03:04:05.5Z"} | more


def binary(kind: str, name: str, data: Any, client: str | None = "alice") -> dict[str, Any]:
    event = structured(kind, name, data, client)
    body = json.dumps(event.pop("data"))
    return {"headers": {f"Ce-{key.title()}": value for key, value in event.items()}, "body": body}


def in_base64(kind: str, name: str, data: Any, client: str | None = "alice") -> dict[str, Any]:
    event = structured(kind, name, None, client)
    del event["data"]
    return event | {"data_base64": base64.b64encode(json.dumps(data).encode()).decode()}


def write(path: Path, *events: Any) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def entries(path: Path) -> list[Any]:
    return list(EventsFile(stored(path)).entries())


def v2(name: str, array: np.ndarray, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


BODIES = {
    "rows": ({"instances": X.tolist()}, {"predictions": P.tolist()}),
    "columns": ({"inputs": X.tolist()}, {"outputs": P.tolist()}),
    "named columns": ({"inputs": {"image": X.tolist()}}, {"outputs": {"probabilities": P.tolist()}}),
    "named rows": (
        {"instances": [{"image": row} for row in X.tolist()]},
        {"predictions": [{"probabilities": row} for row in P.tolist()]},
    ),
    "v2": ({"inputs": [v2("image", X)]}, {"model_name": "clf", "outputs": [v2("probabilities", P)]}),
}


@pytest.mark.parametrize("form", [structured, binary, in_base64])
@pytest.mark.parametrize("body", BODIES)
def test_every_form_and_protocol(tmp_path: Path, form: Any, body: str) -> None:
    request, response = BODIES[body]
    path = write(tmp_path / "events", form("request", "1", request), form("response", "1", response))
    (found,) = entries(path)
    np.testing.assert_array_equal(found.inputs(None), X, strict=True)
    assert (found.client, found.time, found.model) == ("alice", 1767323045.5, "clf")
    np.testing.assert_array_equal(next(open_log(path, client="alice", model="clf").batches(3)), X)


def answer(version: Any) -> dict[str, Any]:
    """The body of an answer of the v2 protocol."""
    return {"model_name": "clf", "model_version": version, "outputs": [v2("probabilities", P)]}


def test_requests_and_answers_are_joined_by_id_in_any_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "events",
        structured("request", "1", {"instances": X[:1].tolist()}, "alice"),
        structured("response", "4", answer("4")),
        structured("request", "2", {"instances": X[1:2].tolist()}, "bob"),
        structured("request", "3", {"instances": X[2:].tolist()}, None),
        {"specversion": "1.0", "id": "1", "type": "something.else", "source": "x"},
        binary("response", "2", answer("2")),
        structured("response", "unknown", answer("9")),
        structured("response", "1", answer("1")),
        structured("request", "4", {"instances": X[:1].tolist()}, "carol"),
    )
    found = [("alice", 1), ("bob", 2), (None, None), ("carol", 4)]
    assert [(entry.client, entry.version) for entry in entries(path)] == found
    log = open_log(path, version=[1, 2, 4])
    with pytest.warns(UserWarning, match="1 logged requests were left out: the version that answered was not recorded"):
        np.testing.assert_array_equal(np.concatenate(list(log.batches(2))), X[[0, 1, 0]])
    assert log.clients() == {"alice": 1, "bob": 1, None: 1, "carol": 1}


@pytest.mark.parametrize("order", ["qrqr", "qqrr", "qqr", "qrr", "rqq", "rrq"])
def test_an_id_that_a_client_repeats_pairs_nothing_but_keeps_the_requests(tmp_path: Path, order: str) -> None:
    bodies = {"q": ("request", {"instances": X[:1].tolist()}), "r": ("response", answer("1"))}
    alice = (structured("request", "2", {"instances": X[1:].tolist()}), structured("response", "2", answer("1")))
    path = write(
        tmp_path / "events", *(structured(bodies[kind][0], "1", bodies[kind][1], "mallory") for kind in order), *alice
    )
    log = open_log(path, version=1)
    with pytest.warns(UserWarning, match=f"{order.count('q')} logged requests were left out: the version"):
        np.testing.assert_array_equal(np.concatenate(list(log.batches(2))), X[1:])
    assert len(log.problems) == 1
    assert sum(map(len, open_log(path, client="mallory").batches(1))) == order.count("q")


@pytest.mark.parametrize("form", [structured, binary, in_base64])
@pytest.mark.parametrize(("told", "version"), [("2", 2), ("v0.1", None), (None, None), (2, None), ("9" * 30, None)])
def test_the_version_that_answered(tmp_path: Path, form: Any, told: Any, version: int | None) -> None:
    path = write(tmp_path / "events", form("request", "1", BODIES["v2"][0]), form("response", "1", answer(told)))
    (found,) = entries(path)
    assert (found.model, found.version) == ("clf", version)


def test_a_file_is_read_as_a_whole_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass looks through the answers; the others read no more than the requests."""
    path = write(
        tmp_path / "events",
        *(structured("request", str(number), {"instances": X[:1].tolist()}) for number in range(5)),
        *(structured("response", str(number), answer("1")) for number in range(5)),
    )
    parsed: list[bytes] = []
    parse = cloud_events.parse
    monkeypatch.setattr(cloud_events, "parse", lambda data: parsed.append(data) or parse(data))
    log = open_log(path)
    parsed.clear()
    counts = []
    for part in (log, log):
        assert sum(map(len, part.batches(2))) == 5
        counts.append(len(parsed))
        parsed.clear()
    assert counts == [15, 5]


def test_the_start_of_a_file_is_found_without_its_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path / "events",
        {"specversion": "1.0", "id": "1", "type": "something.else", "time": "2020-01-02T03:04:05Z"},
        *(structured("request", str(number), {"instances": X.tolist()}) for number in range(5)),
    )
    file = EventsFile(stored(path))
    monkeypatch.setattr(EventsFile, "_index", None)
    assert file.start_time == 1767323045.5


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("ignored", ["[" * 200_000 + "]" * 200_000, "9" * 5_000])
def test_a_line_that_cannot_be_parsed_does_not_spoil_the_log(tmp_path: Path, ignored: str, first: bool) -> None:
    good = json.dumps(structured("request", "1", {"instances": X.tolist()}))
    hostile = json.dumps(structured("request", "2", {"x": "@"}, "mallory")).replace('"@"', ignored)
    path = tmp_path / "events"
    path.write_text("\n".join([hostile, good] if first else [good, hostile]) + "\n")
    log = open_log(path, client="alice")
    with pytest.warns(UserWarning, match="1 logged requests were left out.*its line cannot be read"):
        assert [len(batch) for batch in log.batches(3)] == [3]
    assert len(log.problems) == 1


@pytest.mark.parametrize("form", [structured, binary])
def test_how_deep_a_body_may_be_nested_does_not_depend_on_the_caller(tmp_path: Path, form: Any) -> None:
    """Otherwise, a client could let two passes over the log differ."""
    lines = []
    for depth in (1, *range(450, 550, 7), *range(700, 1100, 7)):
        event = json.dumps(form("request", str(depth), {"instances": X.tolist(), "x": "@"}))
        quote = '"' if form is structured else '\\"'
        lines.append(event.replace(f"{quote}@{quote}", "[" * depth + "]" * depth) + "\n")
    path = tmp_path / "events"
    path.write_text("".join(lines))
    log = open_log(path)

    def count(frames: int) -> int:
        return count(frames - 1) if frames else sum(map(len, log.batches(9)))

    with pytest.warns(UserWarning, match="logged requests were left out.*nested more than 500 levels deep"):
        counts = {count(frames) for frames in (0, 60, 120, 180)}
    assert len(counts) == 1


@pytest.mark.parametrize("text", ["[" * 600 + "]" * 600, "[" + '{"x": [' * 300 + "]}" * 300 + "]", "[" * 600])
def test_texts_that_are_nested_too_deep(text: str) -> None:
    with pytest.raises(ValueError, match="nested more than 500 levels deep"):
        check_nesting(text)


@pytest.mark.parametrize(
    "text", ["[" * 500 + "]" * 500, "[[]," * 1 + "[]," * 600 + "[]]", json.dumps("[" * 600 + '\\"' + "{" * 600)]
)
def test_texts_that_hold_many_brackets(text: str) -> None:
    check_nesting(text)
    json.loads(text)


@pytest.mark.parametrize("form", [structured, binary])
def test_a_body_is_read_as_the_server_read_it(tmp_path: Path, form: Any) -> None:
    """The first of two values of a key counts; other strings need not be UTF-8."""
    lines = "\n".join(
        json.dumps(form("request", str(index), {"instances": X.tolist(), "x": "@"})) for index in range(2)
    )
    decoy = b'"instances":[[9]]' if form is structured else b'\\"instances\\":[[9]]'
    quote = b'"' if form is structured else b'\\"'
    path = tmp_path / "events"
    path.write_bytes(lines.encode().replace(quote + b"@" + quote, quote + b"\xff" + quote + b", " + decoy) + b"\n")
    for batch in open_log(path).batches(3):
        np.testing.assert_array_equal(batch, X)


def test_dtypes(tmp_path: Path) -> None:
    images = np.array([[1, 255]], np.uint8)
    path = write(tmp_path / "v1", structured("request", "1", {"instances": images.tolist()}))
    np.testing.assert_array_equal(next(open_log(path, dtype="uint8").batches(1)), images, strict=True)
    path = write(tmp_path / "v2", structured("request", "1", {"inputs": [v2("x", images, "UINT8"), v2("y", X)]}))
    np.testing.assert_array_equal(next(open_log(path, input="x").batches(1)), images, strict=True)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("no json", "its body is no JSON object"),
        ([1], "it is a list or a single value"),
        ({}, "neither 'instances' nor 'inputs'"),
        ({"instances": [[1], [2, 3]]}, "its inputs are no array"),
        ({"inputs": {"a": [1], "b": [2]}}, "its inputs are: a, b; say which with input="),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [5]}]}, "its inputs are no array"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [7], "data": [1.0]}]}, "its inputs are no array"),
    ],
)
def test_malformed_bodies_are_left_out(tmp_path: Path, data: Any, problem: str) -> None:
    good = structured("request", "2", {"instances": X.tolist()})
    path = write(tmp_path / "events", structured("request", "1", data), good)
    with pytest.warns(UserWarning, match=problem):
        (batch,) = open_log(path).batches(3)
    np.testing.assert_array_equal(batch, X)


def test_a_line_that_is_cut_off_or_broken_costs_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "events", structured("request", "1", {"instances": X.tolist()}))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    with pytest.warns(UserWarning, match="is cut off and is skipped"):
        assert [len(batch) for batch in open_log(path).batches(3)] == [3]
    path.write_bytes(whole + whole[:50] + b"\n" + whole)
    with pytest.warns(UserWarning, match=f"1 logged .*offset {len(whole)}: its line cannot be read"):
        assert sum(map(len, open_log(path).batches(3))) == 6


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T03:04:05.123456789Z", 1767323045.123456789),
        ("2026-01-02T04:04:05+01:00", 1767323045.0),
        ("yesterday", None),
        ("2026-99-02T03:04:05Z", None),
        (5, None),
    ],
)
def test_times(tmp_path: Path, time: Any, seconds: float | None) -> None:
    path = write(tmp_path / "events", structured("request", "1", {"instances": X.tolist()}, time=time))
    (found,) = entries(path)
    assert found.time == (seconds if seconds is None else pytest.approx(seconds, abs=1e-6))
