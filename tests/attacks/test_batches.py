"""Batches for Keras: all rows, once a pass, in the order that was asked for, and no wait at the end of a pass."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from dynamarks_tf.attacks.architectures import mlp
from dynamarks_tf.attacks.batches import batches, predicted
from dynamarks_tf.attacks.extraction import train_classifier


def _passes(count: int, *, batch_size: int = 3, shuffled: bool) -> list[list[int]]:
    inputs = np.arange(count, dtype=np.float32)[:, None]
    data = batches(inputs, 10 * np.arange(count), batch_size=batch_size, shuffled=shuffled)
    found = []
    for _ in range(2):
        rows = [(x.numpy()[:, 0], y.numpy()) for x, y in data]
        assert all(len(x) == batch_size for x, _ in rows[:-1])
        assert all((y == 10 * x).all() for x, y in rows), "an input lost its target"
        found.append([int(value) for x, _ in rows for value in x])
    return found


@pytest.mark.parametrize("count", [1, 3, 10])
def test_each_pass_has_all_rows_in_order(count: int) -> None:
    assert _passes(count, shuffled=False) == [list(range(count))] * 2


def test_shuffled_passes_differ_and_follow_the_seed() -> None:
    keras.utils.set_random_seed(1)
    first, second = _passes(50, shuffled=True)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != list(range(50))
    keras.utils.set_random_seed(1)
    assert _passes(50, shuffled=True) == [first, second]


def test_no_pipeline_tunes_itself() -> None:
    assert batches(np.zeros((4, 1)), batch_size=2).options().autotune.enabled is False


def test_text_and_double_precision_are_given_as_keras_takes_them() -> None:
    (texts,) = next(iter(batches(np.array(["a", "bc"], object), batch_size=2)))
    assert texts.dtype == tf.string
    assert texts.numpy().tolist() == [b"a", b"bc"]
    (doubles,) = next(iter(batches(np.zeros((2, 3)), batch_size=2)))
    assert doubles.dtype == keras.config.floatx()
    (bytes_,) = next(iter(batches(np.zeros((2, 3), np.uint8), batch_size=2)))
    assert bytes_.dtype == np.uint8


def test_training_gives_no_warning_and_predictions_are_those_of_keras() -> None:
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((40, 5)), rng.integers(0, 3, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = train_classifier(mlp((5,), 3), inputs, targets, epochs=2, batch_size=16, early_stopping=True)
    np.testing.assert_allclose(predicted(model, inputs), model.predict(inputs, verbose=0), rtol=1e-6)
