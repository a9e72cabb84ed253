"""What the clean model's answer explains of the suspect's: the regression of amplitude and class-choice channels.

A quantity of the suspect's answer is explained as well as possible by the clean answer p: by least squares, for each
group of predicted classes t, on the constant, log(1 - p_t), its square, and the logarithms of up to 16 classes'
probabilities and their squares. A group with few queries leans on what all groups say together. No sign is used.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.residuals import floored_log

Array = npt.NDArray[Any]

REGRESSED_CLASSES = 16
RIDGE = 1.0
GROUP_RIDGE = 10.0
DOUBT_SCALE = 0.2  # brings log(1 - p_t) to about unit size
LOG_SCALE = 0.1
_FIRST_LOG = 3  # after the constant, the doubt and its square


def regressors(best: Array, clean: Array) -> Array:
    """What explains the answers: numbers of about unit size from the clean model's.

    Args:
        best: the clean model's largest probability for each query, float64 of shape `(n,)`.
        clean: its probabilities of the first `REGRESSED_CLASSES` hashed classes, float64 of shape `(n, K)`.

    Returns:
        float64 of shape `(n, 3 + 2 K)`; the first column is 1.
    """
    logs = floored_log(clean) * LOG_SCALE
    x = floored_log(1 - best)[:, None] * DOUBT_SCALE
    return np.concatenate([np.ones_like(x), x, x**2, logs, logs**2], axis=1)


def of_doubt(coefficients: Array) -> Array:
    """Those of log(1 - p_t) among the coefficients that `unexplained` returns, shape `(q,)`."""
    return np.asarray(coefficients[1])


def of_logs(coefficients: Array) -> Array:
    """Those of the classes' logarithms, in increasing order of class, shape `(K, q)`."""
    return np.asarray(coefficients[_FIRST_LOG : (len(coefficients) + _FIRST_LOG) // 2])


def unexplained(rows: Array, values: Array, starts: Array) -> tuple[Array, Array]:
    """Takes out of some quantities what the regressors explain.

    Args:
        rows: regressors, shape `(n, k)`, ordered by group.
        values: the quantities, shape `(n, q)`.
        starts: where each group begins in `rows`, and n.

    Returns:
        What is left, shape `(n, q)`, and the coefficients that all groups share, shape `(k, q)`.
    """
    size = rows.shape[1]
    groups = [slice(*bounds) for bounds in itertools.pairwise(starts)]
    gram = np.stack([rows[group].T @ rows[group] for group in groups])
    moment = np.stack([rows[group].T @ values[group] for group in groups])
    shared = np.linalg.solve(gram.sum(axis=0) + RIDGE * np.eye(size), moment.sum(axis=0))
    own = np.linalg.solve(gram + GROUP_RIDGE * np.eye(size), moment - gram @ shared)
    left = [values[group] - rows[group] @ (shared + more) for group, more in zip(groups, own, strict=True)]
    return np.concatenate(left), shared
