"""What moments of fair signs are made of."""

import numpy as np

from dynamarks_tf.evidence.bounds import log_cosh


def test_log_cosh():
    x = np.array([-800.0, -1.0, 0.0, 1e-9, 2.0, 800.0])
    expected = [800 - np.log(2), np.log(np.cosh(1)), 0, 0, np.log(np.cosh(2)), 800 - np.log(2)]
    np.testing.assert_allclose(log_cosh(x), expected, atol=1e-15)
