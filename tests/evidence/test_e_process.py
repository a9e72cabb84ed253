"""Evidence that may be looked at at any time: means over all signs are 1, and no stopping rule gains by it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.evidence import anytime, e_process
from dynamarks_tf.evidence.residuals import Residuals

RESIDUALS = st.lists(st.floats(-50, 50), min_size=1, max_size=7)


def every_sign(count):
    """All sets of signs, shape `(2 ** count, count)`."""
    return np.array([*itertools.product([-1.0, 1.0], repeat=count)])


@settings(max_examples=25)
@given(RESIDUALS)
def test_the_mean_over_all_signs_is_one_at_every_time(residuals):
    paths = np.stack([np.exp(e_process.log_e_process(signs, residuals)) for signs in every_sign(len(residuals))])
    np.testing.assert_allclose(paths.mean(axis=0), 1, rtol=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_an_adversary_who_chooses_each_residual_by_all_earlier_signs_gains_nothing(seed):
    """A client who knows the signs shown so far chooses the next question, and with it the next residual."""
    count = 8
    choices = np.random.default_rng(seed).normal(size=(count, 2**count)) ** 3
    means = np.zeros(count)
    best = []
    for signs in every_sign(count):
        places = [int("".join("1" if sign > 0 else "0" for sign in signs[:step]) or "0", 2) for step in range(count)]
        residuals = [choices[step, place] for step, place in enumerate(places)]
        path = np.exp(e_process.log_e_process(signs, residuals))
        means += path / 2**count
        best.append(path.max())
    np.testing.assert_allclose(means, 1, rtol=1e-9)
    for a in (0.5, 0.2, 0.1, 0.03):
        assert np.mean(np.array(best) >= 1 / a) <= a


@given(RESIDUALS)
def test_no_more_than_half_is_ever_lost_and_guessing_all_signs_is_the_most(residuals):
    nonzero = np.cumsum(np.array(residuals) != 0)
    for signs in (np.sign(residuals), -np.sign(residuals), np.ones(len(residuals))):
        path = e_process.log_e_process(signs, residuals)
        assert (path >= math.log(0.5) - 1e-9).all()
        assert (path <= nonzero * math.log(2) + 1e-9).all()


def test_it_is_the_formula():
    """Written out for two signs, with the scale that is known before each."""
    r, signs, total = np.array([2.0, 1.0]), np.array([1.0, -1.0]), 0.0
    scaled = [1.0, 1.0 / math.sqrt(2.5)]
    for theta in e_process.THETAS:
        total += math.prod(
            math.exp(theta * sign * each) / math.cosh(theta * each) for sign, each in zip(signs, scaled, strict=True)
        )
    expected = math.log(0.5 + 0.5 * total / len(e_process.THETAS))
    assert e_process.log_e_process(signs, r)[-1] == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=30))
def test_looks_never_take_evidence_back_and_their_weights_are_at_most_one(log_e):
    log_e = [max(value, math.log(0.5)) for value in log_e]  # what `log_e_value` gives at least
    path = [e_process.log_e_of_looks(log_e[:count]) for count in range(1, len(log_e) + 1)]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(path))
    assert path[-1] <= max(*log_e, 0.0) + 1e-9


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_looks_at_a_growing_table_have_a_mean_of_at_most_one(seed):
    """The table is filled by 12 queries whose residuals are any functions of earlier ones; the signs recur."""
    tables = np.cumsum(np.random.default_rng(seed).normal(size=(4, 6)), axis=0)
    found = []
    for signs in every_sign(6):
        looks = [e_process.log_e_value(signs, table) for table in tables]
        found.append(math.exp(e_process.log_e_of_looks(looks)))
    assert np.mean(found) <= 1 + 1e-9


def channels_of(seed, num_fresh=3, num_logged=6):
    """Residuals of the class channel at two looks, and of two hashed channels."""
    rng = np.random.default_rng(seed)
    looks = [Residuals(rng.normal(size=num_fresh), num_fresh, num_fresh, 1.0) for _ in range(2)]
    hashed = {}
    for channel in ("amplitude", "tie"):
        count = num_logged // 2
        values = np.zeros(4)
        cells = rng.permutation(4)[:count]
        values[cells] = rng.normal(size=count)
        times = np.sort(rng.permutation(num_logged)[:count]) + 1
        hashed[channel] = Residuals(values, count, count, 1.0, cells, times)
    return {"class": looks[-1], **hashed}, looks


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_product_of_all_channels_obeys_villes_inequality(seed):
    """Over all 2^11 signs of the three channels: P(e >= 1/a) <= a."""
    residuals, looks = channels_of(seed)
    found = []
    for signs in every_sign(11):
        tables = {"class": signs[:3], "amplitude": signs[3:7], "tie": signs[7:]}
        found.append(anytime.evidence(residuals, tables.__getitem__, looks)[1])
    for a in (0.5, 0.3, 0.1, 0.03):
        assert np.mean(np.array(found) >= -math.log10(a)) <= a
    assert np.mean(np.array(found) >= -math.log10(0.5)) > 0.01  # it is not simply 1


def test_the_product_is_taken_at_one_time():
    """One channel is strong early and loses it, the other is strong late: their largest values do not multiply."""
    early = Residuals(np.ones(40), 40, 40, 1.0, np.arange(40), np.arange(1, 41))
    late = Residuals(np.ones(40), 40, 40, 1.0, np.arange(40), np.arange(41, 81))
    turn = np.where(np.arange(40) < 15, 1, -1)
    channels, log10_e = anytime.evidence(
        {"amplitude": early, "tie": late}, {"amplitude": turn, "tie": np.ones(40)}.__getitem__
    )
    assert -channels[0].log10_p > 2
    assert log10_e < -channels[1].log10_p < -channels[0].log10_p - channels[1].log10_p
    assert channels[0].num_queries == 40


def test_log_cosh_neither_overflows_nor_loses_small_values():
    x = np.array([-800.0, -1.0, 0.0, 1e-9, 2.0, 800.0])
    expected = [800 - np.log(2), np.log(np.cosh(1)), 0, 0, np.log(np.cosh(2)), 800 - np.log(2)]
    np.testing.assert_allclose(e_process.log_cosh(x), expected, atol=1e-15)
