"""From the mark to the test with the log, over the wire: a classifier of texts."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.recheck import recheck
from tests.helpers import wire

CLASSES, TEXTS = 20, 1500
VOCABULARY = [f"word{each}" for each in range(120)]


def _texts(seed: int, count: int = TEXTS) -> tuple[np.ndarray, np.ndarray]:
    """Made-up texts: words drawn with other frequencies for each class. They are no natural language."""
    rng = np.random.default_rng(seed)
    favorites = np.random.default_rng(0).dirichlet(np.full(120, 0.15), CLASSES)
    labels = rng.integers(0, CLASSES, count)
    words = [rng.choice(120, 12, p=0.5 * favorites[label] + 0.5 / 120) for label in labels]
    return np.array([" ".join(f"word{each}" for each in line) for line in words], object), labels


def _fitted(seed: int, width: int, x: np.ndarray, y: np.ndarray, epochs: int) -> keras.Model:
    """A classifier of texts, trained on the counts of their words, which are the same in every epoch."""
    keras.utils.set_random_seed(seed)
    counting = keras.layers.TextVectorization(output_mode="count", vocabulary=VOCABULARY)
    head = keras.Sequential(
        [
            keras.Input((len(VOCABULARY) + 1,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    loss = "sparse_categorical_crossentropy" if y.ndim == 1 else "categorical_crossentropy"
    head.compile(keras.optimizers.Adam(3e-3), loss, steps_per_execution=8)
    head.fit(np.asarray(counting(x.tolist())), y, epochs=epochs, batch_size=64, verbose=0)
    inputs = keras.Input((), dtype="string", name="text")
    return keras.Model(inputs, head(counting(inputs)))


def test_texts_from_the_mark_to_the_log(tmp_path, key):
    marked = dm.mark(_fitted(0, 64, *_texts(1), epochs=15), key)
    x, y = _texts(2)
    stolen = wire.steal(marked, x, tmp_path)
    surrogate = _fitted(1, 96, x, stolen.answers, epochs=40)
    independent = _fitted(2, 96, x, y, epochs=15)
    np.testing.assert_array_equal(np.concatenate(list(stolen.log.batches(256))), [text.encode() for text in x])
    bundle = dm.BundleOptions(tmp_path / "bundle.zip", include_queries=True)
    found = dm.verify(surrogate, owner=marked, key=key, queries=stolen.log, bundle=bundle)
    assert found.log10_p < -6
    assert recheck(bundle.path).evidence.log10_p == pytest.approx(found.log10_p)
    assert dm.verify(independent, owner=marked, key=key, queries=stolen.log).log10_p > -2
