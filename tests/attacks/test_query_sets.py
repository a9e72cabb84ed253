"""The inputs that an attacker sends."""

import numpy as np
import pytest

from dynamarks_tf.attacks import query_sets


def test_queries_are_drawn_without_repetition_and_repeatably():
    pool = np.arange(50)
    drawn = query_sets.in_distribution(pool, 20, seed=3)
    assert len(set(drawn.tolist())) == 20
    assert drawn.tolist() == query_sets.in_distribution(pool, 20, seed=3).tolist()
    assert drawn.tolist() != query_sets.in_distribution(pool, 20, seed=4).tolist()
    assert query_sets.in_distribution(pool, 99).tolist() == [*range(50)]


def test_the_most_uncertain_answers_are_chosen():
    p = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0.9, 0.1, 0]])
    assert query_sets.most_uncertain(p, 2).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("images", "shape"), [((5, 32, 32, 3), (8, 8, 1)), ((5, 8, 8, 1), (8, 8, 3)), ((5, 8, 8, 1), (8, 8, 1))]
)
def test_images_of_another_domain_get_the_victims_shape(images, shape):
    given = np.random.default_rng(0).random(images).astype(np.float32)
    adapted = query_sets.adapted(given, shape)
    assert adapted.shape == (5, *shape)
    assert adapted.dtype == np.float32
    assert abs(adapted.mean() - given.mean()) < 0.02


def test_perturbed_copies_are_shifted_by_two_pixels_at_most():
    image = np.zeros((200, 12, 12, 1), np.float32)
    image[:, 6, 6] = 1
    copies = query_sets.perturbed_copy(image, np.random.default_rng(0))
    places = [np.unravel_index(copy[..., 0].argmax(), (12, 12)) for copy in copies]
    shifts = np.array(places) - 6
    assert np.abs(shifts).max() == 2
    assert len({tuple(shift) for shift in shifts.tolist()}) == 25


def test_answers_are_averaged_over_copies_and_every_copy_is_sent():
    seen = []

    def api(inputs):
        seen.append(inputs)
        return np.full((len(inputs), 2), len(seen), np.float32)

    mean, sent = query_sets.averaged_over_copies(api, np.eye(4, 3, dtype=np.float32), copies=3, seed=1)
    np.testing.assert_array_equal(mean, 2)
    np.testing.assert_array_equal(sent, np.concatenate(seen))
    assert len(sent) == 12
    assert len(np.unique(sent)) > 1


def test_centers_are_the_farthest_from_all_before_and_nothing_is_chosen_twice():
    points = np.array([[0.0], [1.0], [10.0], [6.0], [10.0]])
    assert query_sets.k_centers(points, np.array([[0.0]]), 2).tolist() == [2, 3]
    assert sorted(query_sets.k_centers(points, points, 9)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(200, 5, 5, 1), (200, 6)])
def test_random_inputs_know_shape_and_range_alone(shape):
    rng = np.random.default_rng(0)
    pool = rng.beta(0.1, 0.1, shape).astype(np.float32) * 7
    made = query_sets.random_inputs(pool, rng)
    assert (made.shape, made.dtype) == (pool.shape, pool.dtype)
    assert pool.min() <= made.min() < 0.2
    assert 6.8 < made.max() <= pool.max()
    assert abs(made.std() - 7 / np.sqrt(12)) < 0.1  # the pool's is nearer to 3.5


def test_generated_inputs_lie_between_two_classes_and_not_always_the_same(owner_model):
    rng = np.random.default_rng(0)
    start = rng.random((300, 8, 8, 1)).astype(np.float32)
    made = query_sets.between_classes(owner_model, start, rng)
    assert made.min() >= start.min()
    assert made.max() <= start.max()
    before, after = (np.sort(np.asarray(owner_model(x)), axis=1)[:, -2:].sum(axis=1).mean() for x in (start, made))
    assert after > before
    most, still = (np.bincount(np.asarray(owner_model(x)).argmax(axis=1)).max() for x in (start, made))
    assert still < 0.7 * most  # noise looks like one class mostly
