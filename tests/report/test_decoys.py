"""Decoy keys: real keys, the same whenever they are drawn, and p-values as the bound gives them."""

import hashlib

import numpy as np
import pytest

from dynamarks_tf import recheck
from dynamarks_tf.evidence.bounds import chernoff_log10_p
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.report import decoys
from dynamarks_tf.watermark import codebook


@pytest.fixture(scope="module")
def attacker(cases):
    return recheck.recheck(cases / "attacker.zip")


def test_a_decoy_is_a_whole_key_that_anybody_can_make(attacker):
    evidence, residuals = attacker.evidence, attacker.case.residuals
    statistics = decoys.decoy_statistics(evidence.plan, residuals, 120, seed=3)["class"]
    key = MarkKey(hashlib.sha256(b"dynamarks decoy 3/101").digest(), "decoy")
    book = codebook.expand(key, evidence.plan.num_classes, evidence.plan.params)
    assert statistics[101] == pytest.approx((book.class_signs * residuals["class"].values).sum())


@pytest.mark.parametrize("size", [3, 40, 3000])
def test_p_values_of_many_decoys_are_those_of_the_bound(size):
    residuals = np.random.default_rng(size).standard_t(3, size)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (300, size))
    statistics = np.append(signs @ residuals, np.abs(residuals).sum())  # and one that agrees with every residual
    expected = [chernoff_log10_p(residuals, float(t)) for t in statistics]
    np.testing.assert_allclose(decoys.log10_p_of(residuals, statistics), expected, atol=0.01)
    assert (decoys.log10_p_of(np.zeros(size), np.zeros(4)) == 0).all()


def test_the_owners_key_stands_out_for_a_thief_and_is_one_of_many_for_an_innocent(attacker, cases):
    found = decoys.compare(attacker.evidence, attacker.case.residuals, num_keys=1000)
    (channel,) = found.channels
    assert found.as_guilty == 0
    assert attacker.evidence.log10_p < found.smallest_log10_p < -1
    assert channel.observed > channel.furthest
    assert sum(channel.counts) == 1000
    places = channel.first_bin + decoys.BIN_WIDTH * (np.arange(len(channel.counts)) + 0.5)
    mean = np.average(places, weights=channel.counts)
    assert mean == pytest.approx(0, abs=0.15)
    assert np.average((places - mean) ** 2, weights=channel.counts) == pytest.approx(1, abs=0.2)
    innocent = recheck.recheck(cases / "innocent.zip")
    assert decoys.compare(innocent.evidence, innocent.case.residuals, num_keys=1000).as_guilty > 10


def test_a_channel_without_residuals_says_nothing(attacker):
    nothing = {"class": Residuals(np.zeros((10, 10)), 0, 0, 0.0)}
    found = decoys.compare(attacker.evidence, nothing, num_keys=100)
    assert found.smallest_log10_p == 0
    assert found.channels[0].counts == (100,)
