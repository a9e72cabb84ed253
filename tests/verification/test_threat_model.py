"""Forgers at work: each plays what docs/accusers.md describes, on real images, and fails to win."""

import dataclasses
import hashlib
import json

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.errors import BundleError, CommitmentError
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.class_channel import ClassChannelTable
from dynamarks_tf.evidence.exact_tail import log10_tail, on_lattice
from dynamarks_tf.keys import commitment
from dynamarks_tf.watermark import codebook, marking
from dynamarks_tf.watermark.model_digest import model_sha256
from tests.helpers import verifying
from tests.helpers.bundles import rewritten, state_the_largest_statistic

SETTINGS = dm.MarkParams(budget=0.1)


@pytest.fixture(scope="module")
def independent_residuals(digits, owner_model, unmarked_surrogate):
    """The class channel's table of an independent model suspect. For ten classes it is the same for every key."""
    keyed_hash = codebook.expand(dm.MarkKey(bytes(32), "o"), 10, SETTINGS).keyed_hash
    table = ClassChannelTable(keyed_hash, (10, 10), SETTINGS.budget)
    clean, suspect = (model.predict(digits.x_test, verbose=0) for model in (owner_model, unmarked_surrogate))
    table.add(Batch(clean, suspect))
    return on_lattice(table.residuals().values)[0]


def test_a_forger_with_a_free_choice_of_tables_has_no_key_that_gives_them(
    digits, owner_model, unmarked_surrogate, independent_residuals, key, tmp_path
):
    """With every sign set to that of its residual, the statistic is the largest possible; no key gives it."""
    fitted = np.sign(independent_residuals)
    assert log10_tail(independent_residuals, int((fitted * independent_residuals).sum())) < -20
    path = tmp_path / "honest.zip"
    verifying.verify(
        unmarked_surrogate, owner=owner_model, key=key, queries=digits.x_test, params=SETTINGS, bundle=path
    )

    rewritten(path, tmp_path / "forged.zip", key, state_the_largest_statistic)
    with pytest.raises(BundleError, match="T of the class channel is stated as"):
        recheck.recheck(tmp_path / "forged.zip", key=key)
    assert "can be checked with the key only" in recheck.recheck(tmp_path / "forged.zip").steps[-1]


def test_a_forger_who_grinds_100_000_keys_finds_no_detection(independent_residuals):
    """The best of n keys has p <= a with a chance of at most n a: 10 % here for a = 1e-6; the keys are fixed. Against
    longer grinds stands the commitment, made before the suspect appeared, or a threshold below any grind (2^-80)."""
    best = 0
    for number in range(100_000):
        signs = codebook.signs(dm.MarkKey(number.to_bytes(32, "big"), "Forger"), "class-code/signs", 10, 10)
        best = max(best, int((signs * independent_residuals).sum()))
    assert -6 < log10_tail(independent_residuals, best) < -2


def test_whoever_marks_after_the_fact_finds_nothing(digits, owner_model, unmarked_surrogate):
    """A model that was released before the key was made does not know it."""
    late = dm.MarkKey(bytes(range(200, 232)), "Latecomer")
    marked = dm.mark(owner_model, late, budget=0.1)
    assert not verifying.verify(unmarked_surrogate, owner=marked, key=late, queries=digits.x_test).detected()


def test_no_doctored_owner_model_makes_independent_models_look_stolen(digits, owner_model, unmarked_surrogate):
    """Before committing, the owner lowers the classes whose signs are +1, up to e^3 times: 20 keys, 1,000 fresh inputs.

    With signs that do not depend on the model, every independent model looks stolen. With the key bound to the doctored
    model, its signs are others. A share above a + 4.3 standard errors has a chance of less than 1e-5 for each a.
    """
    rng = np.random.default_rng(0)
    inputs = np.concatenate([digits.x_test, digits.x_train])[:1000] + rng.uniform(0, 0.3, (1000, 8, 8, 1))
    clean, suspect = (model.predict(inputs, verbose=0) for model in (owner_model, unmarked_surrogate))
    best, bound, unbound = clean.argmax(axis=1), [], []
    for number in range(20):
        key = dm.MarkKey(number.to_bytes(32, "big"), "Accuser")
        aimed_at = codebook.expand(key, 10, SETTINGS)
        for delta in (0.5, 1.0, 2.0, 3.0):
            tilt = np.exp(-delta * aimed_at.class_signs[best].astype(float))
            tilt[np.arange(1000), best] = 1
            doctored = clean * tilt
            doctored[np.arange(1000), best] = np.maximum(doctored[np.arange(1000), best], doctored.max(axis=1))
            doctored /= doctored.sum(axis=1, keepdims=True)
            digest = hashlib.sha256(f"{number} {delta}".encode()).hexdigest()  # of a model that answers so
            for signs, found in ((codebook.expand(key.bind(digest), 10, SETTINGS), bound), (aimed_at, unbound)):
                table = ClassChannelTable(signs.keyed_hash, (10, 10), SETTINGS.budget)
                table.add(Batch(doctored, suspect))
                steps, _ = on_lattice(table.residuals().values)
                found.append(log10_tail(steps, int((signs.class_signs * steps).sum())))
    for a in (0.1, 0.01, 0.001):
        assert np.mean(np.array(bound) <= np.log10(a)) <= a + 4.3 * np.sqrt(a * (1 - a) / 20)  # 20 keys are independent
    assert np.median(unbound) < -6  # so this test can fail


