"""One p-value from several: exact in the extremes, never too small, and what it costs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.evidence.bounds import combined_log10_p


def test_one_channel_is_left_as_it_is():
    assert combined_log10_p([-7.25]) == -7.25


@pytest.mark.parametrize("count", [2, 3])
def test_the_rule_is_the_distribution_of_a_product_of_uniforms(count):
    """200,000 products of uniform p-values: the combined one is uniform; the largest deviation of the distribution is
    below 2.2 / sqrt(n) but for once in 10,000 (Kolmogorov-Smirnov). The seed is fixed."""
    n = 200_000
    p = np.random.default_rng(0).random((n, count))
    combined = np.sort([10 ** combined_log10_p(list(row)) for row in np.log10(p)])
    assert np.abs(combined - np.arange(n) / n).max() < 2.2 / math.sqrt(n)


@given(st.lists(st.floats(-200, 0), min_size=1, max_size=4))
def test_no_combination_is_smaller_than_the_product_or_above_one(log10_p):
    combined = combined_log10_p(log10_p)
    assert sum(log10_p) - 1e-9 <= combined <= 0
    assert combined <= combined_log10_p([value / 2 for value in log10_p])  # more evidence, smaller p


def test_channels_without_evidence_cost_little():
    # 1 + L + L^2/2 with L = 20 ln 10
    assert combined_log10_p([-20, 0, 0]) == pytest.approx(-20 + math.log10(1 + 46.05 + 46.05**2 / 2), abs=1e-3)


def test_no_channel_is_no_evidence():
    with pytest.raises(ValueError, match="No channel was tested"):
        combined_log10_p([])
