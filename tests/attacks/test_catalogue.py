"""Every attack of the catalogue keeps the contract: transfer sets, suspects that answer probabilities."""

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.attacker import Attacker, TransferSet
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS, applicable, by_name
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.suspects import as_suspect


@pytest.fixture(scope="module")
def attacker(digits, owner_model):
    def api(inputs):
        return np.asarray(owner_model(inputs))

    def pilot(inputs, targets):
        return train_classifier(ARCHITECTURES["mlp"]((8, 8, 1), 10), inputs, targets, epochs=2, batch_size=32)

    enough = np.concatenate([digits.x_train] * 4)  # some extractions send 5,000 inputs
    return Attacker(
        api,
        enough,
        (digits.x_test[:50], digits.y_test[:50]),
        pilot,
        other_domain=np.random.default_rng(0).random((40, 8, 8, 1)).astype(np.float32),
        rival=lambda inputs: np.roll(api(inputs), 1, axis=1),
        second_client=api,
        epochs=1,
        batch_size=64,
    )


def test_the_documentation_counts_the_catalogue():
    counts = [len(EXTRACTIONS), *(len(applicable(EXTRACTIONS, kind)) for kind in ("images", "vectors", "text"))]
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    found = re.search(
        r"lists (\d+) thefts \((\d+) for images, (\d+) for vectors, (\d+) for text\) and (\d+) removal attacks",
        page,
    )
    assert [int(number) for number in found.groups()] == [*counts, len(REMOVALS) - 1]


def test_the_catalogue_is_large():
    assert len(EXTRACTIONS) >= 20
    assert len(REMOVALS) >= 20
    assert len(ARCHITECTURES) >= 5


@pytest.mark.parametrize("name", applicable(EXTRACTIONS, "images"))
def test_extractions_give_a_transfer_set_to_train_on(name, attacker):
    enough = attacker.pool[: max(400, EXTRACTIONS[name].num_queries)]
    transfer_set = EXTRACTIONS[name].gather(dataclasses.replace(attacker, pool=enough))
    assert len(transfer_set.inputs) == len(transfer_set.targets) > 0
    assert transfer_set.inputs.shape[1:] == transfer_set.sent.shape[1:] == (8, 8, 1)
    if transfer_set.targets.ndim == 1:
        assert set(np.unique(transfer_set.targets)) <= set(range(10))
    else:
        np.testing.assert_allclose(transfer_set.targets.sum(axis=1), 1, atol=1e-4)
    assert EXTRACTIONS[name].description


@pytest.mark.parametrize("name", REMOVALS)
def test_removals_give_a_suspect_and_do_not_change_the_surrogate(name, attacker):
    surrogate = ARCHITECTURES["mlp"]((8, 8, 1), 10)
    before = surrogate.get_weights()
    transfer_set = TransferSet(attacker.pool, attacker.answers, attacker.pool)
    suspect = as_suspect(REMOVALS[name].apply(surrogate, transfer_set, attacker))
    answered = suspect.predict(attacker.pool[:30])
    assert answered.shape == (30, 10)
    np.testing.assert_allclose(answered.sum(axis=1), 1, atol=0.05)  # some are rounded to two decimals
    for old, new in zip(before, surrogate.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert REMOVALS[name].description


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_architectures_take_images_of_any_size(name, shape):
    model = ARCHITECTURES[name](shape, 7)
    answered = np.asarray(model(np.zeros((2, *shape), np.float32)))
    assert answered.shape == (2, 7)
    np.testing.assert_allclose(answered.sum(axis=1), 1, atol=1e-5)
    keras.models.clone_model(model)  # removal attacks work on copies


def test_extractions_that_send_more_than_the_pool_holds_are_refused(attacker):
    poor = dataclasses.replace(attacker, pool=attacker.pool[:100])
    with pytest.raises(ArgumentError, match="would send 1,000 inputs and has 100. Leave this extraction out"):
        EXTRACTIONS["1,000 queries"].gather(poor)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ArgumentError, match="no removal attack called 'prayer'. There are: none; fine-tune all;"):
        by_name(REMOVALS, "prayer", "removal attack")
