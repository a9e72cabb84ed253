"""The p-value: never below the true tail, never far above it, safe in every range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.evidence.bounds import chernoff_log10_p, log_cosh
from tests.helpers import reference

residual_lists = st.lists(st.floats(-100, 100).filter(lambda r: r == 0 or abs(r) > 1e-30), min_size=1, max_size=10)


@given(residual_lists, st.floats(0, 1.2))
@settings(max_examples=100)
def test_the_bound_is_never_below_the_exact_tail(residuals, share):
    statistic = share * float(np.abs(residuals).sum())
    assert 10 ** chernoff_log10_p(residuals, statistic) >= reference.exact_tail(residuals, statistic) * (1 - 1e-9)


@pytest.mark.parametrize("agreeing", [8, 10, 12, 14, 16])
def test_the_bound_is_close_to_the_binomial_tail(agreeing):
    # For equal residuals the best Chernoff bound is exp(-n KL), known in closed form.
    n, q = 16, agreeing / 16
    expected = -n * (q * np.log(2 * q) + ((1 - q) * np.log(2 * (1 - q)) if q < 1 else 0)) / np.log(10)
    assert chernoff_log10_p(np.full(n, 3.7), 3.7 * (2 * agreeing - n)) == pytest.approx(expected, abs=1e-9)


def test_the_smallest_value_is_the_chance_of_guessing_every_sign():
    assert chernoff_log10_p(np.arange(1.0, 101), 5050.0) == pytest.approx(-100 * np.log10(2))
    assert chernoff_log10_p(np.ones(3), 3.0000001) == pytest.approx(-3 * np.log10(2))


def test_p_values_far_beyond_the_range_of_floats():
    residuals = np.ones(1_000_000)
    assert chernoff_log10_p(residuals, 1e6) == pytest.approx(-301_030, abs=1)
    exponent = np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert chernoff_log10_p(residuals, 0.5e6) == pytest.approx(-1e6 * exponent / np.log(10))


@given(residual_lists, st.floats(0.01, 0.99), st.sampled_from([1e-150, 1e-9, 1e9, 1e150]))
def test_the_scale_of_the_residuals_does_not_matter(residuals, share, scale):
    residuals = np.array(residuals)
    statistic = share * float(np.abs(residuals).sum())
    scaled = chernoff_log10_p(scale * residuals, scale * statistic)
    assert scaled == pytest.approx(chernoff_log10_p(residuals, statistic), rel=1e-6, abs=1e-9)


@given(residual_lists, st.floats(0, 1), st.floats(0, 1))
def test_more_agreement_is_never_weaker_evidence(residuals, one, two):
    total = float(np.abs(residuals).sum())
    low, high = sorted((one, two))
    assert chernoff_log10_p(residuals, high * total) <= chernoff_log10_p(residuals, low * total) + 1e-12


@pytest.mark.parametrize(("residuals", "statistic"), [([], 0.0), ([0.0, 0.0], 0.0), ([1.0, 2.0], 0.0), ([1.0], -1.0)])
def test_no_evidence_is_p_1(residuals, statistic):
    assert chernoff_log10_p(residuals, statistic) == 0.0


@pytest.mark.parametrize(("residuals", "statistic"), [([np.nan], 1.0), ([1.0], np.nan), ([np.inf], 1.0)])
def test_nan_is_refused(residuals, statistic):
    with pytest.raises(ValueError, match="must be finite"):
        chernoff_log10_p(residuals, statistic)


def test_one_dominant_residual_gives_no_detection():
    # A single cell that holds nearly everything is one sign: p stays about 1/2 however large it is.
    residuals = np.array([1e6] + [1e-3] * 50)
    assert chernoff_log10_p(residuals, 1e6 + 0.05) > -17
    assert chernoff_log10_p(residuals, 1e6) > -0.5


@pytest.mark.parametrize("dust", [1e-15, 1e-17, 1e-18, 1e-300])
def test_residuals_lost_in_the_rounding_of_the_sum_are_no_signs(dust):
    assert chernoff_log10_p([1.0] + [dust] * 60, 1.0) > -0.31
    assert chernoff_log10_p([1.0] * 30 + [dust] * 60, 30.0) == pytest.approx(-30 * np.log10(2), abs=0.01)


def test_p_values_of_fair_signs_are_valid():
    """Share of p <= a is at most a, over 8,000 draws of signs.

    The bound makes p larger than uniform, so the counts sit well below the limits; a limit of a n + 6 sqrt(a n) fails
    by chance with probability below 1e-5.
    """
    rng = np.random.default_rng(7)
    residuals = rng.lognormal(sigma=1.0, size=90)
    signs = rng.choice([-1, 1], size=(8_000, 90))
    p = np.array([chernoff_log10_p(residuals, t) for t in signs @ residuals])
    for alpha in (0.1, 0.01, 0.001):
        expected = alpha * len(p)
        assert (p <= np.log10(alpha)).sum() <= expected + 6 * np.sqrt(expected)
    assert (p <= np.log10(0.1)).sum() > 0  # the test can see something


def test_log_cosh():
    x = np.array([-800.0, -1.0, 0.0, 1e-9, 2.0, 800.0])
    expected = [800 - np.log(2), np.log(np.cosh(1)), 0, 0, np.log(np.cosh(2)), 800 - np.log(2)]
    np.testing.assert_allclose(log_cosh(x), expected, atol=1e-15)
