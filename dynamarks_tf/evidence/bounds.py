"""p-values: the exact bound on the tail of a sum of fair signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

RULE = "chernoff/1"
_STEPS = 200
_ROUNDING = 2.0**-50


def log_cosh(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log cosh x without overflow: |x| + log1p(exp(-2|x|)) - log 2."""
    size = np.abs(x)
    return np.asarray(size + np.log1p(np.exp(-2 * size)) - math.log(2))


def chernoff_log10_p(residuals: npt.ArrayLike, statistic: float) -> float:
    """Bounds the chance that fair signs give residuals a sum as large as the one observed.

    For independent S[k], each -1 or +1 with probability 1/2, and fixed R[k],

        P(sum_k S[k] R[k] >= t)  <=  min over theta > 0 of  exp(sum_k log cosh(theta R[k]) - theta t),

    Chernoff's bound with the exact moment generating function. It holds for every number of cells and any R; nothing
    is asymptotic. The exponent is convex in theta; its minimum is where sum_k R[k] tanh(theta R[k]) = t. Any theta
    gives a valid bound, so the search can only err on the safe side.

    Args:
        residuals: R, any shape; must not depend on the signs.
        statistic: t = sum_k S[k] R[k].

    Returns:
        log10 of the bound, at most 0. It never falls below `-n log10(2)`, n being the number of non-zero residuals:
        the chance of guessing all their signs.

    Raises:
        ValueError: a residual or the statistic is NaN or infinite.

    Example:

    >>> chernoff_log10_p(np.ones(20), 20.0)  # all twenty signs agree: 2^-20
    -6.02...

    Reference:
        H. Chernoff, A measure of asymptotic efficiency for tests of a hypothesis based on the sum of observations,
        Ann. Math. Statist. 23 (1952), applied to Rademacher sums as in W. Hoeffding, JASA 58 (1963), section 2.
    """
    r: npt.NDArray[Any] = np.abs(np.asarray(residuals, np.float64).ravel())
    if not np.isfinite(statistic) or not np.all(np.isfinite(r)):
        raise ValueError("Residuals and statistic must be finite. Received NaN or infinity.")
    r = r[r > 0]
    if r.size == 0 or statistic <= 0:
        return 0.0
    scale = r.max()
    r, t = r / scale, float(statistic) / scale
    # Residuals that drown in the rounding of the sum count as agreeing, and as no signs: P(large + small >= t) is at
    # most P(large >= t - sum of the small ones).
    dust = r <= r.size * _ROUNDING * r.sum()
    t -= float(r[dust].sum())
    r = r[~dust]
    if t <= 0:
        return 0.0
    all_agree = -r.size * math.log(2)
    if t >= r.sum():  # also when rounding lifts t a little above the largest possible value
        return all_agree / math.log(10)
    theta = _minimizer(r, t)
    exponent = float(log_cosh(theta * r).sum() - theta * t)
    return max(min(exponent, 0.0), all_agree) / math.log(10)


def _minimizer(r: npt.NDArray[np.float64], t: float) -> float:
    """Solves sum r tanh(theta r) = t for theta by bisection; r > 0, 0 < t < sum r."""
    low, high = 0.0, 1.0
    while float((r * np.tanh(high * r)).sum()) < t and high < 1e12:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if float((r * np.tanh(middle * r)).sum()) < t:
            low = middle
        else:
            high = middle
    return high
