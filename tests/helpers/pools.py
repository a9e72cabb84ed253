"""Many inputs that are like a few real ones."""

import numpy as np


def many_digits(digits, count, seed=0):
    """Mixtures of two digits with noise, float32 of shape `(count, 8, 8, 1)`."""
    rng = np.random.default_rng(seed)
    one, other = digits.x_test[rng.integers(len(digits.x_test), size=(2, count))]
    weight = rng.uniform(0, 0.3, size=(count, 1, 1, 1))
    return ((1 - weight) * one + weight * other + rng.normal(0, 0.08, one.shape)).astype(np.float32)
