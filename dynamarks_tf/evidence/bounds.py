"""Fisher's rule, which combines the p-values of channels, and a function that moments of fair signs are made of.

Reference of the rule: R. A. Fisher, Statistical Methods for Research Workers, 4th ed. (1932), section 21.1; the proof
for the conservative p-values used here is in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

COMBINATION_RULE = "fisher/1"


def log_cosh(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log cosh x without overflow: |x| + log1p(exp(-2|x|)) - log 2."""
    size = np.abs(x)
    return np.asarray(size + np.log1p(np.exp(-2 * size)) - math.log(2))


def combined_log10_p(log10_p: Sequence[float]) -> float:
    """Combines the p-values of independent channels.

    If p_1 ... p_J are independent and each is at most a with chance at most a, the chance that their product is at most
    x is at most x (1 + L + L^2/2! + ... + L^(J-1)/(J-1)!), L = -ln x.

    Args:
        log10_p: log10 of the p-value of each channel that was tested, each at most 0; at least one.

    Returns:
        log10 of the combined p-value, at most 0. A single channel's p-value is returned as it is.

    Raises:
        ValueError: there is no channel.

    Example:

    >>> round(combined_log10_p([-10.0, -5.0]), 2)
    -13.45
    """
    if not log10_p:
        raise ValueError("No channel was tested, so there is no p-value. Received: an empty sequence.")
    product = min(float(sum(log10_p)), 0.0)
    size = -product * math.log(10)
    term = total = 1.0
    for i in range(1, len(log10_p)):
        term *= size / i
        total += term
    return min(product + math.log10(total), 0.0)
