"""Removal attacks: each changes the part of the surrogate that it is meant to change."""

import numpy as np
import pytest

from dynamarks_tf.attacks import removal
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.quantization import QuantizedModel
from dynamarks_tf.errors import ArgumentError
from tests.helpers import small_classifier

TRAINING = {"epochs": 1, "batch_size": 32}


@pytest.fixture
def surrogate(unmarked_surrogate):
    return removal.copied(unmarked_surrogate)


def test_a_copy_has_weights_of_its_own(unmarked_surrogate, surrogate):
    before = unmarked_surrogate.get_weights()
    removal.add_weight_noise(surrogate, 0.5)
    for old, now in zip(before, unmarked_surrogate.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


@pytest.mark.parametrize(("layers", "changed"), [("all", [True] * 4), ("last", [False, False, True, True])])
def test_fine_tuning_trains_all_layers_or_the_last(surrogate, digits, layers, changed):
    before = surrogate.get_weights()
    removal.fine_tune(surrogate, digits.x_test, digits.y_test, layers=layers, **TRAINING)
    after = surrogate.get_weights()
    assert [not np.array_equal(old, new) for old, new in zip(before, after, strict=True)] == changed
    assert all(layer.trainable for layer in surrogate.layers)


def test_fine_tuning_names_what_it_accepts(surrogate, digits):
    with pytest.raises(ArgumentError, match="`layers` is 'all' or 'last'. Received: layers='first'"):
        removal.fine_tune(surrogate, digits.x_test, digits.y_test, layers="first")


def test_a_new_head_is_unlike_the_old_one_and_learns_the_labels(surrogate, digits):
    head = surrogate.layers[-1].get_weights()[0]
    removal.replace_head(surrogate, digits.x_test, digits.y_test, epochs=20, batch_size=32)
    now = surrogate.layers[-1].get_weights()[0]
    assert abs(np.corrcoef(head.ravel(), now.ravel())[0, 1]) < 0.7
    assert (surrogate.predict(digits.x_test, verbose=0).argmax(axis=1) == digits.y_test).mean() > 0.8


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_pruning_zeroes_the_smallest_share_of_each_kernel(surrogate, share):
    before = surrogate.get_weights()
    removal.prune(surrogate, share)
    for old, new in zip(before, surrogate.get_weights(), strict=True):
        if old.ndim == 1:
            np.testing.assert_array_equal(old, new)
            continue
        gone = new == 0
        assert abs(gone.mean() - share) < 0.01
        assert np.abs(old[gone]).max() <= np.abs(old[~gone]).min()


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_shares_out_of_range_are_refused(surrogate, share):
    with pytest.raises(ArgumentError, match="`share` of weights to prune is a number from 0 to below 1"):
        removal.prune(surrogate, share)


def test_weight_noise_has_the_stated_strength_and_is_repeatable(surrogate):
    before, again = surrogate.get_weights(), removal.copied(surrogate)
    for model in (surrogate, again):
        removal.add_weight_noise(model, 0.1, seed=4)
    for old, new, same in zip(before, surrogate.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(new, same)
        if old.ndim > 1:
            assert (new - old).std() / old.std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("labels", [False, True])
def test_a_student_learns_what_the_teacher_answers(surrogate, digits, labels):
    student = removal.distill(
        small_classifier(seed=9), surrogate, digits.x_train, labels=labels, epochs=20, batch_size=32
    )
    taught, answered = (model.predict(digits.x_test, verbose=0).argmax(axis=1) for model in (surrogate, student))
    assert (taught == answered).mean() > 0.9


def test_early_stopping_ends_before_the_last_epoch(digits, capsys):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 10, len(digits.x_train))  # nothing to learn: the held-out loss soon rises
    model = small_classifier()
    train_classifier(
        model, digits.x_train, noise, epochs=200, batch_size=32, early_stopping=True, learning_rate=1e-2, verbose=True
    )
    steps = int(capsys.readouterr().err.split("done, ")[1].split()[0])
    assert steps < 200 * len(digits.x_train) * 0.9 / 32 / 2


@pytest.mark.parametrize(("kind", "tolerance"), [("float16", 2e-3), ("int8", 0.1)])
def test_a_quantized_model_answers_nearly_the_same(surrogate, digits, kind, tolerance):
    quantized = QuantizedModel(surrogate, kind, digits.x_train)
    expected = surrogate.predict(digits.x_test, verbose=0)
    answered = quantized(digits.x_test)
    assert 0 < np.abs(answered - expected).max() < tolerance
    assert len(quantized.content) < 60_000  # 96 hidden units: 29 kB in float32 would be 4 times the int8 weights


def test_quantization_refuses_unknown_kinds_and_missing_inputs(surrogate):
    with pytest.raises(ArgumentError, match="`kind` of quantization is one of float16, int8. Received: kind='int4'"):
        QuantizedModel(surrogate, "int4")
    with pytest.raises(ArgumentError, match="from `representative` inputs, and there are none"):
        QuantizedModel(surrogate, "int8")


def test_averaged_weights_lie_between_and_normalization_is_measured_anew(digits):
    from dynamarks_tf.attacks.architectures import separable_cnn

    first, second = (separable_cnn((8, 8, 1), 10) for _ in range(2))
    before = [model.get_weights() for model in (first, second)]
    trainable = [weight.path for weight in first.trainable_weights]
    merged = removal.average_weights(first, second, digits.x_train[:256], 0.25)
    for mine, theirs, weight in zip(*before, merged.weights, strict=True):
        if weight.path in trainable:
            np.testing.assert_allclose(np.asarray(weight), 0.75 * mine + 0.25 * theirs, atol=1e-6)
        elif "moving_mean" in weight.path:
            assert np.abs(np.asarray(weight)).max() > 0


def test_depthwise_kernels_are_not_pruned():
    from dynamarks_tf.attacks.architectures import separable_cnn

    model = separable_cnn((8, 8, 1), 10)
    removal.prune(model, 0.5)
    zeros = {weight.path: float((np.asarray(weight) == 0).mean()) for weight in model.trainable_weights}
    assert all(share == 0 for path, share in zeros.items() if "depthwise" in path)
    assert all(share > 0.4 for path, share in zeros.items() if "pointwise" in path)
