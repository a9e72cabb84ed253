"""Suspects handed over as objects of other libraries."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from dynamarks_tf.errors import ArgumentError, SuspectError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.estimator import EstimatorSuspect
from dynamarks_tf.suspects.torch_module import TorchSuspect

Array = np.ndarray[Any, Any]


def test_classifier_of_scikit_learn_answers_images(digits: Any) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows = digits.x_train[:300].reshape(300, -1)
    classifier = linear_model.LogisticRegression(max_iter=50).fit(rows, digits.y_train[:300])
    suspect = as_suspect(classifier)
    assert isinstance(suspect, EstimatorSuspect)
    assert suspect.description == "estimator LogisticRegression"
    assert suspect.classes == tuple(range(10))
    np.testing.assert_array_equal(
        suspect.predict(digits.x_test[:20]), classifier.predict_proba(digits.x_test[:20].reshape(20, -1))
    )
    with pytest.raises(SuspectError, match=r"shape \(2, 5\) .*ValueError: X has 5 features, but LogisticRegression is"):
        suspect.predict(np.zeros((2, 5)))


def test_pipeline_that_answers_names(digits: Any) -> None:
    pipeline, svm = pytest.importorskip("sklearn.pipeline"), pytest.importorskip("sklearn.svm")
    names = np.array([f"digit {number}" for number in range(10)])
    model = pipeline.make_pipeline(svm.LinearSVC()).fit(
        digits.x_train[:100].reshape(100, -1), names[digits.y_train[:100]]
    )
    suspect = as_suspect(model)
    assert isinstance(suspect, EstimatorSuspect)
    assert suspect.classes is None  # it has no probabilities
    assert set(suspect.predict(digits.x_test[:20])) <= set(names)


def test_classifier_that_was_not_fitted_is_refused() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    with pytest.raises(
        ArgumentError, match="A LogisticRegression is not a suspect; accepted: .* a fitted scikit-learn class"
    ):
        as_suspect(linear_model.LogisticRegression())


def test_torch_module_is_left_as_it_was(torch_module: Any, images: Array) -> None:
    import torch

    module = torch.nn.Sequential(torch_module, torch.nn.BatchNorm1d(5))
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    as_suspect(module).predict(images)
    assert [part.training for part in module.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_torch_module_that_returns_a_structure() -> None:
    torch = pytest.importorskip("torch")

    class Structured(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, x: Any) -> Any:
            return {"logits": x}

    with pytest.raises(SuspectError, match="it returned a dict, not one tensor; pass a function that takes one out"):
        TorchSuspect(Structured()).predict(np.ones((2, 3), np.float32))


def test_torch_module_of_low_precision() -> None:
    torch = pytest.importorskip("torch")
    answers = TorchSuspect(torch.nn.Linear(3, 2).bfloat16()).predict(np.ones((2, 3), np.float32))
    assert answers.dtype == np.float32


def test_torch_function_that_keeps_gradients_is_explained() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    with pytest.raises(SuspectError, match=r"RuntimeError: Can't call numpy\(\) on Tensor that requires grad"):
        as_suspect(lambda batch: module(torch.from_numpy(batch))).predict(np.ones((2, 3), np.float32))


def test_a_keras_model_of_whole_numbers_is_given_no_fractions() -> None:
    inputs = keras.Input((4,), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    suspect = as_suspect(keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(scaled)))
    whole = np.random.default_rng(1).integers(0, 256, (5, 4))
    np.testing.assert_array_equal(suspect.predict(whole.astype(np.float32)), suspect.predict(whole.astype(np.uint8)))
    with pytest.raises(SuspectError, match=r"takes uint8 and was given float64 values that do not fit \(from 0\."):
        suspect.predict(whole / 256 + 0.001)
