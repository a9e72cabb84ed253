"""What the clean model's answer explains of the suspect's: the regression of the hashed channels.

A quantity of the suspect's answer is explained as well as possible by the clean answer p, by least squares for each
group of predicted classes. Amplitude and class-choice channel explain it by the constant, log(1 - p_t), its square, and
the logarithms of up to 16 classes' probabilities and their squares; with reference models, by the same of their mean
logarithms too (`reference_answers`). A group with few queries leans on what all groups
say together. Coefficients come from earlier answers alone, so that what is left of an answer depends on the past and on
that answer only (`e_process`). No sign is used.
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
GROUP_RIDGE = 3.0
DOUBT_SCALE = 0.2  # brings log(1 - p_t) to about unit size
LOG_SCALE = 0.1
FIRST_BLOCK = 20
_FIRST_LOG = 3  # after the constant, the doubt and its square


def regressors(best: Array, clean: Array, references: tuple[Array, Array] | None = None) -> Array:
    """What explains the answers: numbers of about unit size from the clean model's, and from those of references.

    Args:
        best: the clean model's largest probability for each query, float64 of shape `(n,)`.
        clean: its probabilities of the first `REGRESSED_CLASSES` hashed classes, float64 of shape `(n, K)`.
        references: the reference models' mean log(1 - q_t), shape `(n,)`, and mean logarithms of the same classes,
            shape `(n, K)`; `None` without.

    Returns:
        float64 of shape `(n, 3 + 2 K)`, or `(n, 5 + 4 K)` with references; the first column is 1.
    """
    columns = [np.ones((len(best), 1))]
    for doubt, logs in [(floored_log(1 - best), floored_log(clean)), *([] if references is None else [references])]:
        x, z = doubt[:, None] * DOUBT_SCALE, logs * LOG_SCALE
        columns += [x, x**2, z, z**2]
    return np.concatenate(columns, axis=1)


def of_doubt(coefficients: Array) -> Array:
    """Those of log(1 - p_t) among the coefficients that `unexplained` returns, shape `(q,)`."""
    return np.asarray(coefficients[1])


def of_logs(coefficients: Array) -> Array:
    """Those of the classes' logarithms, in increasing order of class, shape `(K, q)`."""
    return np.asarray(coefficients[_FIRST_LOG : (len(coefficients) + _FIRST_LOG) // 2])


def doubt_of_copy(num_logs: int) -> Array:
    """The coefficients that give a copy of the clean model its log(1 - p_t), shape `(3 + 2 K, 1)`."""
    coefficients = np.zeros((_FIRST_LOG + 2 * num_logs, 1))
    coefficients[1] = 1 / DOUBT_SCALE
    return coefficients


def logs_of_copy(classes: Array, num_classes: int) -> Array:
    """The coefficients that give a copy of the clean model the logarithms of those classes that are regressors.

    Args:
        classes: these classes, ints of shape `(K,)`.
        num_classes: number of all classes C.

    Returns:
        float64 of shape `(3 + 2 K, C)`.
    """
    coefficients = np.zeros((_FIRST_LOG + 2 * len(classes), num_classes))
    coefficients[_FIRST_LOG + np.arange(len(classes)), classes] = 1 / LOG_SCALE
    return coefficients


def unexplained(rows: Array, values: Array, groups: Array, expected: Array) -> tuple[Array, Array]:
    """Takes out of some quantities what the regressors explain by all that came before.

    The coefficients of a block of rows are fitted on earlier blocks alone, so what is left of a row does not depend on
    any later one, nor on whether it comes. The first block is explained by `expected`.

    Args:
        rows: regressors, shape `(n, k)`, in the order in which the answers came.
        values: the quantities, shape `(n, q)`.
        groups: the group of each row, ints of shape `(n,)`.
        expected: coefficients towards which those of few rows are drawn, shape `(k, q)`.

    Returns:
        What is left, shape `(n, q)`, and the coefficients that all groups shared in the last block, shape `(k, q)`.
    """
    size, num_groups = rows.shape[1], int(groups.max(initial=-1)) + 1
    gram, moment = np.zeros((num_groups, size, size)), np.zeros((num_groups, size, values.shape[1]))
    left, shared = values - rows @ expected, np.zeros_like(expected)
    for start, stop in itertools.pairwise(_blocks(len(rows))):
        if start:
            shared = np.linalg.solve(gram.sum(axis=0) + RIDGE * np.eye(size), moment.sum(axis=0))
            own = np.linalg.solve(gram + GROUP_RIDGE * np.eye(size), moment - gram @ shared) + shared
        block = slice(start, stop)
        order = np.argsort(groups[block], kind="stable") + start
        present, begins = np.unique(groups[order], return_index=True)
        for group, members in zip(present, np.split(order, begins[1:]), strict=True):
            before = left[members].copy()
            if start:
                left[members] -= rows[members] @ own[group]
            gram[group] += rows[members].T @ rows[members]
            moment[group] += rows[members].T @ before
    return left, expected + shared


def _blocks(count: int) -> list[int]:
    """Where blocks end: 0, 20, 30, 45, 67 ... and `count`."""
    ends = [0]
    while ends[-1] < count:
        ends.append(min(max(FIRST_BLOCK, 3 * ends[-1] // 2), count))
    return ends
