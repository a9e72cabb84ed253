"""Residuals of the class-choice channel: which of two classes does the suspect raise, where a secret sign chose one?

With up to 32 classes, the marked API raises one target class for each input: the sign of the predicted class and
hash chooses between the two of a pair. A surrogate remembers it of the inputs that it was trained on. For the first
logged query of each secret sign, with the pair (u, v),

    R = y_u - y_v,    y_c = log s_c less what the clean answer explains of it (`regression`), clipped to [-3, 3],

s the suspect's answer. Which inputs have a pair follows from class and amplitude channel (`Codebook.contrasts`); no
sign of the class-choice channel itself is used (docs/statistics.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.evidence import regression
from dynamarks_tf.evidence.first_answers import FirstAnswers
from dynamarks_tf.evidence.residuals import Residuals

Array = npt.NDArray[Any]

TRANSFORM = (
    "class-choice/4: clipped difference, in each sign's pair of classes, of log s_c less its regression, by the past, "
    "on clean and mean reference logs"
)
CLIP = 3.0


def residuals(first: FirstAnswers, pairs: npt.NDArray[np.int32]) -> Residuals:
    """R of the first answers to all queries.

    Args:
        first: the answers, kept with `every_class=True`.
        pairs: the two classes of each sign, int32 of shape `(C, 4096, 2)`; -1 for those that are not tested.

    Returns:
        R of shape `(C, 4096)`.
    """
    left, shared = first.unexplained(first.logs, regression.logs_of_copy(first.classes, pairs.shape[0]))
    np.clip(left, -CLIP, CLIP, out=left)
    of_met = pairs.reshape(-1, 2)[first.met]
    has_pair = of_met[:, 0] >= 0
    one, other = np.take_along_axis(left, np.maximum(of_met, 0), axis=1).T
    values = np.where(has_pair, one - other, 0.0)
    count = int(np.count_nonzero(has_pair))
    return Residuals(first.table(values), count, count, _own_slope(shared), first.met[has_pair], first.times[has_pair])


def met_pairs(first: FirstAnswers, pairs: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The pairs whose signs were met, -1 for others: int32 of shape `(C, 4096, 2)`.

    Args:
        first: the answers.
        pairs: as for `residuals`.
    """
    kept = np.full_like(pairs.reshape(-1, 2), -1)
    kept[first.met] = pairs.reshape(-1, 2)[first.met]
    return kept.reshape(pairs.shape)


def _own_slope(shared: Array) -> float:
    """How closely the suspect's logarithms follow the clean ones of the same class, on average."""
    coefficients = np.diag(regression.of_logs(shared))
    return float(coefficients.mean() * regression.LOG_SCALE)
