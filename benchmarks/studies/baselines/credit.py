"""CREDIT: noise in the last hidden layer, and a threshold on the mutual information with a suspect's answers."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.spatial.distance import cdist

from benchmarks.studies.baselines.evidence import BaselineEvidence, MarkedApi, Questions
from benchmarks.studies.baselines.hidden_layer import HiddenLayer

Array = npt.NDArray[Any]

SIGMA = 0.27
UNIT_ROOT_MEAN_SQUARE = math.sqrt(0.5)
QUERIES = 30000
VERIFIED = 1000
FEWEST = 100
NEIGHBORS = 5
ETA = 0.8
SOFTENING = 0.02
BATCH = 128


class CertifiedThreshold:
    """CREDIT (Shen et al., Certified Ownership Verification Against Model Extraction Attacks, ICML 2026).

    The API adds normal noise to the last hidden layer, its embedding. The owner asks itself and the suspect the same
    1,000 inputs and estimates the mutual information of the answers (Kraskov's estimator with 5 neighbors, less the
    estimate for shuffled answers). Above a threshold the suspect counts as stolen:

        tau = beta (1 - exp(-Q beta / (eta d n))),   beta = Delta^2 / (2 sigma^2),

    with Q queries of the attacker, an embedding of d numbers, n inputs, and Delta the largest distance between
    neighboring embeddings of unit length. The certificate is a bound on both kinds of error that falls
    exponentially with n. There is no p-value, and no key: whoever trains on answers of the same model is meant.

    Sources: the authors' code, https://github.com/LabRAI/CREDIT, with its sigma of 0.27 and eta of 0.8; of the paper,
    https://arxiv.org/abs/2602.20419, the abstract, so what its theorems presume is not judged here. Deviations:
    - The authors' API answers embeddings besides logits, attackers train on both, and the owner sees the suspect's
      embeddings. Here both sides answer probabilities alone, as prediction APIs do. Their logarithms take the place of
      the embeddings.
    - The authors' embedding is batch-normalized and rectified. Here the noise is in proportion to the embedding's root
      mean square, as it is for such units.
    - The authors also add a fixed vector that shifts all logits alike. Probabilities do not show it.
    - Noise is drawn from a digest of the batch, so that the study can be repeated.

    Args:
        owner: the owner's model, whose last layer is a softmax.
        images: the owner's own images.
    """

    asks: tuple[str, ...] = ("fresh",)
    takes_labels = False

    def __init__(self, owner: keras.Model, images: Array) -> None:
        self._owner = HiddenLayer(owner)
        embeddings = self._owner.features(images[:VERIFIED])
        self._noise = SIGMA / UNIT_ROOT_MEAN_SQUARE * float(np.sqrt((embeddings**2).mean()))
        self._width = embeddings.shape[1]
        self._beta = largest_step(embeddings) ** 2 / (2 * SIGMA**2)

    def mark(self, owner: keras.Model) -> MarkedApi:
        """Returns an API whose answers are computed from noisy embeddings."""
        return _Api(HiddenLayer(owner), self._noise)

    def threshold(self, count: int) -> float:
        """tau for a number of inputs, in nats."""
        return self._beta * (1 - math.exp(-QUERIES * self._beta / (ETA * self._width * count)))

    def questions(self, pool: Questions) -> Questions:
        """The first 1,000 inputs."""
        return pool.take(slice(VERIFIED))

    def evidence(self, questions: Questions, answers: Array) -> BaselineEvidence:
        """Compares the mutual information with the threshold.

        Args:
            questions: those that `questions` chose.
            answers: probabilities, shape `(n, C)`.
        """
        count = len(questions)
        if count < FEWEST:
            return BaselineEvidence(None, count, 0.0, detected=False)
        own = logarithms(_Api(self._owner, self._noise).predict(questions.inputs))
        other = logarithms(answers)
        shuffled = other[np.random.default_rng(count).permutation(count)]
        excess = mutual_information(own, other) - mutual_information(own, shuffled)
        found = SOFTENING * float(np.logaddexp(0, excess / SOFTENING))
        return BaselineEvidence(None, count, found, detected=found > self.threshold(count))


class _Api(MarkedApi):
    """An owner's model behind CREDIT's noise."""

    def __init__(self, owner: HiddenLayer, noise: float) -> None:
        self._owner = owner
        self._noise = noise

    def predict(self, inputs: Array, batch_size: int = 256, verbose: int = 0) -> Array:
        features = self._owner.features(inputs, batch_size)
        seed = hashlib.sha256(np.ascontiguousarray(inputs, np.float32).tobytes()).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        return self._owner.probabilities(features + self._noise * rng.standard_normal(features.shape, np.float32))


def logarithms(probabilities: Array) -> Array:
    """Log-probabilities, shape `(n, C)`."""
    return np.asarray(np.log(np.maximum(probabilities, 1e-12)), np.float64)


def largest_step(embeddings: Array) -> float:
    """The largest distance of an embedding to its nearest neighbor in a batch of 128, both of unit length."""
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    largest = 0.0
    for start in range(0, len(units), BATCH):
        distances = cdist(units[start : start + BATCH], units[start : start + BATCH])
        np.fill_diagonal(distances, np.inf)
        if len(distances) > 1:
            largest = max(largest, float(distances.min(axis=1).max()))
    return largest


def mutual_information(x: Array, y: Array, neighbors: int = NEIGHBORS) -> float:
    """Kraskov's estimate in nats, of standardized columns with the largest difference as distance.

    It is 1 / k too low, as that of the authors; what it is for shuffled answers is subtracted from it.

    Args:
        x: shape `(n, a)`.
        y: shape `(n, b)`.
        neighbors: number k of nearest neighbors.

    Reference:
        A. Kraskov et al., Estimating mutual information, 2004: the second estimator with the first one's counts, as in
        the authors' code.
    """
    of_x, of_y = (
        cdist(z, z, "chebyshev") for z in ((v - v.mean(axis=0)) / np.maximum(v.std(axis=0), 1e-12) for v in (x, y))
    )
    for distances in (of_x, of_y):
        np.fill_diagonal(distances, np.inf)
    radius = np.partition(np.maximum(of_x, of_y), neighbors - 1, axis=1)[:, neighbors - 1 : neighbors]
    around = sum(special.digamma((distances < radius).sum(axis=1) + 1).mean() for distances in (of_x, of_y))
    return float(special.digamma(neighbors) - 1 / neighbors + special.digamma(len(x)) - around)
