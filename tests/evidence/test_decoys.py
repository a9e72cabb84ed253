"""The p-value against what it says: how often do decoy keys look at least as stolen?"""

import numpy as np
import pytest

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.class_channel import ClassChannelTable
from dynamarks_tf.evidence.exact_tail import log10_tail, on_lattice
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
    return on_lattice(table.residuals().values)[0]


@pytest.mark.parametrize("share", [0.2, 0.05, 0.01, 0.002])
def test_p_is_the_share_of_decoys_that_reach_as_much(residuals, share):
    """At the statistic that a share q of 40,000 decoys reach, p is q.

    q is known to within six deviations, sqrt(q / 40,000): a right p fails with a chance below 10^-8, and the seed is
    fixed.
    """
    statistics = np.sort(decoy_statistics(residuals, seed=1))[::-1]
    p = 10 ** log10_tail(residuals, int(statistics[int(share * DECOYS)]))
    assert p == pytest.approx(share, abs=6 * np.sqrt(share / DECOYS))
