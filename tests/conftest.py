"""Shared pieces of the tests: a fixed key, small real data, small trained models."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the tests, and those that they start, share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from dynamarks_tf.keys.key import MarkKey
from tests.helpers import small_classifier, small_surrogate

# Hypothesis draws the same examples in every run, and is not hurried by TensorFlow's first call.
settings.register_profile(
    "reproducible", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("reproducible")

LONGEST_FIRST = ("test_demo.py", "test_notebook.py", "test_docs.py", "test_kinds_of_models.py", "test_audit.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that take longest, so that none of the processes that share the tests waits at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


@pytest.fixture(scope="session")
def key() -> MarkKey:
    return MarkKey(bytes(range(32)), "ACME Vision", created="2026-01-02T03:04:05+00:00")


@pytest.fixture(scope="session")
def other_key() -> MarkKey:
    return MarkKey(bytes(range(1, 33)), "ACME Vision")


@pytest.fixture(scope="session")
def digits():
    from dynamarks_tf.datasets import load_digits

    return load_digits()


@pytest.fixture(scope="session")
def owner_model(digits):
    """An owner model trained on half of the digits; never changed by a test."""
    model = small_classifier()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    half = len(digits.x_train) // 2
    model.fit(digits.x_train[:half], digits.y_train[:half], epochs=15, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="session")
def marked_model(owner_model, key):
    from dynamarks_tf.watermark.marking import mark

    return mark(owner_model, key, budget=0.1, tie_margin=0)


@pytest.fixture(scope="session")
def surrogate(digits, marked_model):
    """A soft-label surrogate of the marked digits model, of another width."""
    from dynamarks_tf.attacks.extraction import train_classifier

    return train_classifier(*_surrogate_and_answers(digits, marked_model), epochs=60, batch_size=32)


@pytest.fixture(scope="session")
def unmarked_surrogate(digits, owner_model):
    """The same, stolen from the clean model."""
    from dynamarks_tf.attacks.extraction import train_classifier

    return train_classifier(*_surrogate_and_answers(digits, owner_model), epochs=60, batch_size=32)


@pytest.fixture(scope="session")
def stolen(tmp_path_factory, digits, owner_model, key):
    """A marked model, a surrogate of what bob and dave got from it, and the log of all four clients."""
    from tests.helpers.tracing import stolen_by_two_clients

    return stolen_by_two_clients(tmp_path_factory.mktemp("log") / "log.npz", digits, owner_model, key)


def _surrogate_and_answers(digits, api):
    stolen = digits.x_train[len(digits.x_train) // 2 :]
    return small_surrogate(), stolen, np.asarray(api.predict(stolen, verbose=0))
