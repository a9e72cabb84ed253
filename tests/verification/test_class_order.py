"""A suspect whose classes come in another order: a warning without the option, full evidence with it, and no more."""

import json

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, BundleError, SuspectError
from tests.helpers import small_classifier, verifying
from tests.helpers.bundles import rewritten

ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]  # column j of the suspect is the owner's class ORDER[j]
SETTINGS = dm.MarkParams(budget=0.1, tie_margin=0.5)


@pytest.fixture(scope="module")
def asked(digits, surrogate):
    queries = digits.x_test[:300]
    return queries, np.asarray(surrogate.predict(queries, verbose=0))


@pytest.fixture
def verify(asked, marked_model, key):
    def verify(change, **options):
        queries, answers = asked
        rows = {query.tobytes(): row for query, row in zip(queries, change(answers), strict=True)}
        suspect = lambda batch: np.array([rows[query.tobytes()] for query in batch])  # noqa: E731
        return verifying.verify(suspect, **{"owner": marked_model, "key": key, "queries": queries, **options})

    return verify


@pytest.fixture
def labels(owner_model, key):
    """Options for a suspect that answers labels: the tie channel needs ties, and logged queries."""
    return {"owner": verifying.marked_with(owner_model, key, SETTINGS), "logged": True, "suspect_labels": True}


@pytest.fixture
def expected(verify):
    return verify(lambda answers: answers)


def with_background(answers):
    surplus = answers.max(axis=1, keepdims=True) * 0.2
    return np.concatenate([surplus, answers[:, ORDER] * (1 - surplus)], axis=1)


def test_the_order_is_warned_of_and_found_when_asked_for(verify, expected):
    assert (expected.warnings, expected.class_order) == ((), None)
    plain = verify(lambda answers: answers[:, ORDER])
    assert not plain.detected()
    (warning,) = plain.warnings
    assert "in another order than the owner's" in warning
    assert "--align-classes" in warning
    found = verify(lambda answers: answers[:, ORDER], align_classes=True)
    assert found.warnings == ()
    assert found.class_order == tuple(np.argsort(ORDER).tolist())
    assert found.log10_p == pytest.approx(expected.log10_p, abs=1e-6)
    assert found.detected()
    assert found.plan.align_classes


def test_nothing_changes_for_a_suspect_in_the_owners_order(verify, expected):
    found = verify(lambda answers: answers, align_classes=True)
    assert found.class_order == tuple(range(10))
    assert found.log10_p == pytest.approx(expected.log10_p, abs=1e-6)


def test_extra_and_missing_classes(verify, expected):
    surplus = verify(with_background, align_classes=True)
    assert surplus.class_order == tuple((np.argsort(ORDER) + 1).tolist())
    assert surplus.log10_p == pytest.approx(expected.log10_p, rel=1e-3)
    kept = [2, 9, 7, 4, 5, 6, 3, 8]
    subset = verify(lambda a: a[:, kept] / a[:, kept].sum(axis=1, keepdims=True), align_classes=True)
    assert subset.class_order == tuple(kept.index(number) if number in kept else -1 for number in range(10))
    assert 0.6 < subset.fidelity < 0.9
    with pytest.raises(SuspectError, match="answers 11 classes, the owner model 10.*--align-classes"):
        verify(with_background)


@pytest.mark.parametrize(
    "number", [lambda best: best + 1, lambda best: np.argsort(ORDER)[best], lambda best: best * 1000]
)
def test_labels_of_other_numbers(verify, labels, number):
    expected = verify(lambda answers: answers.argmax(axis=1), **labels)
    plain = verify(lambda answers: number(answers.argmax(axis=1)), **labels)
    assert plain.warnings
    found = verify(lambda answers: number(answers.argmax(axis=1)), align_classes=True, **labels)
    assert (found.log10_p, found.fidelity, found.warnings) == (expected.log10_p, expected.fidelity, ())
    assert found.class_order == tuple(int(number(np.array(i))) for i in range(10))


