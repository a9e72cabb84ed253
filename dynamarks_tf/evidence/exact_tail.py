"""The exact tail of a sum of fair signs: what T = sum of sign times residual would be by chance.

Residuals are rounded to a lattice. The rounding takes no sign, so the rounded residuals are residuals like any others,
and T is a whole number of steps. Its tail is then computed by convolution, under an exponentially tilted law in whose
middle the observed T lies. No number is subtracted from another, so nothing cancels, and p-values far beyond the range
of floats come out like others. What is cut off is added to p. docs/statistics.md states the theorem and its proof.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

TAIL_RULE = "exact-on-lattice/1"
_STEPS_IN_RMS = 16
_MANY = 100_000  # residuals; the lattice of more is half as fine, so that a million take seconds
_SMALLEST = 1e-280  # a table without a larger residual has none
_CUT = 1e-22  # tilted probability that may be cut off at an end of a window
_UNDERFLOW = 2.0**-1000
_ROUNDING = 2.0**-48  # for each sign, 32 times the rounding of a number: more than all sums and products lose
_HALVINGS = 40
_FEW = 20  # signs whose binomial needs no array
_AT_ONCE = 20_000  # products that NumPy sums in one call
_COMMON = 1e-9  # p-values from which on the law without a tilt gives all digits

Array = npt.NDArray[Any]


def on_lattice(residuals: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], float]:
    """Rounds residuals to whole steps of 1/16 of their root mean square (1/8 if there are more than 100,000).

    Only residuals other than 0 count for number and mean. The same residuals give the same steps on every machine.

    Args:
        residuals: R, any shape; must not depend on the signs.

    Returns:
        Whole numbers of steps, of the shape of R, and the size of a step; 1 if no residual is left.

    Raises:
        ValueError: a residual is NaN or infinite.

    Example:

    >>> on_lattice([3.0, -3.0, 0.01])
    (array([ 20, -20,   0]), 0.1531...)
    """
    r = np.asarray(residuals, np.float64)
    if not np.isfinite(r).all():
        raise ValueError("Residuals must be finite. Received NaN or infinity.")
    largest = float(np.abs(r).max(initial=0))
    if largest < _SMALLEST:
        return np.zeros(r.shape, np.int64), 1.0
    r = r / largest
    met = r[r != 0]
    square = math.fsum((met * met).tolist())  # correctly rounded, so in no order
    relative = math.sqrt(square / met.size) / (_STEPS_IN_RMS if met.size <= _MANY else _STEPS_IN_RMS // 2)
    return np.rint(r / relative).astype(np.int64), relative * largest


def log10_tail(steps: npt.NDArray[np.int64], statistic: int) -> float:
    """The chance that fair signs give residuals a sum at least as large as the one observed.

    Args:
        steps: the residuals, in whole numbers of steps, any shape.
        statistic: t, the sum of sign times residual, in steps.

    Returns:
        log10 P(T >= t), at most 0; what rounding could hide is added, about 10^-15 for each sign.

    Raises:
        ValueError: no signs give a sum that large.

    Example:

    >>> log10_tail(np.ones(20, np.int64), 20)  # all twenty signs agree: 2^-20
    -6.02...
    """
    sizes, counts = _sizes(steps)
    disagreeing = _most_disagreeing(sizes, counts, statistic)
    if disagreeing < 0:
        raise ValueError(f"The sum of these residuals is at most {int(sizes @ counts)}. Received: {statistic}.")
    num_signs = int(counts.sum())
    if disagreeing == 0:
        return -num_signs * math.log10(2)
    theta = _tilt(sizes, counts, disagreeing)
    law, first, lost = _law(sizes, counts, theta, disagreeing)
    behind = np.arange(disagreeing - first, disagreeing - first - len(law), -1)
    weighed = float((law * np.exp(-theta * behind)).sum()) + lost
    exponent = math.fsum((counts * (np.log1p(np.exp(-theta * sizes)) - math.log(2))).tolist())
    log_p = exponent + theta * disagreeing + math.log(weighed) + _rounding(num_signs)
    return min(max(log_p / math.log(10), -num_signs * math.log10(2)), 0.0)


def log10_tails(steps: npt.NDArray[np.int64], statistics: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """`log10_tail` of many sums over the same residuals, for about the price of one if they are no rarities.

    Args:
        steps: the residuals, in whole numbers of steps, any shape.
        statistics: whole numbers, shape `(n,)`.

    Raises:
        ValueError: no signs give a sum as large as one of them.
    """
    sizes, counts = _sizes(steps)
    disagreeing = (int(sizes @ counts) - np.asarray(statistics, np.int64)) // 2
    law, first, lost = _law(sizes, counts, 0.0, max(int(disagreeing.max(initial=0)), 0))
    tails = np.concatenate([[0.0], np.cumsum(law)])[np.clip(disagreeing - first + 1, 0, len(law))] + lost
    log10_p = np.zeros(len(tails))
    common = tails >= _COMMON
    log10_p[common] = np.minimum((np.log(tails[common]) + _rounding(int(counts.sum()))) / math.log(10), 0)
    for index in np.flatnonzero(~common):
        log10_p[index] = log10_tail(steps, int(statistics[index]))
    return log10_p


def _rounding(num_signs: int) -> float:
    """What is added to ln p, so that no rounding makes it too small."""
    return (num_signs + 64) * _ROUNDING


def _sizes(steps: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """The sizes of residuals other than 0, and how many there are of each."""
    return np.unique(np.abs(steps[steps != 0]), return_counts=True)


def _most_disagreeing(sizes: Array, counts: Array, statistic: int) -> int:
    """T >= t if, and only if, the residuals whose sign disagrees add up to at most this."""
    return (int(sizes @ counts) - int(statistic)) // 2


def _tilt(sizes: Array, counts: Array, disagreeing: int) -> float:
    """The theta under which the residuals that disagree add up to `disagreeing` in the mean; 0 if fair signs give less.

    Any theta gives the same p but for rounding, so a few digits are enough.
    """

    def mean(theta: float) -> float:
        odds = np.exp(-theta * sizes)
        return float((counts * sizes * odds / (1 + odds)).sum())

    if disagreeing >= mean(0.0):
        return 0.0
    low, high = 0.0, 1 / float(sizes.max())
    while mean(high) > disagreeing:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) > disagreeing else (low, middle)
    return high


def _law(sizes: Array, counts: Array, theta: float, most: int) -> tuple[Array, int, float]:
    """The law of D, the sum of the residuals whose sign disagrees, if a sign does so with odds exp(-theta size).

    Args:
        sizes: of the residuals, all different.
        counts: how many residuals have each size.
        theta: the tilt, at least 0.
        most: the largest D of interest.

    Returns:
        Probabilities of D = first, first + 1, ...; `first`; and a bound on the probability that was cut off. D only
        grows as sizes are added, so what exceeds `most` leaves without a trace.
    """
    law, first, lost = np.ones(1), 0, 0.0
    odds = np.exp(-theta * sizes)
    spread = counts * (sizes * np.sqrt(odds) / (1 + odds)) ** 2
    for index in np.argsort(spread, kind="stable"):  # the window is widest at the end
        size, count = int(sizes[index]), int(counts[index])
        weights, fewest, cut = _binomial(count, theta * size)
        law, first = _convolved(law, weights, size, most - first - fewest * size), first + fewest * size
        lost += cut
        if len(law) > _FEW:
            law, skipped, cut = _trimmed(law)
            first, lost = first + skipped, lost + cut
    return law, first, lost


def _binomial(count: int, log_odds: float) -> tuple[Array, int, float]:
    """Probabilities of how many of `count` signs disagree, the smallest of these numbers, and what was cut off."""
    odds = math.exp(-log_odds)
    if count <= _FEW:
        few = [1.0]
        for number in range(count):
            few.append(few[-1] * odds * (count - number) / (number + 1))
        return np.array(few) / math.fsum(few), 0, count * _UNDERFLOW
    peak = int((count + 1) * odds / (1 + odds))
    up, down = np.arange(peak, count), np.arange(peak, 0, -1)
    above = np.cumprod((count - up) / (up + 1) * odds)
    below = np.cumprod(down / (count - down + 1) / odds)[::-1] if peak else np.zeros(0)
    weights = np.concatenate([below, [1.0], above])
    weights /= weights.sum()
    weights, fewest, cut = _trimmed(weights)
    return weights, fewest, cut + count * _UNDERFLOW


def _trimmed(law: Array) -> tuple[Array, int, float]:
    """Cuts the ends off, of a probability of `_CUT` each: what is left, how many cells at the start went, and what."""
    start = int(np.searchsorted(lower := np.cumsum(law), _CUT, "right"))
    end = int(np.searchsorted(upper := np.cumsum(law[::-1]), _CUT, "right"))
    cut = (float(lower[start - 1]) if start else 0.0) + (float(upper[end - 1]) if end else 0.0)
    return law[start : max(len(law) - end, start)], start, cut


def _convolved(law: Array, weights: Array, stride: int, most: int) -> Array:
    """The law of X + stride Y, up to `most`, for X of one law and Y of the other."""
    if most < 0:
        return np.zeros(0)
    other = np.zeros((len(weights) - 1) * stride + 1)
    other[::stride] = weights
    if len(law) * len(other) <= _AT_ONCE:
        return np.convolve(law, other)[: most + 1] if len(law) else law
    total = np.zeros(min(len(law) + len(other) - 1, most + 1))
    if len(law) < len(weights):
        few, places, many = law, range(len(law)), other
    else:
        few, places, many = weights, range(0, len(other), stride), law
    product = np.empty(len(many))
    for factor, place in zip(few.tolist(), places, strict=True):
        size = min(len(many), len(total) - place)
        if size <= 0:
            break
        np.multiply(many[:size], factor, out=product[:size])
        total[place : place + size] += product[:size]
    return total
