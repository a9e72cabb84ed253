"""Studies train with a fused batch normalization: it must be the one that Keras computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from benchmarks import fused_normalization
from dynamarks_tf.attacks.architectures import separable_cnn


def test_one_step_of_training_is_that_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((256, 12, 12, 1), np.float32), rng.integers(0, 5, 256)
    layer = keras.layers.BatchNormalization
    found = []
    for is_fused in (False, True):
        monkeypatch.setattr(layer, "call", layer.call)  # whatever is installed goes after the test
        if is_fused:
            fused_normalization.install()
        keras.utils.set_random_seed(0)
        model = separable_cnn((12, 12, 1), 5)
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.train_on_batch(inputs, targets)
        found.append([model(inputs).numpy(), *model.get_weights()])
    assert layer.call is not fused_normalization._PLAIN
    for plain, fused in zip(*found, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=2e-3, atol=2e-5)
