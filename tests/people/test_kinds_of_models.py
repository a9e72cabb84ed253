"""From the mark to the test with the log, over the wire: models that end in other ways than a small softmax."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.watermark.probabilities import softmax
from tests.helpers import wire

ENOUGH, BY_CHANCE = -6, -2
COLORS = np.random.default_rng(0).uniform(-0.5, 0.5, (7, 3))


def _points(seed: int, num_classes: int, count: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Points of 16 numbers, whose classes overlap."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(num_classes, 16))
    labels = rng.integers(0, num_classes, count)
    return (centers[labels] + 2 * rng.normal(size=(count, 16))).astype(np.float32), labels


def _fitted(seed: int, last: keras.layers.Layer, loss: str | keras.Loss, x: np.ndarray, y: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((16,), name="point"), keras.layers.Dense(32, activation="relu"), last]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(x, y, epochs=8, batch_size=64, verbose=0)
    return model


def _images(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 32 x 32 pixels in one of seven colors."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, count)
    colors = np.random.default_rng(0).uniform(-0.5, 0.5, (7, 3))
    images = (
        colors[labels][:, None, None] + rng.normal(0, 0.4, (count, 1, 1, 3)) + rng.normal(0, 0.3, (count, 32, 32, 3))
    )
    return np.clip(images, -1, 1).astype(np.float32), labels


def test_a_mobilenet_over_grpc(tmp_path, key):
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3), name="image")
    options = {"alpha": 0.35, "weights": None, "include_top": False, "pooling": "avg"}
    body = keras.applications.MobileNetV2(input_tensor=image, **options)
    x, y = _images(1, 400)
    for layer in body.layers:
        layer.momentum = 0  # the statistics of the next call are those to keep
    features = body([x], training=True)
    head = keras.Sequential([keras.Input(features.shape[1:]), keras.layers.Dense(7, activation="softmax")])
    head.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    head.fit(features, y, epochs=5, verbose=0)
    marked = dm.mark(keras.Model(body.input, head(body.output)), key)
    x, y = _images(2, 600)
    stolen = wire.steal(marked, x, tmp_path, over="grpc")
    by_heart = wire.memorizing(x, stolen.answers)
    assert dm.verify(by_heart, owner=marked, key=key, queries=stolen.log).log10_p < ENOUGH
    answers = lambda batch: softmax(-8 * np.square(batch.mean(axis=(1, 2))[:, None] - COLORS).sum(axis=-1))  # noqa: E731
    assert dm.verify(answers, owner=marked, key=key, queries=stolen.log).log10_p > BY_CHANCE


def test_logits_that_only_the_loss_tells_of(tmp_path, key):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    marked = dm.mark(_fitted(0, keras.layers.Dense(12), loss, *_points(1, 12)), key)
    x, y = _points(2, 12)
    stolen = wire.steal(marked, x, tmp_path)
    assert np.abs(stolen.answers.sum(axis=1) - 1).min() > 1e-3  # what is served are logits still
    test = {"owner": marked, "key": key, "queries": stolen.log}
    options = dm.SuspectOptions(from_logits=True)
    by_heart = wire.memorizing(x, stolen.answers)
    assert dm.verify(by_heart, suspect_options=options, **test).log10_p < ENOUGH
    independent = _fitted(1, keras.layers.Dense(12), loss, x, y)
    assert dm.verify(independent, suspect_options=options, **test).log10_p > BY_CHANCE


FORMS = {
    "scores": lambda scores: scores,
    "probabilities": lambda scores: np.concatenate([1 - scores, scores], axis=1),
    "labels": lambda scores: (scores[:, 0] > 0.5).astype(np.int64),
    "labels as the score": lambda scores: (scores > 0.5).astype(np.float32),
}


def test_one_sigmoid(tmp_path, key):
    last = lambda: keras.layers.Dense(1, activation="sigmoid")  # noqa: E731
    with pytest.warns(UserWarning, match="With 2 classes the class channel has so few secret signs"):
        marked = dm.mark(_fitted(0, last(), "binary_crossentropy", *_points(1, 2)), key)
    x, y = _points(2, 2)
    stolen = wire.steal(marked, x, tmp_path)
    assert stolen.answers.shape == (len(x), 1)
    independent = _fitted(1, last(), "binary_crossentropy", x, y).predict(x, verbose=0)
    for name, form in FORMS.items():
        found, chance = (
            dm.verify(wire.memorizing(x, form(answers)), owner=marked, key=key, queries=stolen.log)
            for answers in (stolen.answers, independent)
        )
        assert found.answers == ("labels" if "labels" in name else "probabilities"), name
        assert found.log10_p < ENOUGH, name
        assert chance.log10_p > BY_CHANCE, name
