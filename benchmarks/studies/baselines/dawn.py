"""DAWN: wrong answers to a keyed few of the inputs, remembered by models that are trained on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.studies.baselines.evidence import BaselineEvidence, MarkedApi, Questions, ask, digests, labels_of
from dynamarks_tf import MarkKey

Array = npt.NDArray[Any]

RATE = 0.005
_HALF = 1 << 128


class DynamicAdversarialWatermark:
    """DAWN (Szyller et al., Dynamic Adversarial Watermarking of Neural Networks, ACM Multimedia 2021).

    A keyed hash (HMAC-SHA256) of each input decides. If its first 128 bits are below `rate`, the API answers wrongly:
    the clean probabilities in an order that the other 128 bits decide, with the best class moved. The owner keeps
    these inputs, and a surrogate trained on the answers remembers some of them. Labels are enough, on both sides.

    The test counts the kept queries on which the suspect gives the class that was released. Given the answers of an
    independent model, that class is uniform over the C - 1 wrong ones, for each input independently, by the key alone.
    Consider the kept queries on which the suspect disagrees with the clean owner model. Their count of hits is binomial
    with chance 1 / (C - 1), exactly and for every independent model; that is `log10_p`. `log10_p_published` is the
    authors' test as we understand it: hits among all kept queries, binomial with chance 1 / C (a random guess). It is
    weaker here.

    Sources: the authors' code, https://github.com/ssg-research/dawn-dynamic-adversarial-watermarking-of-neural-networks.
    Of the paper only abstracts were read, so no section is cited. The order of probabilities by a keyed shuffle follows
    the reimplementation in the Watermark Robustness Toolbox of Lukas et al., SoK, S&P 2022. Deviations:
    - The hash is of the input's bytes, as in the authors' code. In the paper it is of a binarized inner layer, by which
      nearly equal inputs share an answer. No attacker of the study sends nearly equal inputs.
    - All probabilities are shuffled until the best class has moved, so the released class is uniform over the others.
    - Of queries that repeat an input, the first counts.

    Args:
        key: the owner's key.
        rate: the share of inputs that is answered wrongly; the authors' 0.005.

    Example:

    >>> watermark = DynamicAdversarialWatermark(key)
    >>> api = watermark.mark(model)
    >>> asked = watermark.questions(Questions(x_logged, clean))
    >>> watermark.evidence(asked, ask(suspect, asked.inputs)).log10_p
    -31.4
    """

    asks: tuple[str, ...] = ("fresh", "logged")
    takes_labels = True

    def __init__(self, key: MarkKey, *, rate: float = RATE) -> None:
        # The label decides which inputs are answered wrongly: with another one, every figure of the study changes.
        self._secret = key.derive("peers/dawn", 32)
        self.rate = rate

    def mark(self, owner: Any) -> MarkedApi:
        """Returns an API that answers marked probabilities, not a Keras model: hashing is done outside the graph."""
        return _Api(self, owner)

    def release(self, inputs: Array, clean: Array) -> Array:
        """The answers of the API.

        Args:
            inputs: shape `(n, ...)`, float32.
            clean: clean answers to them, shape `(n, C)`.
        """
        released = np.array(clean)
        threshold = int(self.rate * _HALF)
        for row, digest in enumerate(digests(self._secret, inputs)):
            if int.from_bytes(digest[:16], "big") < threshold:
                released[row] = _shuffled(clean[row], int.from_bytes(digest[16:], "big"))
        return released

    def questions(self, pool: Questions) -> Questions:
        """The inputs that are answered wrongly, without repetitions, in their order."""
        threshold = int(self.rate * _HALF)
        first: dict[bytes, int] = {}
        for row, digest in enumerate(digests(self._secret, pool.inputs)):
            if int.from_bytes(digest[:16], "big") < threshold:
                first.setdefault(digest, row)
        return pool.take(np.array(sorted(first.values()), np.int64))

    def evidence(self, questions: Questions, answers: Array) -> BaselineEvidence:
        """Counts how often the suspect gives the released class.

        Args:
            questions: those that `questions` chose.
            answers: the suspect's probabilities, shape `(n, C)`, or labels, shape `(n,)`.
        """
        labels, count, num_classes = labels_of(answers), len(questions), questions.clean.shape[1]
        is_hit = labels == self.release(questions.inputs, questions.clean).argmax(axis=1)
        disagreements = int(np.count_nonzero(labels != questions.clean.argmax(axis=1)))
        hits = int(np.count_nonzero(is_hit))
        return BaselineEvidence(
            _log10_tail(hits, disagreements, 1 / (num_classes - 1)),
            count,
            hits / max(1, count),
            log10_p_published=_log10_tail(hits, count, 1 / num_classes),
        )


class _Api(MarkedApi):
    """An owner's model behind DAWN."""

    def __init__(self, watermark: DynamicAdversarialWatermark, owner: Any) -> None:
        self._watermark = watermark
        self._owner = owner

    def predict(self, inputs: Array, batch_size: int = 256, verbose: int = 0) -> Array:
        return self._watermark.release(inputs, ask(self._owner, inputs, batch_size))


def _shuffled(probabilities: Array, seed: int) -> Array:
    """The probabilities, shuffled until the best class is another one."""
    rng = np.random.default_rng(seed)
    best = probabilities.argmax()
    while True:
        shuffled = rng.permutation(probabilities)
        if shuffled.argmax() != best:
            return shuffled


def _log10_tail(hits: int, trials: int, chance: float) -> float:
    """log10 of the chance of at least this number of hits."""
    return min(0.0, float(stats.binom.logsf(hits - 1, trials, chance)) / math.log(10))
