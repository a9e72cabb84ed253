"""The bound against what it bounds: how often do decoy keys look at least as stolen?"""

import numpy as np
import pytest

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.bounds import chernoff_log10_p
from dynamarks_tf.evidence.class_channel import ClassChannelTable
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams

DECOYS = 40_000


def decoy_statistics(residuals, seed):
    """T for many sign tables that have nothing to do with the suspect."""
    nonzero = residuals[residuals != 0]
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(DECOYS, len(nonzero)))
    return signs @ nonzero


@pytest.fixture(scope="module")
def residuals(digits, owner_model, unmarked_surrogate):
    keyed_hash = codebook.expand(MarkKey(bytes(32), "o"), 10, MarkParams()).keyed_hash
    table = ClassChannelTable(keyed_hash, (10, 10), 0.05)
    clean, suspect = (model.predict(digits.x_test, verbose=0) for model in (owner_model, unmarked_surrogate))
    table.add(Batch(clean, suspect))
    return table.residuals().values


@pytest.mark.parametrize("share", [0.2, 0.05, 0.01, 0.002])
def test_the_bound_is_above_the_share_of_decoys_and_within_its_known_slack(residuals, share):
    """At the statistic that a share q of 40,000 decoys reach, the bound p has q <= p <= slack q.

    The slack of Chernoff's bound for a sum near normal is theta sigma sqrt(2 pi) (Bahadur and Rao 1960), about
    2.5 sqrt(2 ln 1/q); twice that is allowed here. q itself is known to within six deviations, sqrt(q / 40,000): a
    valid bound fails with a chance below 10^-8, and the seed is fixed.
    """
    statistics = np.sort(decoy_statistics(residuals, seed=1))[::-1]
    reached = statistics[int(share * DECOYS)]
    p = 10 ** chernoff_log10_p(residuals, float(reached))
    error = 6 * np.sqrt(share / DECOYS)
    assert share - error <= p <= 2 * 2.5 * np.sqrt(2 * np.log(1 / share)) * (share + error)
