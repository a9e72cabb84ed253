"""Decoy keys: whole keys, the same in every run."""

import hashlib

import numpy as np
import pytest

from dynamarks_tf import recheck
from dynamarks_tf.evidence.exact_tail import on_lattice
from dynamarks_tf.evidence.residuals import Residuals
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.report import decoys
from dynamarks_tf.watermark import codebook


@pytest.fixture(scope="module")
def rechecked(bundles):
    return recheck.recheck(bundles / "surrogate.zip")


def test_a_decoy_is_a_whole_key_from_a_public_seed(rechecked):
    evidence, residuals = rechecked.evidence, rechecked.case.residuals
    weights = decoys.weights_of(residuals, evidence.plan.rule)
    statistics = decoys.decoy_statistics(evidence.plan, weights, 120, seed=3)["class"][0]
    key = MarkKey(hashlib.sha256(b"dynamarks decoy 3/101").digest(), "decoy")
    book = codebook.expand(key, evidence.plan.num_classes, evidence.plan.params)
    assert statistics[101] == (book.class_signs * on_lattice(residuals["class"].values)[0]).sum()


def test_the_owners_key_stands_out_for_a_surrogate_and_is_one_of_many_for_an_independent_model(rechecked, bundles):
    compared = decoys.compare(rechecked.evidence, rechecked.case.residuals, num_keys=1000)
    (channel,) = compared.channels
    assert compared.num_as_extreme == 0
    assert rechecked.evidence.log10_p < compared.smallest_log10_p < -1
    assert channel.observed > channel.furthest
    assert sum(channel.counts) == 1000
    places = channel.first_bin + decoys.BIN_WIDTH * (np.arange(len(channel.counts)) + 0.5)
    mean = np.average(places, weights=channel.counts)
    assert mean == pytest.approx(0, abs=0.15)
    assert np.average((places - mean) ** 2, weights=channel.counts) == pytest.approx(1, abs=0.2)
    other = recheck.recheck(bundles / "independent.zip")
    assert decoys.compare(other.evidence, other.case.residuals, num_keys=1000).num_as_extreme > 10


def test_a_channel_without_residuals_has_no_evidence(rechecked):
    nothing = {"class": Residuals(np.zeros((10, 10)), 0, 0, 0.0)}
    compared = decoys.compare(rechecked.evidence, nothing, num_keys=100)
    assert compared.smallest_log10_p == 0
    assert compared.channels[0].counts == (100,)
