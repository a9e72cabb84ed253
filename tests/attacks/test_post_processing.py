"""Post-processing of answers: probabilities stay probabilities, and each function does what its name promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.attacks import post_processing


def answers(seed=0, n=400, num_classes=10):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(num_classes, 0.15), n).astype(np.float32)


@pytest.mark.parametrize(
    "post_process",
    [
        lambda p: post_processing.rounded(p, 1),
        lambda p: post_processing.rounded(p, 2),
        lambda p: post_processing.top_k(p, 2),
        post_processing.flatten_tails,
        post_processing.sharpened,
        post_processing.smoothed,
        post_processing.subtract_class_floor,
    ],
)
@given(seed=st.integers(0, 1000))
def test_post_processed_answers_are_probabilities_with_the_same_best_class(post_process, seed):
    p = answers(seed)
    processed = post_process(p)
    assert processed.dtype == p.dtype
    assert (processed >= 0).all()
    np.testing.assert_allclose(processed.sum(axis=1), 1, atol=1e-4)
    clear = np.sort(p, axis=1)[:, -1] - np.sort(p, axis=1)[:, -2] > 0.11  # rounding may make a tie of less
    np.testing.assert_array_equal(processed.argmax(axis=1)[clear], p.argmax(axis=1)[clear])


def test_sharpening_halves_the_temperature():
    p = np.array([[0.6, 0.3, 0.1]], np.float32)
    np.testing.assert_allclose(post_processing.sharpened(p, 0.5), [[0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46]], rtol=1e-5)


def test_smoothing_mixes_in_the_uniform_distribution():
    p = np.array([[1.0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(post_processing.smoothed(p, 0.2), [[0.85, 0.05, 0.05, 0.05]])


def test_answers_near_a_tie_are_left_out():
    p = np.array([[0.5, 0.45, 0.05], [0.7, 0.2, 0.1], [0.4, 0.2, 0.4]])
    assert post_processing.far_from_ties(p, 0.12).tolist() == [1]


def test_a_constant_mark_on_the_tails_is_gone_when_the_floor_is_subtracted():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([50, 0.1, 0.1, 0.1], 2000)
    marked = 0.95 * p + 0.05 * np.array([0, 1, 0, 0])
    cleaned = post_processing.subtract_class_floor(marked)
    assert np.median(marked[:, 1] / marked[:, 2]) > 100
    assert 0.1 < np.median(cleaned[:, 1] / cleaned[:, 2]) < 10


def test_whitened_tails_have_the_same_mean_logarithm_in_every_class_and_keep_the_best():
    p = np.random.default_rng(1).dirichlet([9, 2, 0.7, 0.5, 0.9], 3000)
    p = p[p[:, 1:].min(axis=1) > 1e-4]
    whitened = post_processing.whiten_tails(p)
    np.testing.assert_allclose(whitened.sum(axis=1), 1, atol=1e-4)
    each, top = np.arange(len(p)), p.argmax(axis=1)
    np.testing.assert_allclose(whitened[each, top], p[each, top], rtol=1e-6)
    rows = top == 0
    spread_before, spread_after = (np.ptp(np.log(q[rows][:, 1:]).mean(axis=0)) for q in (p, whitened))
    assert spread_before > 1
    assert spread_after < 1e-6


def test_two_clients_of_one_owner_drop_what_only_one_of_their_answers_raises():
    clean = np.array([[0.9, 0.06, 0.04]], np.float32)
    first, second = 0.95 * clean + [0, 0.05, 0], 0.95 * clean + [0, 0, 0.05]
    np.testing.assert_allclose(post_processing.smallest(first, second), clean, atol=1e-3)


def test_contrast_goes_past_the_answers_with_less_of_the_mark_or_amplifies_it():
    weaker = np.random.default_rng(0).dirichlet(np.full(10, 5.0), 100).astype(np.float32)
    raised = weaker * np.linspace(1, 3, 10)
    marked = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)

    def raise_of(p):
        return float(np.mean(np.log(p[:, 9] / p[:, 0]) - np.log(weaker[:, 9] / weaker[:, 0])))

    found = [raise_of(post_processing.contrasted(marked, weaker, amount)) for amount in (0, 1, -1, -2)]
    np.testing.assert_allclose(found, np.log(3) * np.array([0, -1, 1, 2]), atol=1e-3)
