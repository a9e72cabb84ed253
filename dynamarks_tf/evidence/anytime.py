"""Evidence of several channels, multiplied: what holds whenever one looks, stops or goes on.

The class channel takes fresh queries, which come first; the others take the logged ones after them. Given the signs of
the class channel, the product of the other channels' e-processes is a martingale, so the product of all obeys Ville's
inequality (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence.channels import ChannelEvidence, evidence_by
from dynamarks_tf.evidence.e_process import log_e_of_looks, log_e_process, log_e_value
from dynamarks_tf.evidence.residuals import Residuals

RULE = "e-process/1"
_NEVER_LOSES = 0.0  # the logarithm of an e-value that nothing was bet on


def evidence(
    residuals: Mapping[str, Residuals],
    signs: Callable[[str], npt.NDArray[np.int8]],
    looks: Sequence[Residuals] | None = None,
) -> tuple[tuple[ChannelEvidence, ...], float]:
    """Holds the secret signs against the residuals of all channels.

    Args:
        residuals: by channel.
        signs: gives the signs of a channel.
        looks: the class channel's residuals at every look so far, the last one included; `None` if there is one look.

    Returns:
        The evidence of each channel, and log10 of the largest product so far, which is at least the reciprocal of p.

    Example:

    >>> channels, log10_e = evidence(accumulator.residuals(), book.signs)
    """
    found, hashed = [], []
    of_class = _NEVER_LOSES
    for channel, each in residuals.items():
        of_channel = signs(channel)
        if each.cells is None:
            tables = [each] if looks is None else looks
            log_e = [log_e_value(of_channel, table.values) for table in tables]
            of_class = largest = log_e[0] if looks is None else log_e_of_looks(log_e)
        else:
            path = log_e_process(of_channel.ravel()[each.cells], each.values.ravel()[each.cells])
            hashed.append((each.times, path))
            largest = float(path.max(initial=_NEVER_LOSES))
        found.append(evidence_by(channel, of_channel, each, min(-largest / math.log(10), 0.0)))
    return tuple(found), max(of_class, of_class + _largest_product(hashed)) / math.log(10)


def _largest_product(paths: Sequence[tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.float64]]]) -> float:
    """The largest sum of several paths' last values, over all times."""
    every = np.unique(np.concatenate([np.zeros(0, np.int64), *(times for times, _ in paths if times is not None)]))
    total = np.zeros(len(every))
    for times, path in paths:
        assert times is not None
        total += np.append(_NEVER_LOSES, path)[np.searchsorted(times, every, side="right")]
    return float(total.max(initial=_NEVER_LOSES))
