"""Neural Honeytrace: answers lean towards a target class the closer an input is to secret trigger images."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import cdist

from benchmarks.studies.baselines.evidence import BaselineEvidence, MarkedApi, Questions, digests, labels_of
from benchmarks.studies.baselines.hidden_layer import HiddenLayer, softmax
from dynamarks_tf import MarkKey

Array = npt.NDArray[Any]

NUM_TRIGGERS = 50
NEAREST = 10
UNSURE = 0.5
STEPS = 10
TOUCHED = 0.05
CHUNK = 2000
SMALLEST = -300.0  # log10 p: below, floats have no more room


class NeuralHoneytrace:
    """Neural Honeytrace (Xu et al., https://arxiv.org/abs/2501.09328), as far as its code and abstracts allow.

    A trigger image is one of a class a with its lower right quarter taken from an image of a class b. The API compares
    the last hidden layer of each query with that of 50 trigger images. Similarity s in [0, 1] moves the logits:
    z' = (1 - s^2) z + s^2 z_target. With probability s^3, rounded down to tenths, the answer is z_target itself. Where
    the model is unsure (no class above 0.5), s is raised to its fourth root first. No model is trained anew. A
    surrogate is meant to learn that such images belong to the target class.

    The suspect is asked new trigger images and the same images without the quarter. The p-value is of a one-sided
    paired t-test on how often it answers the target class; labels are enough. It is asymptotic. It presumes besides
    that an independent model has no reason to see the target class in trigger images.

    Sources: the authors' code, https://github.com/NeurHT/NeurHT, of which the powers, the 10 nearest triggers and the
    steps are taken; abstracts of two versions. The code holds no t-test; the test above is our reading of "t-test-based
    ownership verification". Deviations:
    - The code subtracts the distance from 0.85, a figure for its networks. Here s falls linearly from 1, at the median
      distance of trigger images that the API does not compare with, to 0 at the distance that 5 % of the owner's own
      images come closer than. So about 5 % of ordinary queries are touched.
    - z_target is the mean logits of the owner's images of the target class; in the code it is a stored vector.
    - The code names its three classes. Here the owner takes the pair a, b whose trigger images differ most from its
      ordinary ones, by the ratio of these two distances. The target is the class that the owner's own model sees least
      often in them, so that independent models should not either; the key chooses among equals. This rule came after a
      first run, in which a target drawn from the key made the test accuse 17 of 24 independent models.
    - The code asks altered copies of the stored trigger images. Here trigger images are made of other inputs.
    - The attacker in the authors' code asks images of other kinds. Here they are of the owner's kind, as for all
      schemes of the study.
    - The code also exchanges two entries of each replaced answer, and counts another class as a hit. This is left out.
    - Chance is drawn from a keyed hash of the input, so that asking again averages nothing out.

    Args:
        key: the owner's key.
        owner: the owner's model, whose last layer is a softmax.
        images: the owner's own images, shape `(n, height, width, channels)`.
        labels: their classes, shape `(n,)`.
    """

    asks: tuple[str, ...] = ("fresh",)
    takes_labels = True

    def __init__(self, key: MarkKey, owner: keras.Model, images: Array, labels: Array) -> None:
        # The label decides classes and images: with another one, every figure of the study changes.
        self._secret = key.derive("peers/honeytrace", 32)
        num_classes, hidden = int(owner.outputs[0].shape[-1]), HiddenLayer(owner)
        ordinary = hidden.features(images[:CHUNK])
        best = 0.0
        for pair in itertools.permutations(range(num_classes), 2):
            made = hidden.features(trigger_pairs(images, labels, pair)[0][: 2 * NUM_TRIGGERS])
            near = float(np.median(distances(made[NUM_TRIGGERS:], made[:NUM_TRIGGERS])))
            far = float(np.quantile(distances(ordinary, made[:NUM_TRIGGERS]), TOUCHED))
            if far / near > best:
                best, self._pair, self._near, self._far = far / near, pair, near, far
                self._triggers = made[:NUM_TRIGGERS]
        triggered = hidden.features(trigger_pairs(images, labels, self._pair)[0])
        seen = np.bincount(hidden.logits(triggered).argmax(axis=1), minlength=num_classes)
        rarest = np.flatnonzero(seen == min(np.delete(seen, self._pair)))
        others = [each for each in rarest if each not in self._pair]
        self.target = int(others[int.from_bytes(self._secret, "little") % len(others)])
        self._target_logits = hidden.logits(hidden.features(images[labels == self.target])).mean(axis=0)

    def mark(self, owner: keras.Model) -> MarkedApi:
        """Returns an API that answers marked probabilities."""
        return _Api(self, HiddenLayer(owner))

    def release(self, inputs: Array, features: Array, logits: Array) -> Array:
        """The answers of the API.

        Args:
            inputs: shape `(n, ...)`.
            features: last hidden layer, shape `(n, d)`.
            logits: clean logits, shape `(n, C)`.
        """
        span = max(self._far - self._near, 1e-9)
        similarity = np.clip((self._far - distances(features, self._triggers)) / span, 0, 1)
        unsure = softmax(logits).max(axis=1) < UNSURE
        similarity[unsure] **= 0.25
        weight = (similarity**2)[:, None]
        moved = (1 - weight) * logits + weight * self._target_logits
        chance = np.floor(similarity**3 * STEPS) / STEPS
        touched = np.flatnonzero(chance > 0)
        for row, digest in zip(touched, digests(self._secret, inputs[touched]), strict=True):
            if int.from_bytes(digest[:8], "big") < chance[row] * 2**64:
                moved[row] = self._target_logits
        return softmax(moved)

    def questions(self, pool: Questions) -> Questions:
        """Trigger images made from the inputs at hand, each followed by the same image without the trigger."""
        assert pool.labels is not None
        triggered, plain = trigger_pairs(pool.inputs, pool.labels, self._pair)
        both = np.stack([triggered, plain], axis=1).reshape(-1, *pool.inputs.shape[1:])
        return Questions(both, np.zeros((len(both), pool.clean.shape[1])))

    def evidence(self, questions: Questions, answers: Array) -> BaselineEvidence:
        """Tests how much more often the suspect answers the target class with the trigger than without it.

        Args:
            questions: those that `questions` made.
            answers: the suspect's probabilities, shape `(n, C)`, or labels, shape `(n,)`.
        """
        hits = (labels_of(answers) == self.target).astype(float)
        pairs = len(hits) // 2
        with_trigger, without = hits[0 : 2 * pairs : 2], hits[1 : 2 * pairs : 2]
        return BaselineEvidence(
            log10_of_t_test(with_trigger - without), len(hits), float(with_trigger.mean()) if pairs else 0.0
        )


class _Api(MarkedApi):
    """An owner's model behind Neural Honeytrace."""

    def __init__(self, watermark: NeuralHoneytrace, owner: HiddenLayer) -> None:
        self._watermark = watermark
        self._owner = owner

    def predict(self, inputs: Array, batch_size: int = 256, verbose: int = 0) -> Array:
        features = self._owner.features(inputs, batch_size)
        return self._watermark.release(inputs, features, self._owner.logits(features))


def trigger_pairs(images: Array, labels: Array, pair: tuple[int, int]) -> tuple[Array, Array]:
    """Images of the first class with the lower right quarter of the second one's, and without."""
    plain, others = images[labels == pair[0]], images[labels == pair[1]]
    count = min(len(plain), len(others))
    triggered = plain[:count].copy()
    height, width = images.shape[1] // 2, images.shape[2] // 2
    triggered[:, height:, width:] = others[:count, height:, width:]
    return triggered, plain[:count]


def distances(features: Array, triggers: Array) -> Array:
    """Mean absolute difference to the 10 nearest triggers, shape `(n,)`."""
    parts = [features[start : start + CHUNK] for start in range(0, len(features), CHUNK)]
    found = [cdist(part, triggers, "cityblock") / features.shape[1] for part in parts]
    return np.concatenate([np.sort(part, axis=1)[:, :NEAREST].mean(axis=1) for part in found])


def log10_of_t_test(differences: Array) -> float:
    """log10 p of a one-sided t-test that the mean is at most 0.

    Differences that are all alike have no variance. They count as if one more of them were 0.
    """
    if len(differences) < 2 or differences.mean() <= 0:
        return 0.0
    if differences.std() == 0:
        differences = np.append(differences, 0.0)
    count = len(differences)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(count))
    return max(SMALLEST, float(stats.t.logsf(t, count - 1) / math.log(10)))
