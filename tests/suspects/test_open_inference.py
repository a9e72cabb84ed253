"""Suspects behind the Open Inference Protocol: what is sent and read, and what is explained."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from werkzeug.wrappers import Request, Response

from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.open_inference import OpenInferenceSuspect
from tests.helpers.model_server import ModelServer, respond, serving
from tests.helpers.suspects import answers_of

Array = np.ndarray[Any, Any]


def thirds(batch: Array) -> dict[str, Array]:
    n = len(batch)
    return {
        "probabilities": np.full((n, 3), 1 / 3),
        "label": np.array(["shirt"] * n, object),
        "number": np.arange(n),
        "first": batch.reshape(n, -1)[:, :2],
    }


OUTPUTS = {"probabilities": "FP64", "label": "BYTES", "number": "INT64", "first": "FP32"}


def ask(application: Any, batch: Array, *, output: str | None = None, path: str = "/v2/models/clf") -> Array:
    with serving(application) as url:
        suspect = as_suspect(url + path, output=output, timeout_s=5.0)
        assert isinstance(suspect, OpenInferenceSuspect)
        return answers_of(suspect, batch)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("path", ["/v2/models/clf", "/v2/models/clf/versions/v2"])
def test_tensors_come_back_as_they_are(images: Array, nested: bool, path: str) -> None:
    server = ModelServer(thirds, OUTPUTS, nested=nested)
    for name, answer in thirds(images).items():
        given = ask(server, images, output=name, path=path)
        np.testing.assert_array_equal(given, answer)
        assert given.dtype == answer.dtype
    np.testing.assert_array_equal(ask(server, images), thirds(images)["probabilities"])


def test_request_is_that_of_the_specification(images: Array) -> None:
    seen: list[Any] = []

    def look(request: Request) -> None:
        seen.append((request.method, request.path, request.content_type, request.get_data()))

    ask(ModelServer(thirds, OUTPUTS, before=look), images[:2], path="/v2/models/clf/versions/v1/")
    described, asked = seen
    assert described[:2] == ("GET", "/v2/models/clf/versions/v1")
    assert asked[:3] == ("POST", "/v2/models/clf/versions/v1/infer", "application/json")
    assert json.loads(asked[3]) == {
        "inputs": [
            {"name": "pixels", "shape": [2, 8, 8, 1], "datatype": "FP32", "data": images[:2].ravel().tolist()},
        ],
        "outputs": [{"name": "probabilities"}],
    }


def test_input_type_is_that_of_the_metadata() -> None:
    server = ModelServer(thirds, OUTPUTS, shape=(-1, 2), datatype="UINT8")
    np.testing.assert_array_equal(ask(server, np.array([[3.0, 4.0]]), output="first"), [[3, 4]])
    with pytest.raises(SuspectError, match="takes uint8 and was given float64 values that do not fit"):
        ask(server, np.array([[0.5, 4.0]]), output="first")


def test_outputs_are_listed() -> None:
    with pytest.raises(SuspectError, match=r"has the outputs first, label; it is not clear .* \(--output\)"):
        ask(ModelServer(thirds, {"first": "FP32", "label": "BYTES"}), np.ones((1, 8, 8, 1)))
    with pytest.raises(SuspectError, match="has the outputs first, label; none is called 'classes'"):
        ask(ModelServer(thirds, {"first": "FP32", "label": "BYTES"}), np.ones((1, 8, 8, 1)), output="classes")


def test_there_are_no_signatures_to_choose_from() -> None:
    with pytest.raises(ArgumentError, match=r"`signature` \(--signature\) does not go with http://host/v2/models/clf"):
        as_suspect("http://host/v2/models/clf", signature="serving_default")


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        (
            {"name": "clf", "inputs": [], "outputs": []},
            "does not describe inputs and outputs in its metadata.* pass a function",
        ),
        ({"name": "clf", "platform": "sklearn"}, "does not describe inputs and outputs in its metadata"),
        ({"inputs": 3, "outputs": [{"name": "p"}]}, r"sent something that cannot be read \(TypeError"),
        ([1], r"sent something that cannot be read \(AttributeError"),
        (
            {"inputs": [{"name": "x", "datatype": "FP16", "shape": [-1, 2]}], "outputs": [{"name": "p"}]},
            "takes inputs of type FP16; accepted are BOOL, .*FP32",
        ),
        (
            {"inputs": [{"name": n, "datatype": "FP32", "shape": [2]} for n in "ab"], "outputs": [{"name": "p"}]},
            r"has 2 inputs \(a, b\)",
        ),
    ],
)
def test_metadata_that_cannot_be_used(metadata: Any, text: str) -> None:
    with pytest.raises(SuspectError, match=text):
        ask(ModelServer(thirds, OUTPUTS, before=lambda request: respond(metadata)), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"outputs": []}, r"sent something that cannot be read \(ValueError"),
        ({"outputs": [{"name": "probabilities"}]}, r"cannot be read \(KeyError"),
        (
            {"outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [1]}]},
            r"cannot be read \(ValueError: cannot reshape",
        ),
        ({"error": "because"}, r"cannot be read \(KeyError"),
    ],
)
def test_answers_that_break_the_protocol(answer: Any, text: str) -> None:
    def broken(request: Request) -> Response | None:
        return respond(answer) if request.method == "POST" else None

    with pytest.raises(SuspectError, match=text):
        ask(ModelServer(thirds, OUTPUTS, before=broken), np.ones((1, 8, 8, 1)))


def test_refusals_of_the_server_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ModelServer(thirds, OUTPUTS)) as url:
        with pytest.raises(SuspectError, match=r"status 404: unknown model .* Check the name of the model"):
            as_suspect(f"{url}/v2/models/other")
        with pytest.raises(SuspectError, match=r"status 404: .*Check the name of the model"):
            as_suspect(f"{url}/prefix/v2/models/clf")
        monkeypatch.setattr("dynamarks_tf.suspects.signature.fit_shape", lambda batch, *_: batch)  # sent unchecked
        with pytest.raises(
            SuspectError, match=r"could not answer a batch of shape \(2, 3\) .*expected a tensor of shape"
        ):
            answers_of(as_suspect(f"{url}/v2/models/clf"), np.ones((2, 3)))
