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


def ask(application: Any, batch: Array, *, path: str = "/v2/models/clf", **options: Any) -> Array:
    with serving(application) as url:
        suspect = as_suspect(url + path, timeout_s=5.0, **options)
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
        ({"inputs": 3, "outputs": [{"name": "p"}]}, r"sent something that cannot be read \(TypeError"),
        ([1], r"sent something that cannot be read \(AttributeError"),
        ({"inputs": [{"name": 5}]}, r"cannot be read \(TypeError: a name is not text"),
        ({"inputs": [{"name": "x", "shape": [-1, float("inf")]}]}, r"cannot be read \(OverflowError"),
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
        monkeypatch.setattr("dynamarks_tf.suspects.open_inference.fit_shape", lambda batch, *_: batch)  # sent unchecked
        with pytest.raises(
            SuspectError, match=r"could not answer a batch of shape \(2, 3\) .*expected a tensor of shape"
        ):
            answers_of(as_suspect(f"{url}/v2/models/clf"), np.ones((2, 3)))


# Servers that do not describe inputs and outputs

ONE = {"probabilities": "FP64"}


def saying(metadata: Any, status: int = 200) -> ModelServer:
    """A server that takes any input, and says only this of its model."""

    def answer(request: Request) -> Response | None:
        if request.path.endswith("/ready"):
            return Response("")  # as MLServer and Triton do
        return respond(metadata, status) if request.method == "GET" else None

    return ModelServer(thirds, ONE, before=answer, described=False)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_metadata_may_be_missing(images: Array, status: int) -> None:
    server = saying({"error": "no metadata"}, status)
    np.testing.assert_array_equal(ask(server, images), thirds(images)["probabilities"])
    tensor = {"name": "input-0", "shape": [7, 8, 8, 1], "datatype": "FP32", "data": images.ravel().tolist()}
    assert server.asked == {"inputs": [tensor]}


@pytest.mark.parametrize(
    ("metadata", "name", "datatype"),
    [
        ({"name": "clf", "versions": [], "platform": "", "inputs": [], "outputs": []}, "input-0", "FP32"),
        ({"name": "clf", "platform": "sklearn", "inputs": None}, "input-0", "FP32"),
        ({"inputs": [{"name": "x"}]}, "x", "FP32"),
        ({"inputs": [{"name": "x", "datatype": "FP64", "shape": []}]}, "x", "FP64"),
        ({"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}], "outputs": []}, "x", "FP64"),
        ({"outputs": [{"name": "probabilities"}]}, "input-0", "FP32"),
    ],
)
def test_what_metadata_leaves_out_is_inferred(images: Array, metadata: Any, name: str, datatype: str) -> None:
    server = saying(metadata)
    np.testing.assert_array_equal(ask(server, images), thirds(images)["probabilities"])
    (tensor,) = server.asked["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == (name, datatype, [7, 8, 8, 1])


def test_input_output_and_type_can_be_said(images: Array) -> None:
    server = ModelServer(thirds, OUTPUTS, described=False)
    answer = ask(server, images.round(), input="x", output="first", datatype="UINT8")
    np.testing.assert_array_equal(answer, thirds(images.round())["first"])
    (tensor,) = server.asked["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["data"][0]) == ("x", "UINT8", int(images.ravel()[0].round()))
    assert server.asked["outputs"] == [{"name": "first"}]


def test_text_is_sent_as_text() -> None:
    server = ModelServer(thirds, {"label": "BYTES"}, described=False)
    assert ask(server, np.array([b"one", b"two"], object)).tolist() == ["shirt", "shirt"]
    (tensor,) = server.asked["inputs"]
    assert tensor == {"name": "input-0", "shape": [2], "datatype": "BYTES", "data": ["one", "two"]}


def test_whole_numbers_that_fp32_would_change_need_a_type() -> None:
    server, large = ModelServer(thirds, ONE, described=False), np.array([[2**24 + 1, 0]])
    with pytest.raises(SuspectError, match=r"too large for FP32. Name the type: .*\(--datatype INT64\)"):
        ask(server, large)
    ask(server, large, datatype="INT64")
    assert server.asked["inputs"][0]["data"] == [2**24 + 1, 0]


def test_one_of_several_outputs_must_be_clear(images: Array) -> None:
    np.testing.assert_array_equal(  # the usual name
        ask(ModelServer(thirds, OUTPUTS, described=False), images), thirds(images)["probabilities"]
    )
    strange = "la\x1b[31mbel\n"
    server = ModelServer(
        lambda batch: {**thirds(batch), strange: batch}, {"first": "FP32", strange: "FP32"}, described=False
    )
    with pytest.raises(SuspectError, match=r"has the outputs first, label; it is not clear .* \(--output\)"):
        ask(server, images)
    deaf = {"outputs": [{"name": "label", "datatype": "INT64", "shape": [7], "data": [0] * 7}]}
    server = ModelServer(thirds, OUTPUTS, described=False, before=lambda request: respond(deaf))
    with pytest.raises(SuspectError, match="has the outputs label; none is called 'predict_proba'"):
        ask(server, images, output="predict_proba")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"input": "x"}, r"describes its input as 'pixels'. Received: input='x' \(--input\). Leave it out"),
        ({"datatype": "FP64"}, r"describes its datatype as 'FP32'. Received: datatype='FP64' \(--datatype\)"),
    ],
)
def test_metadata_cannot_be_overruled(images: Array, options: Any, text: str) -> None:
    with pytest.raises(SuspectError, match=text):
        ask(ModelServer(thirds, OUTPUTS), images, **options)
    same = {"input": "pixels", "datatype": "FP32"}
    np.testing.assert_array_equal(ask(ModelServer(thirds, ONE), images, **same), thirds(images)["probabilities"])