def test_an_owner_model_that_was_doctored_to_fit_the_key_is_not_the_one_committed_to(
    digits, owner_model, unmarked_surrogate, key, tmp_path
):
    """Clean answers that are low where the signs are positive would detect any model. But the signs are drawn anew for
    the doctored model, since the key is bound to it; and the statement names the file."""
    verifying.marked_with(owner_model, key, SETTINGS).save(tmp_path / "owner.keras")
    statement = commitment.commit(key, model=tmp_path / "owner.keras")
    signs = codebook.expand(key.bind(model_sha256(owner_model)), 10, SETTINGS).class_signs.astype(np.float32)
    inputs = keras.Input((8, 8, 1))
    p = owner_model(inputs)
    tilt = keras.layers.Dense(10, use_bias=False, trainable=False)
    shifted = keras.layers.Lambda(lambda pair: keras.ops.softmax(keras.ops.log(pair[0] + 1e-9) - pair[1]))
    doctored = keras.Model(inputs, shifted([p, tilt(p)]))
    tilt.set_weights([3 * signs * (1 - np.eye(10, dtype=np.float32))])
    doctored = verifying.marked_with(doctored, key, SETTINGS)
    options = {"key": key, "queries": digits.x_test}
    assert verifying.verify(unmarked_surrogate, owner=doctored, **options).log10_p > -3
    committed = {"statement": statement, "bundle": tmp_path / "bundle.zip", **options}
    with pytest.raises(CommitmentError, match="a model in memory was given"):
        verifying.verify(unmarked_surrogate, owner=doctored, **committed)
    doctored.save(tmp_path / "doctored.keras")
    with pytest.raises(CommitmentError, match="Use the file that was committed to"):
        verifying.verify(unmarked_surrogate, owner=tmp_path / "doctored.keras", **committed)
    honest = verifying.verify(unmarked_surrogate, owner=tmp_path / "owner.keras", **committed)
    assert not honest.detected()
    assert "this key and this model file" in " ".join(recheck.recheck(tmp_path / "bundle.zip", key=key).steps)


def test_somebody_elses_evidence_cannot_be_replayed_as_ones_own(digits, owner_model, surrogate, key, tmp_path):
    """The plan holds the commitment, which holds the owner's name; only its key opens it."""
    path, replayed = tmp_path / "bundle.zip", tmp_path / "replayed.zip"
    verifying.verify(surrogate, owner=owner_model, key=key, queries=digits.x_test, params=SETTINGS, bundle=path)
    bob = dm.MarkKey(bytes(range(100, 132)), "Bob")

    def rename(members):
        content = json.loads(members[bundles.EVIDENCE])
        members[bundles.EVIDENCE] = json.dumps({**content, "owner": "Bob"}).encode()
        statement = dataclasses.replace(commitment.commit(bob), commitment=key.commitment, key_id=key.key_id)
        unsigned = commitment._signed_bytes(statement)
        statement = dataclasses.replace(statement, signature=commitment.sign(unsigned, bob))
        members[bundles.STATEMENT] = json.dumps(statement.to_dict()).encode()

    rewritten(path, replayed, bob, rename)
    with pytest.raises(BundleError, match="plan and manifest name different commitments"):
        recheck.recheck(replayed)
    replayed.unlink()
    rewritten(path, replayed, bob, rename, claims=key.commitment)
    assert not recheck.recheck(replayed).with_key  # the numbers hold, whoever they belong to: hence the key decides
    with pytest.raises(CommitmentError, match="Use the key that was committed to"):
        recheck.recheck(replayed, key=bob)
    with pytest.raises(BundleError, match="signed with another key than the one given"):
        recheck.recheck(replayed, key=key)


def test_of_two_claimants_the_attacker_is_marked_by_both_and_the_owner_by_none(digits, owner_model, surrogate, key):
    """The attacker marks a stolen model with a key of their own, and accuses the owner."""
    attackers_key = dm.MarkKey(bytes(range(50, 82)), "Attacker")
    attackers_model = dm.mark(surrogate, attackers_key, budget=0.01)
    by_owner = verifying.verify(attackers_model, owner=owner_model, key=key, queries=digits.x_test, params=SETTINGS)
    assert by_owner.detected(alpha=1e-3)  # the attacker's own mark hides part of the owner's
    by_attacker = verifying.verify(owner_model, owner=attackers_model, key=attackers_key, queries=digits.x_test)
    assert by_attacker.log10_p > -2
    assert marking.find_mark(attackers_model).was_made_with(attackers_key)
