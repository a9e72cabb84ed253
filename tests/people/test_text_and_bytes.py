"""From the mark to the test with the log, over the wire: a classifier of texts."""

from __future__ import annotations

import json
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf

import dynamarks_tf as dm
from dynamarks_tf.recheck import recheck
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.serving.local_server import LocalServer

CLASSES, TEXTS = 20, 1500


def _texts(seed: int, count: int = TEXTS) -> tuple[np.ndarray, np.ndarray]:
    """Made-up texts: words drawn with other frequencies for each class. They are no natural language."""
    rng = np.random.default_rng(seed)
    favorites = np.random.default_rng(0).dirichlet(np.full(120, 0.15), CLASSES)
    labels = rng.integers(0, CLASSES, count)
    words = [rng.choice(120, 12, p=0.5 * favorites[label] + 0.5 / 120) for label in labels]
    return np.array([" ".join(f"word{each}" for each in line) for line in words], object), labels


def _text_model(seed: int, width: int, vocabulary: list[str]) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((), dtype="string", name="text")
    tokens = keras.layers.TextVectorization(output_mode="count", vocabulary=vocabulary)(inputs)
    hidden = keras.layers.Dense(width, activation="relu")(tokens)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(hidden))


def _fitted(model: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int) -> keras.Model:
    loss = "sparse_categorical_crossentropy" if y.ndim == 1 else "categorical_crossentropy"
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(tf.constant(x.tolist()), y, epochs=epochs, batch_size=64, verbose=0)
    return model


def _asked(url: str, instances: list[object]) -> np.ndarray:
    """The answers to instances, asked as a client without this package does."""
    parts = []
    for start in range(0, len(instances), 250):
        body = json.dumps({"instances": instances[start : start + 250]}).encode()
        request = urllib.request.Request(f"{url}:predict", body, {"x-client-id": "alice"})
        with urllib.request.urlopen(request) as reply:
            parts.append(np.array(json.load(reply)["predictions"], np.float32))
    return np.concatenate(parts)


def test_texts_from_the_mark_to_the_log(tmp_path, key):
    vocabulary = [f"word{each}" for each in range(120)]
    owner = _fitted(_text_model(0, 64, vocabulary), *_texts(1), epochs=15)
    marked = dm.mark(owner, key)
    dm.export_saved_model(marked, tmp_path / "clf" / "1")
    x, y = _texts(2)
    with LocalServer(tmp_path / "clf", grpc_port=None, rest_port=0, request_log=tmp_path / "log") as server:
        stolen = _asked(server.rest_url, x.tolist())
    surrogate = _fitted(_text_model(1, 96, vocabulary), x, stolen, epochs=40)
    independent = _fitted(_text_model(2, 96, vocabulary), x, y, epochs=15)
    log = open_log(tmp_path / "log", client="alice")
    np.testing.assert_array_equal(np.concatenate(list(log.batches(256))), [text.encode() for text in x])
    bundle = dm.BundleOptions(tmp_path / "bundle.zip", include_queries=True)
    found = dm.verify(surrogate, owner=marked, key=key, queries=log, bundle=bundle)
    assert found.log10_p < -6
    assert recheck(bundle.path).evidence.log10_p == pytest.approx(found.log10_p)
    assert dm.verify(independent, owner=marked, key=key, queries=log).log10_p > -2
