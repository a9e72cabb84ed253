"""What the heat map shows, and that it does not give the signs away."""

import numpy as np
import pytest

from dynamarks_tf.report.agreement import SMALLEST_GROUP, by_strength


def test_groups_go_from_faint_to_strong_and_count_what_agrees():
    residuals = np.arange(1.0, 65).reshape(8, 8)
    signs = np.where(residuals > 32, 1, -1).astype(np.int8)  # the stronger half agrees
    groups = by_strength(signs, residuals)
    assert [(group.num_signs, group.share) for group in groups] == [(16, 0), (16, 0), (16, 1), (16, 1)]
    assert [group.deviations for group in groups] == [-4, -4, 4, 4]
    assert by_strength(-signs, -residuals) == groups


@pytest.mark.parametrize(("coins", "expected"), [(15, 0), (16, 1), (90, 5), (20_000, 8)])
def test_groups_are_large(coins, expected):
    groups = by_strength(np.ones(coins, np.int8), np.linspace(1, 2, coins))
    assert len(groups) == expected
    assert all(group.num_signs >= SMALLEST_GROUP for group in groups)
    assert sum(group.num_signs for group in groups) == (coins if expected else 0)


def test_where_a_coin_stands_does_not_show():
    """Tables with the same cells in other places look the same, so that nothing is said about any place."""
    rng = np.random.default_rng(0)
    signs, residuals = rng.choice([-1, 1], 90).astype(np.int8), rng.normal(size=90)
    for _ in range(5):
        order = rng.permutation(90)
        moved = by_strength(signs[order].reshape(9, 10), residuals[order].reshape(9, 10))
        assert moved == by_strength(signs.reshape(9, 10), residuals.reshape(9, 10))


def test_even_who_knows_the_residuals_learns_a_fifth_of_the_bits_at_most():
    """The counts of 90 coins take at most 19 values in each of 5 groups: 21 bits."""
    groups = by_strength(np.ones(90, np.int8), np.linspace(1, 2, 90))
    assert sum(np.log2(group.num_signs + 1) for group in groups) < 90 / 4
