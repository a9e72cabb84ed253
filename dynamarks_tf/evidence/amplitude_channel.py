"""Residuals of the amplitude channel: on which inputs is the suspect less sure than the clean model explains?

Where the secret sign of an input is +1, the marked API gave away the whole budget, and was less sure of its best class
than where the sign is -1. A surrogate remembers that of the inputs that it was trained on. For the first logged query
of each secret sign, with t the class that the clean model predicts,

    y = log(1 - s_t),    s the suspect's answer,

less what the clean answer, and those of reference models, explain of it (`regression`). No sign is used.
"""

from __future__ import annotations

from dynamarks_tf.evidence import regression
from dynamarks_tf.evidence.first_answers import FirstAnswers
from dynamarks_tf.evidence.residuals import Residuals

TRANSFORM = (
    "amplitude/5: log(1 - s_t) of each sign's first query less its regression, by group and by the past, on clean and "
    "mean reference logs"
)


def residuals(first: FirstAnswers) -> Residuals:
    """R of the first answers to all queries.

    Args:
        first: the answers.

    Returns:
        R of shape `(min(C, 64), 4096)`.
    """
    left, shared = first.unexplained(first.doubt[:, None], regression.doubt_of_copy(len(first.classes)))
    slope = float(regression.of_doubt(shared)[0] * regression.DOUBT_SCALE)
    return Residuals(first.table(left[:, 0]), len(left), len(left), slope, first.met, first.times)
