"""The counts of the heat map, and that they do not reveal the signs."""

import numpy as np
import pytest

from dynamarks_tf.report.agreement import SMALLEST_GROUP, by_strength


def test_groups_go_from_weak_to_strong_and_count_agreement():
    residuals = np.arange(1.0, 65).reshape(8, 8)
    signs = np.where(residuals > 32, 1, -1).astype(np.int8)  # the stronger half agrees
    groups = by_strength(signs, residuals)
    assert [(group.num_signs, group.share) for group in groups] == [(16, 0), (16, 0), (16, 1), (16, 1)]
    assert [group.deviations for group in groups] == [-4, -4, 4, 4]
    assert by_strength(-signs, -residuals) == groups


@pytest.mark.parametrize(("num_signs", "expected"), [(15, 0), (16, 1), (90, 5), (20_000, 8)])
def test_groups_are_large(num_signs, expected):
    groups = by_strength(np.ones(num_signs, np.int8), np.linspace(1, 2, num_signs))
    assert len(groups) == expected
    assert all(group.num_signs >= SMALLEST_GROUP for group in groups)
    assert sum(group.num_signs for group in groups) == (num_signs if expected else 0)


def test_the_place_of_a_sign_does_not_show():
    """Tables with the same cells in other places give the same groups, so nothing is revealed about any place."""
    rng = np.random.default_rng(0)
    signs, residuals = rng.choice([-1, 1], 90).astype(np.int8), rng.normal(size=90)
    for _ in range(5):
        order = rng.permutation(90)
        moved = by_strength(signs[order].reshape(9, 10), residuals[order].reshape(9, 10))
        assert moved == by_strength(signs.reshape(9, 10), residuals.reshape(9, 10))


def test_even_with_all_residuals_less_than_a_fourth_of_the_bits_is_revealed():
    """The counts of 90 signs take at most 19 values in each of 5 groups: 21 bits."""
    groups = by_strength(np.ones(90, np.int8), np.linspace(1, 2, 90))
    assert sum(np.log2(group.num_signs + 1) for group in groups) < 90 / 4
