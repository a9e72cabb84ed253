"""Which channels a suspect can be tested in, and that nothing that gathers residuals knows a sign."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import dynamarks_tf.evidence as package
from dynamarks_tf import codebook
from dynamarks_tf.evidence.collection import CHANNELS, TRANSFORMS, Collection, planned_channels
from dynamarks_tf.key import MarkKey
from dynamarks_tf.params import MarkParams

WITH_TIES = MarkParams(tie_margin=0.5)


@pytest.mark.parametrize(
    ("params", "num_classes", "logged", "labels", "tested"),
    [
        (MarkParams(), 10, False, False, {"class"}),
        (MarkParams(), 10, True, False, {"class", "amplitude"}),
        (WITH_TIES, 10, True, False, {"class", "amplitude", "tie"}),
        (WITH_TIES, 10, False, False, {"class"}),
        (WITH_TIES, 10, True, True, {"tie"}),
        (WITH_TIES, 2, True, False, {"amplitude", "tie"}),
        (MarkParams(), 10, True, True, set()),
        (MarkParams(), 2, False, False, set()),
        (MarkParams(amplitudes=False, tie_margin=0.1), 10, True, False, {"class", "tie"}),
    ],
)
def test_channels_that_can_be_tested_and_reasons_for_the_others(params, num_classes, logged, labels, tested):
    found = planned_channels(params, num_classes, logged=logged, labels=labels)
    assert tuple(found) == CHANNELS == tuple(TRANSFORMS)
    assert {channel for channel, reason in found.items() if reason is None} == tested
    assert all(len(reason) > 20 for reason in found.values() if reason is not None)


def test_labels_are_seen_from_the_answers_whatever_their_form():
    book = codebook.expand(MarkKey(bytes(32), "x"), 10, WITH_TIES)
    rng = np.random.default_rng(0)
    clean = rng.dirichlet(np.ones(10), 50)
    forms = {"labels": clean.argmax(axis=1), "one-hot": np.eye(10)[clean.argmax(axis=1)], "soft": clean}
    for name, suspect in forms.items():
        collection = Collection(CHANNELS, book.bucketing, WITH_TIES)
        collection.add(clean, suspect)
        assert collection.labels_only == (name != "soft")
        assert set(collection.residuals()) == ({"tie"} if name != "soft" else set(CHANNELS))
        assert collection.fidelity == 1
        assert collection.num_queries == 50


def test_nothing_that_gathers_residuals_takes_a_sign_or_a_key():
    checked = 0
    for name in ("residuals", "class_code", "amplitude_code", "tie_code", "collection"):
        assert name in [info.name for info in pkgutil.iter_modules(package.__path__)]
        module = importlib.import_module(f"dynamarks_tf.evidence.{name}")
        for value in vars(module).values():
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__:
                methods = (
                    [m for _, m in inspect.getmembers(value, inspect.isfunction)] if inspect.isclass(value) else []
                )
                for function in (value, *methods):
                    for parameter in inspect.signature(function).parameters:
                        checked += 1
                        assert not {"sign", "signs", "coin", "coins", "key", "book"} & set(parameter.split("_"))
    assert checked > 50
