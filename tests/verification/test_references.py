"""Reference models: from `verify` to the bundle and back, what is refused, and how the command line takes them."""

import json

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case import transcript_chain as chains
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.reference_check import ReferenceCheck
from dynamarks_tf.case.transcript import TranscriptBatch
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError, BundleError, FormatError, ModelError
from dynamarks_tf.report.content import bundle_report
from dynamarks_tf.report.page import bundle_page
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark.model_digest import model_sha256
from tests.helpers import small_classifier
from tests.helpers.bundles import rechain, rewritten

SMALL = dm.SuspectOptions(batch_size=50)


@pytest.fixture(scope="module")
def references(digits):
    """Two models of the owner, of other seeds, trained on the owner's half of the data."""
    half, models = len(digits.x_train) // 2, []
    for seed in (5, 6):
        model = small_classifier(seed=seed)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(digits.x_train[:half], digits.y_train[:half], epochs=4, batch_size=64, verbose=0)
        models.append(model)
    return models


@pytest.fixture(scope="module")
def owner(marked_model, key):
    return resolve_owner(marked_model, key)


@pytest.fixture(scope="module")
def tested(owner, key, digits, surrogate, references, tmp_path_factory):
    """A test of logged and fresh queries with two references: its result and its bundle."""
    path = tmp_path_factory.mktemp("bundle") / "bundle.zip"
    half = len(digits.x_train) // 2
    result = dm.verify(
        surrogate,
        owner=owner,
        key=key,
        queries=digits.x_train[half : half + 100],
        logged=True,
        fresh=digits.x_test[:100],
        reference=references,
        suspect_options=SMALL,
        bundle=path,
    )
    return result, path


def test_the_plan_names_the_references_and_check_and_report_say_how_many(tested, references, key):
    result, path = tested
    assert result.plan.references == tuple(map(model_sha256, references))
    assert TestPlan.from_dict(json.loads(json.dumps(result.plan.to_dict())), "plan") == result.plan
    for given in (None, key):
        checked = recheck.recheck(path, key=given)
        assert checked.evidence == result
        told = " ".join(checked.steps)
        assert "follow from the recorded answers of suspect, clean owner model and 2 reference models" in told
        assert "That the reference models were never marked" in " ".join(checked.caveats)
    page = bundle_page(bundle_report(checked, num_decoys=20))
    assert "judged by the owner’s clean model and 2 other models of the owner that never were marked" in page


def test_references_change_the_evidence_and_none_are_as_before(tested, owner, key, digits, surrogate, references):
    options = {"owner": owner, "key": key, "queries": digits.x_test[:100]}
    plain, empty, one = (dm.verify(surrogate, reference=given, **options) for given in ((), [], references[0]))
    assert plain.plan == empty.plan
    assert plain.channels == empty.channels
    assert len(one.plan.references) == 1
    assert one.plan.digest != plain.plan.digest
    assert one.channels[0].statistic != plain.channels[0].statistic


def test_references_keep_their_order_of_classes_where_that_of_the_suspect_is_found(
    owner, key, digits, surrogate, references
):
    options = {"owner": owner, "key": key, "queries": digits.x_test[:100], "reference": references}
    aligned = dm.verify(
        lambda batch: np.roll(np.asarray(surrogate(batch)), 3, axis=1),
        suspect_options=dm.SuspectOptions(align_classes=True, batch_size=50),
        **options,
    )
    plain = dm.verify(surrogate, **options)
    assert aligned.log10_p == pytest.approx(plain.log10_p, abs=0.1)


def _changed(change, key):
    """Changes the recorded answers of the second batch, and chains the records anew."""

    def changing(members):
        name = chains.batch_names(1)[0]
        batch = TranscriptBatch.from_bytes(members[name])
        members[name] = TranscriptBatch(batch.clean, batch.suspect, None, change(batch.references)).to_bytes()
        rechain(members, key)

    return changing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: np.roll(found, 1, axis=-1), "does not follow from the answers"),
        (lambda found: None, "the answers of 2 reference models are missing"),
        (lambda found: found[..., :1, :], r"answers of 2 reference models are float32 of shape \(50, 1, 10\)"),
        (lambda found: found * np.nan, "the reference models are no probabilities"),
    ],
)
def test_a_doctored_reference_answer_is_found(tested, key, tmp_path, change, message):
    rewritten(tested[1], tmp_path / "forged.zip", key, _changed(change, key))
    for given in (None, key):
        with pytest.raises(BundleError, match=message):
            recheck.recheck(tmp_path / "forged.zip", key=given)


def test_plans_with_impossible_references_are_refused(tested):
    plan = tested[0].plan.to_dict()
    for references in (["0" * 64] * 2, [plan["owner_model_sha256"]], ["x"], [f"{n:064x}" for n in range(9)], "0" * 64):
        with pytest.raises(FormatError, match="damaged"):
            TestPlan.from_dict({**plan, "references": references}, "plan.json")


