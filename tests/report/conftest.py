"""Bundles to report on, and a Chromium to look at reports."""

from __future__ import annotations

import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.keys import commitment
from tests.helpers import browser, verifying

SETTINGS = dm.MarkParams(budget=0.1, tie_margin=0)
HOSTILE = '<script>alert(1)</script> & "Sons" {{ 7*7 }} O\'Brien'


@pytest.fixture(scope="session")
def bundles(tmp_path_factory, owner_model, surrogate, unmarked_surrogate, digits, key):
    """Of a surrogate, with a statement and chosen queries; of an independent model; of an owner with a hostile name."""
    folder = tmp_path_factory.mktemp("bundles")
    common = {"owner": owner_model, "params": SETTINGS, "batch_size": 50}
    statement = commitment.commit(key, date="2026-01-01T00:00:00+00:00")
    chosen = {"queries": digits.x_test, "max_queries": 150, "statement": statement}
    verifying.verify(surrogate, key=key, bundle=folder / "surrogate.zip", **chosen, **common)
    logged = {"queries": digits.x_test, "logged": True}
    verifying.verify(unmarked_surrogate, key=key, bundle=folder / "independent.zip", **logged, **common)
    hostile = dm.MarkKey(bytes(range(32)), HOSTILE)
    hostile.save(folder / "hostile.key")
    answers = lambda x: np.asarray(surrogate(x))  # noqa: E731 -- its name becomes the suspect's description
    answers.__name__ = answers.__qualname__ = "<img src=x onerror=alert(2)>"
    verifying.verify(answers, key=hostile, bundle=folder / "hostile & <b>.zip", queries=digits.x_test[:9], **common)
    return folder


@pytest.fixture(scope="module")
def chromium():
    try:
        with browser.chromium() as opened:
            yield opened
    except browser.NoBrowserError as error:
        pytest.skip(str(error))
