"""Heads other than one softmax for each input: what is carried is detected, what is not is refused with a way out."""

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.errors import ArgumentError, ModelError, SuspectError
from dynamarks_tf.evidence import answers
from dynamarks_tf.evidence.exact_tail import log10_tails, on_lattice
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator
from dynamarks_tf.recheck import recheck
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.outputs import OutputKind, find_output_kind
from tests.helpers import verifying

BUDGET = 0.3  # so that few epochs suffice
BACKGROUND = 10
layers = keras.layers


def segmenter(width, activation, seed):
    """Says of each of 8 x 8 pixels which digit it belongs to, or that it is background: 11 classes."""
    keras.utils.set_random_seed(seed)
    stack = [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(width, activation=activation)]
    return keras.Sequential([*stack, layers.Dense(64 * 11), layers.Reshape((8, 8, 11)), layers.Softmax()])


@pytest.fixture(scope="module")
def dense(digits, key):
    """Owner, marked model, and surrogates of the marked and of the clean one, by what they are."""
    half = len(digits.x_train) // 2
    truth = np.where(digits.x_train[..., 0] > 0.3, digits.y_train[:, None, None], BACKGROUND)
    owner = segmenter(64, "relu", 0)
    owner.compile("adam", "sparse_categorical_crossentropy")
    owner.fit(digits.x_train[:half], truth[:half], epochs=8, batch_size=32, verbose=0)
    marked = dm.mark(owner, key, budget=BUDGET)
    stolen = digits.x_train[half:]
    models = {"owner": owner, "marked": marked}
    training = {"epochs": 15, "batch_size": 32, "learning_rate": 8e-3}
    for name, api in (("surrogate", marked), ("independent", owner)):
        models[name] = train_classifier(segmenter(96, "tanh", 1), stolen, api.predict(stolen, verbose=0), **training)
    return models


def test_a_surrogate_of_a_dense_model_is_detected_and_the_bundle_holds(dense, digits, key, tmp_path):
    path = tmp_path / "bundle.zip"
    evidence = verifying.verify(dense["surrogate"], owner=dense["marked"], key=key, queries=digits.x_test, bundle=path)
    assert evidence.detected()
    assert evidence.num_queries == len(digits.x_test)
    assert evidence.channels[0].num_queries == 64 * len(digits.x_test)  # each pixel is an answer
    assert evidence.fidelity > 0.9
    for opened in (None, key):
        assert recheck(path, key=opened).evidence.log10_p == evidence.log10_p