def test_an_independent_model_stays_undetected_under_every_key(verify, digits, asked, owner_model):
    independent = small_classifier(seed=7)
    independent.compile("adam", "sparse_categorical_crossentropy")
    independent.fit(digits.x_train[-600:], digits.y_train[-600:], epochs=5, verbose=0)
    given = np.asarray(independent.predict(asked[0], verbose=0))[:, ORDER]
    keys = [dm.MarkKey(bytes([number] * 32), "ACME Vision") for number in range(8)]
    found = [
        verify(
            lambda _: given,
            owner=verifying.marked_with(owner_model, key, SETTINGS),
            key=key,
            logged=True,
            align_classes=True,
        )
        for key in keys
    ]
    assert {result.class_order for result in found} == {tuple(np.argsort(ORDER).tolist())}
    assert min(result.log10_p for result in found) > -2.5
    assert np.median([result.log10_p for result in found]) > -0.5


@pytest.mark.parametrize("change", [lambda answers: answers[:, ORDER], with_background, lambda a: a.argmax(axis=1) + 1])
def test_a_bundle_holds_raw_answers_and_its_recheck_finds_the_same_order(verify, labels, key, tmp_path, change):
    path = tmp_path / "bundle.zip"
    found = verify(change, bundle=path, align_classes=True, logged=True, owner=labels["owner"])
    checked = recheck.recheck(path, key=key)
    assert checked.evidence == found
    owners, suspects = checked.case.best_classes
    assert (owners == suspects).mean() == pytest.approx(found.fidelity)

    def claim(members):
        evidence = json.loads(members[bundles.EVIDENCE])
        evidence["class_order"] = [*range(10)]
        members[bundles.EVIDENCE] = json.dumps(evidence).encode()

    rewritten(path, tmp_path / "other.zip", key, claim)
    with pytest.raises(BundleError, match="class_order is stated as"):
        recheck.recheck(tmp_path / "other.zip")


def test_warnings_are_printed_and_cannot_be_dropped_from_a_bundle(verify, asked, marked_model, key, tmp_path, capsys):
    path = tmp_path / "bundle.zip"
    verify(lambda answers: answers[:, ORDER], bundle=path)
    assert main(["check", str(path)]) == 0
    assert "warning: The suspect's classes seem to be in another order" in capsys.readouterr().out
    marked_model.save(tmp_path / "owner.keras")
    key.save(tmp_path / "acme.key")
    np.save(tmp_path / "x.npy", asked[0])
    np.savez(tmp_path / "answers.npz", answers=asked[1][:, ORDER])
    command = ["verify", str(tmp_path / "answers.npz"), "--owner", str(tmp_path / "owner.keras")]
    command += ["--key", str(tmp_path / "acme.key"), "--queries", str(tmp_path / "x.npy")]
    assert main(command) == 1
    assert "  warning     The suspect's classes seem to be in another order" in capsys.readouterr().out
    assert main([*command, "--align-classes"]) == 0
    assert "found from the answers: 8 of 10 moved, 0 missing" in capsys.readouterr().out

    def silence(members):
        evidence = json.loads(members[bundles.EVIDENCE])
        evidence["warnings"] = []
        members[bundles.EVIDENCE] = json.dumps(evidence).encode()

    rewritten(path, tmp_path / "other.zip", key, silence)
    with pytest.raises(BundleError, match="warnings is stated as"):
        recheck.recheck(tmp_path / "other.zip")


def test_agreement_by_chance_and_labels_of_no_class_are_warned_of(verify, labels):
    random = np.random.default_rng(3)
    (warning,) = verify(lambda answers: random.permutation(answers)).warnings
    assert "chance alone gives" in warning
    (warning,) = verify(
        lambda answers: np.where(answers.argmax(axis=1) == 9, 12, answers.argmax(axis=1)), **labels
    ).warnings
    assert "labels (" in warning
    assert "name no class of the owner" in warning


def test_an_owner_that_answers_everything_alike_is_warned_of(verify, key, digits):
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    owner = keras.Model(inputs, keras.layers.Dense(10, "softmax", kernel_initializer="zeros")(flat))
    result = verify(lambda answers: answers, owner=dm.mark(owner, key), key=key)
    assert any("answers all queries nearly alike" in warning for warning in result.warnings)


def test_sigmoids_have_no_order_to_find(verify, key):
    inputs = keras.Input((8, 8, 1))
    owner = keras.Model(inputs, keras.layers.Dense(3, "sigmoid")(keras.layers.Flatten()(inputs)))
    with pytest.raises(ArgumentError, match="--align-classes.*sigmoids"):
        verify(lambda answers: answers[:, :3], owner=dm.mark(owner, key), key=key, logged=True, align_classes=True)