def test_options_that_do_not_exist() -> None:
    with pytest.raises(ArgumentError, match=r"`datatype` \(--datatype\) must be one of BOOL, .* Received: 'fp32'"):
        as_suspect("http://host/v2/models/clf", datatype="fp32")
    for url in ("http://host/v1/models/clf", "grpc://host/clf"):
        with pytest.raises(ArgumentError, match=rf"`input` \(--input\) does not go with {url}"):
            as_suspect(url, input="x")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        ({"error": "4 features, please"}, 400, "could not answer a batch of shape .*: 4 features, please"),
        (
            "Traceback (most recent call last):\n  File x.py\nValueError: 4 features, please\n",
            500,
            "500: ValueError: 4 ",
        ),
    ],
)
def test_a_refusal_says_what_was_inferred(images: Array, error: Any, status: int, text: str) -> None:
    def refuse(request: Request) -> Response | None:
        if request.method == "GET":
            return None
        return Response(error, status) if isinstance(error, str) else respond(error, status)

    inferred = r"'input-0' of type FP32 and shape \(7, 8, 8, 1\) was sent. Say otherwise: .*\(--input\)"
    with pytest.raises(SuspectError, match=f"{text}.*{inferred}"):
        ask(ModelServer(thirds, ONE, before=refuse, described=False), images)


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (("FP32", [2, 2], [1]), r"of shape \[2, 2\] and type FP32, which holds 1 values in the shape \[1\]"),
        (("FP32", [3, 2], [[1, 2, 3], [4, 5, 6]]), r"holds 6 values in the shape \[2, 3\]"),
        (("FP32", [2], ["0.5", "0.5"]), "holds values of another type"),
        (("BYTES", [2], [1, 2]), "holds values of another type"),
        (("FP32", [2], [[1], [2, 3]]), "holds values of another type"),
        (("INT64", [2], [0.5, 0.5]), "holds values outside of this type"),
        (("UINT8", [2], [1, 300]), "holds values outside of this type"),
        (("FP32", [-1], [1, 2]), r"holds 2 values in the shape \[2\]"),
        (("FP16\n" * 500, [2], [1, 2]), r"answers values of type (FP16 )+\.\.\.; accepted are"),
    ],
)
def test_answers_that_contradict_themselves(tensor: Any, text: str) -> None:
    def contradict(request: Request) -> Response | None:
        output = dict(zip(("datatype", "shape", "data"), tensor, strict=True))
        return respond({"outputs": [{"name": "p", **output}]}) if request.method == "POST" else None

    with pytest.raises(SuspectError, match=text):
        ask(ModelServer(thirds, ONE, before=contradict, described=False), np.ones((2, 3)))


def test_texts_may_hold_json() -> None:
    texts = [json.dumps({"cat": 0.75, "dog": 0.25}), json.dumps({"dog": 1.0})]
    server = ModelServer(lambda batch: {"text": np.array(texts, object)}, {"text": "BYTES"}, described=False)
    assert ask(server, np.ones((2, 3))).tolist() == [{"cat": 0.75, "dog": 0.25}, {"dog": 1.0}]