def test_logged_queries_and_labels_give_detections_too(dense, digits, key):
    logged = {
        "owner": dense["marked"],
        "key": key,
        "queries": digits.x_train[len(digits.x_train) // 2 :],
        "logged": True,
    }
    evidence = verifying.verify(dense["surrogate"], **logged)
    assert evidence.detected()
    assert {channel.channel for channel in evidence.channels} == {"amplitude", "class-choice", "tie"}
    in_labels = verifying.verify(lambda batch: np.asarray(dense["surrogate"](batch)).argmax(axis=-1), **logged)
    assert in_labels.answers == "labels"
    assert in_labels.log10_p < -3
    assert verifying.verify(dense["independent"], **logged).log10_p > -2


def test_a_bundle_of_labels_holds_too(dense, digits, key, tmp_path):
    surrogate = dense["surrogate"]

    def labels(batch):
        return np.asarray(surrogate(batch)).argmax(axis=-1)

    x = digits.x_train[-200:]
    options = {"owner": dense["marked"], "key": key, "queries": x, "logged": True}
    evidence = verifying.verify(labels, bundle=tmp_path / "bundle.zip", **options)
    assert evidence.answers == "labels"
    found = recheck(tmp_path / "bundle.zip", key=key)
    assert found.evidence.log10_p == evidence.log10_p
    assert found.case.best_classes.shape == (2, 64 * len(x))
    np.testing.assert_array_equal(found.case.best_classes[1], labels(x).ravel())


def test_the_cost_of_a_dense_mark_is_measured_pixel_by_pixel(dense, digits):
    truth = np.where(digits.x_test[..., 0] > 0.3, digits.y_test[:, None, None], BACKGROUND)
    cost = dm.measure_cost(dense["marked"], (digits.x_test, truth))
    clean = dense["owner"].predict(digits.x_test, verbose=0).argmax(axis=-1)
    assert cost.clean_accuracy == pytest.approx((clean == truth).mean(), abs=1e-4)
    assert dm.measure_cost(dense["marked"], (digits.x_test, np.eye(11)[truth])) == cost
    with pytest.raises(ArgumentError, match="expected labels of shape"):
        dm.measure_cost(dense["marked"], (digits.x_test, digits.y_test))


def test_few_inputs_are_chosen_by_what_most_of_their_positions_show(dense, digits, key):
    chosen = verifying.verify(dense["surrogate"], owner=dense["marked"], key=key, queries=digits.x_test, max_queries=50)
    assert chosen.num_queries == 50
    assert chosen.detected()
    p = np.array([[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], [[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]])
    assert answers.main_class(p).tolist() == [1, 0]
    np.testing.assert_allclose(answers.confidence(p), [0.8, 0.6])


def test_p_values_of_an_independent_model_hold_although_neighboring_pixels_depend_on_each_other(dense, digits, key):
    """The chance is over the signs, whatever the answers are. With p valid, a share above a + 4 standard errors over
    2,000 sign tables has a chance of less than 1e-4."""
    clean, suspect = (dense[name].predict(digits.x_test, verbose=0) for name in ("owner", "independent"))
    collected = ResidualAccumulator(
        ("class",), codebook.expand(key, 11, dm.MarkParams(BUDGET)).keyed_hash, dm.MarkParams(BUDGET), num_fresh=10**6
    )
    collected.add(clean, suspect)
    steps, _ = on_lattice(collected.residuals()["class"].values)
    keys = (dm.MarkKey(number.to_bytes(32, "big"), "x") for number in range(2000))
    signs = (codebook.signs(one, "class-code/signs", 11, 11) for one in keys)
    log10_p = log10_tails(steps, np.array([(one * steps).sum() for one in signs]))
    for a in (0.1, 0.01):
        assert (log10_p <= np.log10(a)).mean() <= a + 4 * np.sqrt(a / 2000)
    assert (log10_p < np.log10(0.3)).any()  # the test is not deaf


def test_an_answer_of_another_shape_is_refused(dense, digits, key):
    flat = segmenter(8, "relu", 2)
    suspect = keras.Sequential([*flat.layers[:-2], layers.Reshape((64, 11)), layers.Softmax()])
    with pytest.raises(SuspectError, match=r"at 8 x 8 positions: expected \(256, 8, 8, 11\), or labels of shape"):
        verifying.verify(suspect, owner=dense["marked"], key=key, queries=digits.x_test)


@pytest.mark.parametrize("length", [5, None])
def test_sequences_of_any_length(length, key):
    """The answer at a position is what the layer makes of that position alone."""
    keras.utils.set_random_seed(0)
    tagger = keras.Sequential([keras.Input((length, 4)), layers.Dense(16, "relu"), layers.Dense(12, "softmax")])
    marked = dm.mark(tagger, key)
    x = np.random.default_rng(0).normal(size=(40, 5, 4)).astype(np.float32)
    released = np.asarray(marked(x))
    np.testing.assert_allclose(released[7, 3], np.asarray(marked(x[7:8, 3:4]))[0, 0], atol=1e-6)
    moved = np.abs(released - np.asarray(tagger(x))).sum(axis=-1) / 2
    assert 0.02 < moved.max() <= 0.05 + 1e-6
    evidence = verifying.verify(tagger, owner=marked, key=key, queries=x)
    assert evidence.fidelity == 1
    assert not evidence.detected()


def binary(activation="sigmoid"):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(1, activation)], name="binary")


def test_one_sigmoid_can_be_rewritten_without_training(key):
    """The recipe of docs/heads.md."""
    model = binary()
    two = layers.Dense(2, activation="softmax")
    rewritten = keras.Sequential([keras.Input((6,)), *model.layers[:-1], two])
    kernel, bias = model.layers[-1].get_weights()
    two.set_weights([np.hstack([0 * kernel, kernel]), np.hstack([0 * bias, bias])])
    x = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(rewritten(x))[:, 1:], model(x), atol=1e-6)
    with pytest.warns(UserWarning, match=r"With 2 classes .* Keep request logs"):
        marked = dm.mark(rewritten, key)
    assert np.abs(np.asarray(marked(x)) - np.asarray(rewritten(x))).sum(axis=1).max() / 2 > 0.02
    with pytest.raises(ArgumentError, match="two classes leave only one; .* needs logged queries"):
        verifying.verify(model, owner=marked, key=key, queries=x)


@pytest.mark.parametrize("loss", [None, "binary_crossentropy", keras.losses.BinaryCrossentropy(from_logits=True)])
def test_independent_sigmoids_are_never_taken_for_a_softmax(loss):
    """As probabilities they are recognized by their activation, as logits by their loss."""
    from_logits = not isinstance(loss, (str, type(None)))
    sigmoids = keras.Sequential([keras.Input((6,)), layers.Dense(5, None if from_logits else "sigmoid")], name="tags")
    sigmoids.compile("adam", loss)
    assert find_output_kind(sigmoids) == OutputKind("sigmoid", from_logits)
    with pytest.raises(ModelError, match="contradicts"):
        find_output_kind(sigmoids, activation="softmax")
