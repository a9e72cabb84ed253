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
from dynamarks_tf.audit.attack_runner import AttackRunner
from dynamarks_tf.audit.results import Results, read_all
from dynamarks_tf.audit.scenario import check_feasible, full, left_out, quick
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.suspects import as_suspect

PACKAGES = ("cluster", "integrate", "linalg", "optimize", "signal", "special", "sparse", "stats")  # of SciPy
CLASSES = len(PACKAGES)
FEATURES = 6


@pytest.fixture(scope="module")
def vectors():
    """Made-up clouds around a center for each class, in columns of very different scale."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 900)
    x = rng.normal(0, 1.2, (900, FEATURES)) + rng.normal(0, 1, (CLASSES, FEATURES))[labels]
    x = (x * [1, 10, 1000, 0.01, 1, 5]).astype(np.float32)
    return ImageData("clouds", "a test", x[:500], labels[:500], x[500:], labels[500:])


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
    chosen = np.random.default_rng(0).permutation(len(x))[:1500]
    x, labels = x[chosen], labels[chosen]
    return ImageData("sentences", "SciPy", x[:1000], labels[:1000], x[1000:], labels[1000:])


def _owner(data, architecture, epochs):
    keras.utils.set_random_seed(5)
    model = architectures.new_model(architecture, data.x_test, CLASSES)
    return train_classifier(model, data.x_test, data.y_test, epochs=epochs, batch_size=32)


@pytest.fixture(scope="module")
def vector_owner(vectors):
    return _owner(vectors, "table_mlp", 15)


@pytest.fixture(scope="module")
def text_owner(texts):
    return _owner(texts, "embedding_pooling", 12)


def _attacker(data, owner):
    predict = as_suspect(owner).predict
    return Attacker(predict, data.x_train[:200], (data.x_test[:40], data.y_test[:40]), pilot=_never, epochs=1)


def _never(inputs, targets):
    raise AssertionError("no attack here takes a pilot")


def _strongest(row):
    return min(finding["log10_p"] for finding in row["findings"].values())


def test_surrogates_of_text_are_detected_and_independent_models_are_not(texts, text_owner, tmp_path):
    labeled, fresh = (texts.x_test[:100], texts.y_test[:100]), (texts.x_test[100:], texts.y_test[100:])
    more = {"pool": texts.x_train, "pool_labels": texts.y_train, "labeled": labeled, "fresh": fresh, "batch_size": 32}
    results = Results(tmp_path / "results.json", {})
    for source, epochs in (("full", 10), ("true labels", 3)):
        runner = AttackRunner(text_owner, epochs=epochs, **more)
        runner.run(crossed([source], ["none"], ["embedding_pooling"]), results)
    theft, independent = (row for row in read_all([results.path]) if row["kind"] != "cost")
    assert theft["findings"]["logged"]["log10_p"] < -6
    assert _strongest(independent) > -3


def test_trees_are_detected_and_the_report_describes_the_data(vectors, vector_owner, tmp_path):
    pytest.importorskip("sklearn")
    lines = []
    scenarios = crossed(["full", "true labels"], ["none"], trees.TREES)
    result = run_audit(vector_owner, vectors, tmp_path, scenarios=scenarios, say=lines.append)
    assert "500 training and 400 test vectors of 6, 8 classes" in lines[0]
    assert lines[0] in (tmp_path / "report.md").read_text()
    thefts = [row for row in result.rows if row["kind"] == "theft"]
    assert all(row["findings"]["logged"]["log10_p"] < -6 and row["fidelity"] > 0.6 for row in thefts)
    assert all(_strongest(row) > -3 for row in result.rows if row["kind"] == "independent")
    # The six passes of images would be 24 steps, too few for a network to learn the mark.
    assert '"epochs": 100' in (tmp_path / "results-seed0.json").read_text()


def test_surrogates_of_text_take_texts_without_words(texts):
    for name, build in architectures.BY_KIND["text"].items():
        model = build(texts.x_train[:50], CLASSES)
        answers = as_suspect(model).predict(np.array([b"", b"...", b"never seen", texts.x_train[0]], object))
        np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["vectors", "text"])
def test_attacks_that_differ_by_kind_keep_the_contract(kind, request):
    data = request.getfixturevalue({"vectors": "vectors", "text": "texts"}[kind])
    owner = request.getfixturevalue({"vectors": "vector_owner", "text": "text_owner"}[kind])
    attacker = _attacker(data, owner)
    for_images = applicable(EXTRACTIONS, "images")
    extractions = {name: one for name, one in applicable(EXTRACTIONS, kind).items() if name not in for_images}
    for name, extraction in {**extractions, "5 copies averaged": EXTRACTIONS["5 copies averaged"]}.items():
        found = extraction.gather(attacker)
        assert len(found.inputs) == len(found.targets) == 200, name
        assert found.inputs.dtype == found.sent.dtype == data.x_train.dtype, name
        assert (found.sent[:200] != data.x_train[:200]).any(), name
    stolen = EXTRACTIONS["full"].gather(attacker)
    for name in ["prune 60 %", "sells sharpened", "int8" if kind == "vectors" else "distil, labels"]:
        answered = as_suspect(REMOVALS[name].apply(owner, stolen, attacker)).predict(data.x_test[:9])
        assert answered.shape == (9, CLASSES), name
        np.testing.assert_allclose(answered.sum(axis=1), 1, atol=0.05, err_msg=name)


def test_made_up_queries_are_other_inputs_of_the_same_parts(vectors, texts):
    rng = np.random.default_rng(0)
    x = vectors.x_train
    np.testing.assert_array_equal(np.sort(query_sets.permuted(x, rng), axis=0), np.sort(x, axis=0))
    moved = (query_sets.noised(x, rng, 0.1) - x).std(axis=0) / x.std(axis=0)
    np.testing.assert_allclose(moved, 0.1, rtol=0.2)
    mixed = query_sets.mixed(x, rng)
    assert (mixed.min(axis=0) >= x.min(axis=0)).all()
    assert (mixed.std(axis=0) < x.std(axis=0)).all()
    for change, share in ((query_sets.shuffled_words, 1), (query_sets.cropped_words, 0.5)):
        for before, after in zip(texts.x_train[:50], change(texts.x_train[:50], rng), strict=True):
            assert len(after.split()) == np.ceil(share * len(before.split()))
            assert set(after.split()) <= set(before.split())
    assert (query_sets.shuffled_words(texts.x_train, rng) != texts.x_train).mean() > 0.9


def test_selections_hold_what_makes_sense_for_the_kind(monkeypatch):
    assert left_out("text") == "Left out, as they make no sense for text: float16, int8."
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
    with pytest.raises(ArgumentError, match=r"takes numbers \(float32\); sentences holds text"):
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
