"""What the owner's reference models answer together, as regressors beside the clean model's answers.

Reference models were never marked, nor trained on marked answers. What they answer, an honest model would answer too.
Several of them count as one, by the mean of their logarithms: fewer regressors are learned from fewer answers. No sign
is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.residuals import floored_log

Array = npt.NDArray[Any]

MOST_REFERENCES = 8


def mean_logs(references: Array) -> Array:
    """The mean of the reference models' log-probabilities.

    Args:
        references: their probabilities, shape `(n, R, C)`.

    Returns:
        float64 of shape `(n, C)`.
    """
    return np.asarray(floored_log(references.astype(np.float64)).mean(axis=1))


def mean_doubt(references: Array, top: Array) -> Array:
    """The mean of log(1 - q_t) over the reference models' answers q.

    Args:
        references: their probabilities, shape `(n, R, C)`.
        top: t, the class that the clean model predicts, ints of shape `(n,)`.

    Returns:
        float64 of shape `(n,)`.
    """
    of_top = references[np.arange(len(top)), :, top].astype(np.float64)
    return np.asarray(floored_log(1 - of_top).mean(axis=1))
