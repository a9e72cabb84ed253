"""`dynamarks audit` of models of vectors and of text: the surrogates are detected, what makes no sense is refused."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy

from dynamarks_tf.attacks import architectures, query_sets, trees
from dynamarks_tf.attacks.attacker import Attacker
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS, applicable
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.audit import crossed, run_audit
from dynamarks_tf.audit.scenario import check_feasible, full, quick
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.watermark.params import MarkParams

PACKAGES = ("cluster", "integrate", "linalg", "optimize", "signal", "special", "sparse", "stats")  # of SciPy
CLASSES = len(PACKAGES)
FEATURES = 6


@pytest.fixture(scope="module")
def vectors():
    """Made-up clouds around a center for each class, in columns of very different scale."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 1600)
    x = rng.normal(0, 1.2, (1600, FEATURES)) + rng.normal(0, 1, (CLASSES, FEATURES))[labels]
    x = (x * [1, 10, 1000, 0.01, 1, 5]).astype(np.float32)
    return ImageData("clouds", "a test", x[:1200], labels[:1200], x[1200:], labels[1200:])


@pytest.fixture(scope="module")
def texts():
    """Sentences from the documentation in SciPy's code: real text, whose classes are its packages and overlap."""
    found = {}
    for label, package in enumerate(PACKAGES):
        for file in sorted((Path(scipy.__file__).parent / package).glob("*.py")):
            for documentation in re.findall(r'"""(.*?)"""', file.read_text(encoding="utf-8"), re.DOTALL):
                for sentence in re.findall(r"[A-Z][a-z ,\n]+[a-z]\.", documentation):
                    if 5 <= len(sentence.split()) <= 16:
                        found.setdefault(" ".join(sentence.split()).encode(), label)
    x, labels = np.array(list(found), object), np.array(list(found.values()))
    chosen = np.random.default_rng(0).permutation(len(x))[:2400]
    x, labels = x[chosen], labels[chosen]
    return ImageData("sentences", "SciPy", x[:1200], labels[:1200], x[1200:], labels[1200:])


def _owner(data, architecture, epochs):
    keras.utils.set_random_seed(5)
    model = architectures.new_model(architecture, data.x_test, CLASSES)
    return train_classifier(model, data.x_test, data.y_test, epochs=epochs, batch_size=32)


@pytest.fixture(scope="module")
def vector_owner(vectors):
    return _owner(vectors, "table_mlp", 15)


@pytest.fixture(scope="module")
def text_owner(texts):
    return _owner(texts, "embedding_pooling", 8)


def _attacker(data, owner):
    predict = as_suspect(owner).predict
    return Attacker(
        predict,
        np.concatenate([data.x_train[:100]] * 50),  # some extractions send 5,000 inputs
        (data.x_test[:40], data.y_test[:40]),
        pilot=lambda inputs, targets: train_classifier(
            architectures.new_model(architectures.MAIN[data.kind], inputs, CLASSES), inputs, targets, epochs=1
        ),
        other_domain=data.x_test[:50],
        rival=lambda inputs: np.roll(predict(inputs), 1, axis=1),
        epochs=1,
    )


def _rows(data, owner, folder, architectures, epochs, budget=0.05):
    scenarios = [
        *crossed(["full"], ["none"], architectures, [MarkParams(budget)]),
        *crossed(["true labels"], ["none"], architectures[:1], [MarkParams(budget)]),
    ]
    lines = []
    result = run_audit(owner, data, folder, scenarios=scenarios, epochs=epochs, say=lines.append)
    rows = {(row["kind"], row.get("architecture")): row for row in result.rows}
    return rows, lines, (folder / "report.md").read_text()


def test_surrogates_of_vectors_are_detected_networks_and_trees(vectors, vector_owner, tmp_path):
    pytest.importorskip("sklearn")
    rows, lines, _ = _rows(vectors, vector_owner, tmp_path, ["table_mlp", "random_forest"], 40)
    assert "1,500 training and 500 test vectors of 6, 8 classes" in lines[0]
    for name in ("table_mlp", "random_forest"):
        assert rows["theft", name]["findings"]["logged"]["log10_p"] < -6, name
        assert rows["theft", name]["fidelity"] > 0.6
    assert all(found["log10_p"] > -3 for found in rows["independent", "table_mlp"]["findings"].values())


def test_surrogates_of_text_are_detected(texts, text_owner, tmp_path):
    rows, lines, report = _rows(texts, text_owner, tmp_path, ["embedding_pooling"], 100, budget=0.2)
    assert rows["theft", "embedding_pooling"]["findings"]["logged"]["log10_p"] < -6
    assert all(found["log10_p"] > -3 for found in rows["independent", "embedding_pooling"]["findings"].values())
    assert "Left out, as they make no sense for text: float16, int8." in lines[0]
    assert "Left out, as they make no sense for text: float16, int8." in report


