"""The contract of all adapters, run on every adapter."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dynamarks_tf.suspects
from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects import Suspect, as_suspect
from dynamarks_tf.suspects.answer_file import AnswerFileSuspect
from dynamarks_tf.suspects.estimator import EstimatorSuspect
from dynamarks_tf.suspects.function import FunctionSuspect
from dynamarks_tf.suspects.isolated import IsolatedSuspect
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.suspects.onnx_model import OnnxSuspect
from dynamarks_tf.suspects.open_inference import OpenInferenceSuspect
from dynamarks_tf.suspects.saved_model import SavedModelSuspect
from dynamarks_tf.suspects.tf_serving_grpc import GrpcSuspect
from dynamarks_tf.suspects.tf_serving_rest import RestSuspect
from dynamarks_tf.suspects.tflite import TFLiteSuspect
from dynamarks_tf.suspects.torch_module import TorchSuspect

Array = np.ndarray[Any, Any]

# The argument of `as_suspect`, from the name of a fixture and its value; and the adapter that must result.
PLACES: dict[str, tuple[type, str, Callable[[Any], Any]]] = {
    "model": (KerasSuspect, "classifier", lambda model: model),
    "file": (IsolatedSuspect, "keras_file", lambda path: path),
    "file as text": (IsolatedSuspect, "keras_file", str),
    "folder of versions": (IsolatedSuspect, "served", lambda path: path),
    "one version": (IsolatedSuspect, "served", lambda path: str(path / "2")),
    "function": (FunctionSuspect, "classifier", lambda model: lambda batch: model(batch, training=False)),
    "gRPC": (GrpcSuspect, "server", lambda server: server.grpc_url),
    "gRPC version": (GrpcSuspect, "server", lambda server: f"{server.grpc_url}/versions/10"),
    "REST": (RestSuspect, "server", lambda server: server.rest_url),
    "REST version": (RestSuspect, "server", lambda server: f"{server.rest_url}/versions/10/"),
    "Open Inference": (OpenInferenceSuspect, "v2_server", lambda url: url),
    "Open Inference version": (OpenInferenceSuspect, "v2_server", lambda url: f"{url}/versions/v1/"),
    "TFLite": (IsolatedSuspect, "tflite_file", lambda path: path),
    "ONNX": (IsolatedSuspect, "onnx_file", lambda path: path),
    "PyTorch": (TorchSuspect, "torch_module", lambda module: module),
    "estimator": (EstimatorSuspect, "estimator", lambda estimator: estimator),
    "file of answers": (AnswerFileSuspect, "answer_file", lambda path: path),
}

# Those that `IsolatedSuspect` runs elsewhere, so that the contract holds them too.
IN_ANOTHER_PROCESS = {KerasSuspect, SavedModelSuspect, TFLiteSuspect, OnnxSuspect}
SHAPELESS = (FunctionSuspect, TorchSuspect, EstimatorSuspect, AnswerFileSuspect)


def adapters() -> set[type]:
    """Finds every class in the package that keeps the protocol."""
    modules = pkgutil.iter_modules(dynamarks_tf.suspects.__path__, "dynamarks_tf.suspects.")
    members = [inspect.getmembers(importlib.import_module(module.name), inspect.isclass) for module in modules]
    classes = {member for found in members for _, member in found if member.__module__.startswith("dynamarks_tf.")}
    return {member for member in classes if hasattr(member, "predict") and member is not Suspect}


def test_every_adapter_is_under_contract() -> None:
    assert len(adapters()) >= 5
    assert adapters() == {adapter for adapter, _, _ in PLACES.values()} | IN_ANOTHER_PROCESS


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> tuple[type, Any]:
    adapter, fixture, make = PLACES[request.param]
    return adapter, make(request.getfixturevalue(fixture))


@pytest.fixture
def suspect(place: tuple[type, Any]) -> Iterator[Suspect]:
    suspect = as_suspect(place[1], timeout_s=10.0)
    yield suspect
    suspect.close()


def test_comes_from_the_right_adapter(suspect: Suspect, place: tuple[type, Any]) -> None:
    assert type(suspect) is place[0]
    assert isinstance(suspect, Suspect)
    assert as_suspect(suspect) is suspect


def test_answers_like_the_model(suspect: Suspect, classifier: Any, images: Array) -> None:
    expected = classifier.predict(images, verbose=0)
    for rows in (7, 1, 3):
        answers = suspect.predict(images[:rows])
        assert isinstance(answers, np.ndarray)
        np.testing.assert_allclose(answers, expected[:rows], atol=1e-5)


def test_takes_other_number_types(suspect: Suspect, classifier: Any) -> None:
    zeros = np.zeros((2, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(suspect.predict(zeros), classifier.predict(zeros, verbose=0), atol=1e-5)
    np.testing.assert_allclose(suspect.predict(zeros.astype(float)), classifier.predict(zeros, verbose=0), atol=1e-5)


def test_leaves_the_batch_alone(suspect: Suspect, images: Array) -> None:
    before = images.copy()
    suspect.predict(images)
    np.testing.assert_array_equal(images, before)


def test_hands_on_nan_without_judging_it(suspect: Suspect, images: Array) -> None:
    images[1] = np.nan
    answers = suspect.predict(images)
    assert np.isnan(answers[1]).all()
    assert not np.isnan(answers[2]).any()


def test_has_a_description(suspect: Suspect) -> None:
    assert suspect.description.strip()


def test_input_shape_is_right_or_none(suspect: Suspect) -> None:
    assert suspect.input_shape == (None if isinstance(suspect, SHAPELESS) else (8, 8, 1))


def test_wrong_shape_is_explained(suspect: Suspect) -> None:
    with pytest.raises(SuspectError) as raised:
        suspect.predict(np.zeros((2, 5), np.float32))
    assert suspect.description in str(raised.value)
    assert "(2, 5)" in str(raised.value)
    assert suspect.input_shape is None or "inputs of shape (n, 8, 8, 1)" in str(raised.value)


def test_closes_twice_and_then_answers_no_more(suspect: Suspect, images: Array) -> None:
    suspect.predict(images)
    suspect.close()
    suspect.close()
    with pytest.raises(SuspectError, match="is closed; make a new suspect"):
        suspect.predict(images)


def test_prints_nothing(place: tuple[type, Any], images: Array, capfd: pytest.CaptureFixture[str]) -> None:
    suspect = as_suspect(place[1])
    suspect.predict(images)
    suspect.close()
    assert capfd.readouterr().out == ""
