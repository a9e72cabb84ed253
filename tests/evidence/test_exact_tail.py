"""The tail of a sum of fair signs: equal to the truth in every range, and never below it."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.evidence.channels import channel_evidence, evidence_of_stated
from dynamarks_tf.evidence.exact_tail import log10_tail, log10_tails, on_lattice
from dynamarks_tf.evidence.residuals import Residuals
from tests.helpers import reference

steps_of_few = st.lists(st.integers(-40, 40) | st.sampled_from([1, 1, -7, 7, 2500]), min_size=1, max_size=14)


def residuals_of(values):
    return Residuals(np.array(values, float), len(values), len(values), 1.0)


def attainable(steps, share):
    """A sum that signs can give, `share` of the way from 0 to the largest."""
    largest = int(np.abs(steps).sum())
    return largest - 2 * round((1 - share) * largest / 2)


@given(steps_of_few, st.floats(-1, 1))
@settings(max_examples=150)
def test_the_tail_is_that_of_all_signs(steps, share):
    statistic = attainable(steps, share)
    truth = reference.log10(reference.tail(steps, statistic))
    found = log10_tail(np.array(steps), statistic)
    assert truth - 1e-15 <= found <= truth + 1e-9


@pytest.mark.parametrize("count", [20, 1000, 20_000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
def test_the_tail_of_equal_residuals_is_that_of_the_binomial(count, share):
    """With 20,000 signs p goes down to 10^-6020."""
    agreeing = (count + attainable(np.ones(count), share)) // 2
    ways = term = 1
    for disagreeing in range(count - agreeing):
        term = term * (count - disagreeing) // (disagreeing + 1)
        ways += term
    expected = reference.log10(Fraction(ways, 2**count))
    for size in (1, 16):
        found = log10_tail(np.full(count, size), size * (2 * agreeing - count))
        assert found == pytest.approx(expected, abs=1e-9)
        assert found >= expected - 1e-15 * abs(expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
def test_p_is_never_below_the_truth_although_windows_are_cut_off(share):
    """Whole numbers count the signs of 300 residuals of very different sizes; p goes down to 10^-80."""
    steps = np.rint(np.random.default_rng(0).lognormal(2.0, 1.0, 300)).astype(int)
    truth = reference.log10(reference.tail(steps, statistic := attainable(steps, share)))
    assert truth <= log10_tail(steps, statistic) <= truth + 1e-9


def test_p_is_at_most_chernoffs_bound_and_falls_with_the_statistic():
    steps, _ = on_lattice(np.random.default_rng(1).standard_t(3, 2000))
    statistics = [attainable(steps, share) for share in np.linspace(0, 1, 40)]
    tails = [log10_tail(steps, statistic) for statistic in statistics]
    bounds = [reference.chernoff_log10_p(steps[steps != 0], statistic) for statistic in statistics]
    assert all(tail <= bound + 1e-9 for tail, bound in zip(tails, bounds, strict=True))
    assert (np.diff(tails) < 0).all()
    assert tails[-1] == pytest.approx(-np.count_nonzero(steps) * math.log10(2))


def test_many_tails_at_once_are_those_of_one_at_a_time():
    steps, _ = on_lattice(np.random.default_rng(2).standard_t(3, 400))
    statistics = np.array([attainable(steps, share) for share in np.linspace(-1, 1, 41)])
    np.testing.assert_allclose(log10_tails(steps, statistics), [log10_tail(steps, t) for t in statistics], atol=1e-9)
    assert (log10_tails(np.zeros(5, int), np.zeros(3)) == 0).all()


def test_the_share_of_random_signs_with_p_at_most_a_is_a():
    """2,000 draws. The law of T has steps so fine here that the share is nearly a. Six standard deviations: a right p
    fails with a chance below 10^-7 for the three levels and both sides, and the seed is fixed."""
    rng = np.random.default_rng(7)
    steps, _ = on_lattice(rng.lognormal(sigma=1.0, size=90))
    p = log10_tails(steps, rng.choice([-1, 1], (2000, 90)) @ steps)
    for a in (0.3, 0.1, 0.05):
        assert (p <= np.log10(a)).mean() == pytest.approx(a, abs=6 * np.sqrt(a * (1 - a) / 2000))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.sampled_from([1e-150, 2.0**-9, 1e150]))
def test_the_lattice_goes_with_the_scale_and_keeps_signs(values, scale):
    values = np.array(values)
    values[np.abs(values) < 1e-100] = 0
    steps, step = on_lattice(values)
    other, other_step = on_lattice(scale * values)
    assert np.abs(steps - other).max() <= 1
    assert other_step == pytest.approx(scale * step, rel=1e-9) or not values.any()
    np.testing.assert_array_equal(on_lattice(-values)[0], -steps)
    assert np.abs(steps * step - values).max() <= step / 2 * (1 + 1e-9)


def test_more_than_100_000_residuals_have_a_lattice_half_as_fine():
    residuals = np.resize([1.0, -1.0], 100_001)
    assert np.abs(on_lattice(residuals[1:])[0]).max() == 16
    assert np.abs(on_lattice(residuals)[0]).max() == 8


@pytest.mark.parametrize("dust", [1e-3, 1e-18, 1e-300])
def test_one_dominant_residual_is_one_sign_however_many_small_ones_there_are(dust):
    evidence = channel_evidence("tie", np.ones(5001), residuals_of([1e6] + [dust] * 5000))
    assert evidence.log10_p == pytest.approx(np.log10(0.5))
    assert evidence.agreement == 1


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [1e-300]])
def test_without_residuals_p_is_1(values):
    assert channel_evidence("tie", np.ones(len(values), np.int8), residuals_of(values)).log10_p == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_residuals_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="must be finite"):
        on_lattice([1.0, value])


def test_a_sum_that_no_signs_give_is_refused():
    with pytest.raises(ValueError, match=r"is at most 30\. Received: 32"):
        log10_tail(np.array([10, -20]), 32)


def test_a_stated_statistic_must_be_one_that_signs_can_give():
    residuals = residuals_of([1.0, -1.0, 2.0])
    true = channel_evidence("tie", np.array([1, -1, -1]), residuals)
    assert evidence_of_stated("tie", true.statistic, residuals) == true
    step = on_lattice(residuals.values)[1]
    for beside in (0.3, 1.0):  # between two steps; on a step, but of the wrong parity
        with pytest.raises(ValueError, match="it is no sum of residuals that are whole multiples of 0.08"):
            evidence_of_stated("tie", true.statistic + beside * step, residuals)
        assert evidence_of_stated("tie", true.statistic + beside * step, residuals, tolerance=1.0) == true
    for beyond in (1e3, float("inf"), float("nan"), -1e3):
        with pytest.raises(ValueError, match="it lies beyond its largest possible value, 3.97"):
            evidence_of_stated("tie", beyond, residuals)