@pytest.mark.parametrize("kind", ["vectors", "text"])
def test_every_attack_for_a_kind_keeps_the_contract(kind, request):
    data = request.getfixturevalue({"vectors": "vectors", "text": "texts"}[kind])
    owner = request.getfixturevalue({"vectors": "vector_owner", "text": "text_owner"}[kind])
    attacker = _attacker(data, owner)
    for name, extraction in applicable(EXTRACTIONS, kind).items():
        found = extraction.gather(attacker)
        assert len(found.inputs) == len(found.targets) > 0, name
        assert found.inputs.dtype == found.sent.dtype == data.x_train.dtype, name
    small = EXTRACTIONS["1,000 queries"].gather(attacker)
    for name, removal in applicable(REMOVALS, kind).items():
        if name.startswith("fine-tune") and name != "fine-tune last":
            continue  # one stands for all
        answered = as_suspect(removal.apply(owner, small, attacker)).predict(data.x_test[:9])
        assert answered.shape == (9, CLASSES), name
        np.testing.assert_allclose(answered.sum(axis=1), 1, atol=0.05, err_msg=name)


def test_boosted_trees_learn_soft_labels_and_hard_ones(vectors, vector_owner):
    pytest.importorskip("sklearn")
    x, answers = vectors.x_train[:300], as_suspect(vector_owner).predict(vectors.x_train[:300])
    for targets in (answers, answers.argmax(axis=1)):
        given = trees.boosted_trees(x, CLASSES).fit(x, targets)(x)
        np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-5)
        assert (given.argmax(axis=1) == answers.argmax(axis=1)).mean() > 0.8


def test_made_up_queries_are_other_inputs_of_the_same_parts(vectors, texts):
    rng = np.random.default_rng(0)
    x = vectors.x_train
    np.testing.assert_array_equal(np.sort(query_sets.permuted(x, rng), axis=0), np.sort(x, axis=0))
    moved = (query_sets.noised(x, rng, 0.1) - x).std(axis=0) / x.std(axis=0)
    np.testing.assert_allclose(moved, 0.1, rtol=0.2)
    mixed = query_sets.mixed(x, rng)
    assert (mixed.min(axis=0) >= x.min(axis=0)).all()
    assert (mixed.std(axis=0) < x.std(axis=0)).all()
    for change, length in ((query_sets.shuffled_words, 8), (query_sets.cropped_words, 4)):
        for before, after in zip(texts.x_train[:50], change(texts.x_train[:50], rng), strict=True):
            assert len(after.split()) == length
            assert set(after.split()) <= set(before.split())
    assert (query_sets.shuffled_words(texts.x_train, rng) != texts.x_train).mean() > 0.9


def test_selections_hold_what_makes_sense_for_the_kind(monkeypatch):
    for kind in ("vectors", "text"):
        chosen = full(available=("pool_labels",), pool_size=10_000, kind=kind)
        check_feasible(chosen, ("pool_labels",), kind)
        check_feasible(quick(kind=kind), ("pool_labels",), kind)
        assert not {"separable_cnn", "vit"} & {scenario.architecture for scenario in chosen}
    assert set(trees.TREES) <= {s.architecture for s in full(pool_size=1000, kind="vectors")}
    monkeypatch.setattr(trees, "is_installed", lambda: False)
    assert not set(trees.TREES) & {s.architecture for s in full(pool_size=1000, kind="vectors")}
    with pytest.raises(ArgumentError, match="'random_forest' takes scikit-learn: pip install"):
        check_feasible(crossed(["full"], ["none"], ["random_forest"]), (), "vectors")


@pytest.mark.parametrize(
    ("scenario", "kind", "message"),
    [
        ((["full"], ["int8"], ["embedding_cnn"]), "text", "'int8' is for images and vectors; the model takes text"),
        ((["rows mixed"], ["none"], ["embedding_cnn"]), "text", "'rows mixed' is for vectors; the model takes text"),
        ((["full"], ["none"], ["vit"]), "vectors", "'vit' is not for vectors. There are: table_mlp; random_forest"),
        ((["full"], ["prune 60 %"], ["random_forest"]), "vectors", "works on neural networks only"),
    ],
)
def test_attacks_for_other_inputs_are_refused(scenario, kind, message):
    with pytest.raises(ArgumentError, match=message):
        check_feasible(crossed(*scenario), (), kind)


def test_data_and_models_that_do_not_fit_are_refused(vectors, texts, vector_owner, tmp_path):
    with pytest.raises(ArgumentError, match=r"takes numbers \(float32\); lines holds text"):
        run_audit(vector_owner, texts, tmp_path)
    others = [(labels + 1) % CLASSES for labels in (vectors.y_train, vectors.y_test)]
    turned = ImageData("turned", "a test", vectors.x_train, others[0], vectors.x_test, others[1])
    with pytest.raises(
        ArgumentError, match="less often than a guess. Its columns or its classes seem to be in another"
    ):
        run_audit(vector_owner, turned, tmp_path)
    sigmoids = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, activation="sigmoid")])
    with pytest.raises(ArgumentError, match="this model ends in sigmoids, for which there are no attacks here"):
        run_audit(sigmoids, vectors, tmp_path)
    tokens = keras.Input((FEATURES,), dtype="int32")
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 4)(tokens))
    of_tokens = keras.Model(tokens, keras.layers.Dense(CLASSES, activation="softmax")(embedded))
    with pytest.raises(ArgumentError, match=r"takes numbers \(int32\), such as token ids"):
        run_audit(of_tokens, vectors, tmp_path)
