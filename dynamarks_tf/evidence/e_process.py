"""Evidence that may be looked at at any time: e-processes on secret signs, and e-values of looks at a table of signs.

Where each secret sign S_i is met by one query, and is fair given everything up to that query, its answer included,

    M_t = 1/2 + 1/2 * mean over theta of  prod_{i<=t} exp(theta S_i r_i) / cosh(theta r_i)

is a martingale with mean 1 for every r_i that is a function of the past and of that answer. By Ville's inequality,
P(sup_t M_t >= 1/a) <= a, whenever one looks, stops or goes on. The signs of the class channel recur in every query, so
there it is looks that count: E(t) = sum of w_j E_j over the looks so far, E_j the same mean over theta on the table at
look j. E never decreases, and its mean is at most the sum of the weights, 1. docs/statistics.md has the proofs.

Reference: J. Ville, Etude critique de la notion de collectif (1939); A. Ramdas, P. Grunwald, V. Vovk, G. Shafer,
Game-Theoretic Statistics and Safe Anytime-Valid Inference, Statistical Science 38 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

THETAS = np.geomspace(0.02, 3.0, 16)
KEPT = 0.5  # of the stake is never bet, so that a channel without evidence costs log10(2) at most


def log_cosh(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log cosh x without overflow: |x| + log1p(exp(-2|x|)) - log 2."""
    size = np.abs(x)
    return np.asarray(size + np.log1p(np.exp(-2 * size)) - math.log(2))


def log_e_process(signs: npt.ArrayLike, residuals: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The logarithm of M after each sign.

    Residuals are divided by the root of their mean square so far, which is known before the sign is.

    Args:
        signs: S_i, -1 or +1, shape `(n,)`, in the order in which they were met.
        residuals: r_i, shape `(n,)`; each may depend on what came before, on the query and on its answer, but not on
            its own sign or a later one.

    Returns:
        Natural logarithms, float64 of shape `(n,)`.

    Example:

    >>> signs = np.ones(100)
    >>> float(log_e_process(signs, np.ones(100))[-1]) / np.log(10)  # all hundred agree; guessing them: 30.1
    28.1...
    """
    s, r = np.asarray(signs, np.float64), standardized(residuals)
    bets = THETAS[:, None] * r
    return _mixed(np.cumsum(bets * s - log_cosh(bets), axis=1))


def standardized(residuals: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Residuals divided by the root of their mean square so far, those that are 0 left out of account."""
    r = np.asarray(residuals, np.float64)
    scale = np.sqrt(np.cumsum(r**2) / np.maximum(np.cumsum(r != 0), 1))
    return np.asarray(np.divide(r, scale, out=np.zeros_like(r), where=scale > 0))


def log_e_of_sums(sums: npt.ArrayLike, residuals: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The logarithm of the mean over theta for several sets of signs over the same residuals.

    Args:
        sums: the sum of sign times residual for each set, shape `(k,)`.
        residuals: of any shape, of about unit size.

    Returns:
        Natural logarithms, shape `(k,)`.
    """
    r = np.asarray(residuals, np.float64).ravel()
    worth = np.array([float(log_cosh(theta * r).sum()) for theta in THETAS])
    return _mixed(THETAS[:, None] * np.asarray(sums, np.float64) - worth[:, None])


def log_e_value(signs: npt.ArrayLike, residuals: npt.ArrayLike) -> float:
    """The logarithm of the e-value of one look at a table of signs; its mean is 1 for fair signs.

    Args:
        signs: -1 or +1, of any shape.
        residuals: of the same shape; must not depend on the signs.
    """
    r = of_unit_size(residuals)
    return float(log_e_of_sums([float((np.asarray(signs, np.float64) * r).sum())], r)[0])


def of_unit_size(residuals: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The residuals of a table divided by the root of their mean square, those that are 0 left out of account."""
    r = np.asarray(residuals, np.float64)
    size = math.sqrt(float((r**2).sum()) / max(int(np.count_nonzero(r)), 1))
    return r / size if size > 0 else r


def log_e_of_looks(log_e: Sequence[float]) -> float:
    """The logarithm of E after some looks at a table that goes on growing.

    Args:
        log_e: of each look, by `log_e_value`, in order; how many follow need not be known.

    Example:

    >>> round(log_e_of_looks([0.0, 10.0]), 2)  # the second look has the weight 1/6
    8.21
    """
    if not log_e:
        return 0.0
    places = np.arange(len(log_e))
    weights = -np.log((places + 1.0) * (places + 2.0))
    rest = math.log(KEPT / (len(log_e) + 1.0))  # looks that may come still have this weight, each worth at least `KEPT`
    return float(np.logaddexp.reduce([*(np.asarray(log_e) + weights), rest]))


def _mixed(log_products: Array) -> npt.NDArray[np.float64]:
    """The logarithm of `KEPT` and the mean over theta of the products, shape `(thetas, n)`, in parts."""
    largest = log_products.max(axis=0)
    mean = largest + np.log(np.exp(log_products - largest).mean(axis=0))
    return np.asarray(np.logaddexp(math.log(KEPT), math.log(1 - KEPT) + mean), np.float64)