def test_a_sequential_test_takes_references_and_is_extended_with_the_same_alone(
    owner, key, digits, surrogate, references, tmp_path
):
    options = {"owner": owner, "key": key, "sequential": True, "suspect_options": SMALL, "alpha": 1e-300}
    paths = tmp_path / "first.zip", tmp_path / "second.zip"
    dm.verify(surrogate, queries=digits.x_test[:100], reference=references, bundle=paths[0], **options)
    more = dm.BundleOptions(paths[1], extends=paths[0])
    with pytest.raises(ArgumentError, match="has references .* Repeat its settings"):
        dm.verify(surrogate, queries=digits.x_test[:150], reference=references[:1], bundle=more, **options)
    result = dm.verify(surrogate, queries=digits.x_test[:150], reference=references, bundle=more, **options)
    assert recheck.recheck(paths[1], key=key).evidence == result


def _of_shape(inputs, units, activation="softmax"):
    model_input = keras.Input(inputs)
    flat = keras.layers.Flatten()(model_input)
    return keras.Model(model_input, keras.layers.Dense(units, activation=activation)(flat))


def test_what_is_no_reference_is_refused_before_the_suspect_is_asked(owner, marked_model, owner_model, key, references):
    cases = [
        (5, ArgumentError, "must be a list of Keras models or paths"),
        ([np.zeros(3)], ArgumentError, "Received: ndarray"),
        ([references[0]] * 9, ArgumentError, "takes at most 8 models"),
        ([marked_model], ModelError, "carries a DynaMarkLayer. A reference must never have been marked"),
        ([owner_model], ModelError, "has the weights of the clean owner model"),
        ([references[0], references[0]], ModelError, "has the weights of reference model 1"),
        ([_of_shape((9, 8, 1), 10)], ModelError, r"takes float32 of shape \(9, 8, 1\), the owner model"),
        ([_of_shape((8, 8, 1), 11)], ModelError, "softmax over 11 outputs, the owner model with a softmax over 10"),
        ([_of_shape((8, 8, 1), 10, "sigmoid")], ModelError, "does not tell|sigmoid over 10 outputs"),
        ([_of_shape((8, 8, 1), 10, None)], ModelError, "does not tell what its outputs are. Let it end in a softmax"),
        (["missing.keras"], ModelError, "There is no Keras model file missing.keras"),
    ]
    for given, error, message in cases:
        with pytest.raises(error, match=message):
            dm.verify(_never_asked, owner=owner, key=key, queries=np.zeros((20, 8, 8, 1)), reference=given)


def _never_asked(batch):
    raise AssertionError


def test_a_reference_that_learned_from_marked_answers_is_seen_with_the_key(
    owner, key, digits, unmarked_surrogate, surrogate, tmp_path, monkeypatch
):
    """`verify` gives no result. A bundle whose maker left that check out fails with the key."""
    options = {"owner": owner, "key": key, "queries": digits.x_test[:200], "reference": [surrogate]}
    with pytest.raises(ModelError, match="reference model 1 follow the secret signs of the key.* Leave it out"):
        dm.verify(unmarked_surrogate, **options)
    monkeypatch.setattr(ReferenceCheck, "following", lambda self: None)
    dm.verify(unmarked_surrogate, bundle=tmp_path / "bundle.zip", **options)
    monkeypatch.undo()
    recheck.recheck(tmp_path / "bundle.zip")
    with pytest.raises(BundleError, match="reference model 1 follow the secret signs"):
        recheck.recheck(tmp_path / "bundle.zip", key=key)


def test_sigmoids_take_references_too(key):
    models = [_of_shape((4,), 3, "sigmoid") for _ in range(3)]
    x = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
    options = {"owner": dm.mark(models[0], key), "key": key, "queries": x, "logged": True}
    result = dm.verify(models[1], reference=models[2:], **options)
    assert len(result.plan.references) == 1
    assert result.log10_p > -3


def test_the_command_line_takes_references_one_after_the_other(tmp_path, digits, marked_model, references, key, capsys):
    for name, model in (("marked", marked_model), ("one", references[0]), ("two", references[1])):
        model.save(tmp_path / f"{name}.keras")
    np.save(tmp_path / "x.npy", digits.x_test[:60])
    key.save(tmp_path / "acme.key")
    words = ["verify", tmp_path / "one.keras", "--owner", tmp_path / "marked.keras", "--key", tmp_path / "acme.key"]
    words += ["--queries", tmp_path / "x.npy"]
    for name in ("one", "two"):
        words += ["--reference", tmp_path / f"{name}.keras"]
    assert main([str(word) for word in words]) == 1
    assert "references  2 of the owner's models" in capsys.readouterr().out
    assert main([*map(str, words), "--reference", str(tmp_path / "marked.keras")]) == 2
    assert "Reference model 3 ('classifier" in (told := capsys.readouterr().err)
    assert "before dm.mark" in told
