"""DRW: a cosine of a secret hash of the input, added to the probabilities of some inputs of one class."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops
from scipy import special

from benchmarks.studies.baselines.evidence import BaselineEvidence, MarkedApi, Questions, ask, digests
from benchmarks.studies.baselines.spectrum import NUM_DECOYS, cosine_of, random_units, spectral_evidence, with_signal
from dynamarks_tf import MarkKey

Array = npt.NDArray[Any]

EPSILON = 0.2
FREQUENCY = 16.0
SELECTED = 0.5
KEPT = 0.98


@keras.saving.register_keras_serializable(package="dynamarks_tf_baselines")
class HashedSignalLayer(keras.layers.Layer):
    """Adds the signal u = cos(frequency * h(x)) to the probabilities of selected inputs of the target class.

    The hash h(x) = F((w.x - b)) is uniform in [0, 1], with F the normal distribution function. A second one selects:
    inputs where it is below `selected`, and whose best class is the target, are marked.

    Args:
        weights: the vectors w of both hashes, shape `(size of one input, 2)`.
        offsets: their b, shape `(2,)`.
        target: the target class.
        epsilon: amplitude.
        frequency: angular frequency, in radians per unit of the hash.
        selected: share of the target class that is marked.
        **kwargs: `name` and `dtype` of the Keras layer.

    Call arguments:
        inputs: inputs of the classifier, shape `(n, ...)`.
        probabilities: its answers, shape `(n, C)`.
    """

    def __init__(
        self,
        weights: Any,
        offsets: Any,
        target: int,
        epsilon: float,
        frequency: float,
        selected: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self._hash_weights = np.asarray(weights, np.float32)
        self._offsets = np.asarray(offsets, np.float32)
        self.target = int(target)
        self.epsilon = float(epsilon)
        self.frequency = float(frequency)
        self.selected = float(selected)

    def call(self, inputs: Any, probabilities: Any) -> Any:
        """The marked probabilities."""
        flat = ops.reshape(inputs, (-1, len(self._hash_weights)))
        hashes = (1 + ops.erf((ops.matmul(flat, self._hash_weights) - self._offsets) / math.sqrt(2))) / 2
        marked = with_signal(probabilities, cosine_of(hashes[:, 0], self.frequency), self.target, self.epsilon)
        is_target = ops.argmax(probabilities, axis=-1) == self.target
        is_marked = ops.logical_and(is_target, hashes[:, 1] < self.selected)
        return ops.where(is_marked[:, None], marked, probabilities)


class DistillationResistantWatermark:
    """DRW (Zhao et al., Distillation-Resistant Watermarking for Model Protection in NLP, Findings of EMNLP 2022).

    The nearest relative of this project's mark: secret changes of soft answers. A hash of the input in [0, 1] gives the
    phase of a cosine. It is added to the probability of a target class, and taken from the others, where the model
    predicts that class and a second hash selects the input. The suspect is asked such inputs. Those to which it gives
    the target class the lowest 2 % of probabilities are left out. The statistic Psnr is the Lomb-Scargle power of the
    others at the key's frequency, over the mean power elsewhere.

    The authors rank suspects by Psnr and state no p-value. Here decoy keys give one, as for CosWM: exact, but not
    below 1 / (decoys + 1). Beyond that, `log10_p_extrapolated` follows a fitted curve. Decoys share the selecting hash
    and the class, which are drawn independently of the first hash.

    Sources: the authors' code, https://github.com/XuandongZhao/DRW, with amplitude 0.2, frequency 16 and half of the
    class selected; of the paper the abstract. Deviations:
    - The authors hash one token of a text: a random vector of the token times the key, then the normal distribution
      function. Images have no tokens. Here the pixels take the place of the token's vector. They are projected on a
      random direction and standardized by mean and covariance of the owner's images. So a surrogate sees what the
      hash depends on, as it does in the authors' tasks.
    - Queries of the target class are those that the clean owner model classifies so; the authors use true labels.
    - The spectrum is taken at 51 frequencies instead of 200,000, as for CosWM.
    - Where clients get labels, the authors draw them from the marked probabilities. The study does that in a row of its
      own; the other rows of labels have the best class.
    - The class is drawn from the key; the authors choose it.

    Args:
        key: the owner's key; class and directions are expanded from it.
        num_classes: number of classes.
        images: the owner's own images, which standardize the projections.
        epsilon: amplitude of the signal.
        frequency: angular frequency.
        num_decoys: number of decoy directions.
    """

    asks: tuple[str, ...] = ("fresh", "logged")
    takes_labels = False

    def __init__(
        self,
        key: MarkKey,
        num_classes: int,
        images: Array,
        *,
        epsilon: float = EPSILON,
        frequency: float = FREQUENCY,
        num_decoys: int = NUM_DECOYS,
    ) -> None:
        # The label decides class and directions: with another one, every figure of the study changes.
        self._secret = key.derive("peers/drw", 32)
        seed = int.from_bytes(self._secret, "little")
        flat = images.reshape(len(images), -1).astype(np.float64)
        self.target = int(np.random.default_rng([seed, 0]).integers(num_classes))
        self.epsilon = epsilon
        self.frequency = frequency
        directions = np.concatenate(
            [
                random_units(np.random.default_rng([seed, 1]), flat.shape[1], 2),
                random_units(np.random.default_rng([seed, 2]), flat.shape[1], num_decoys),
            ],
            axis=1,
        )
        spread = np.sqrt(np.einsum("ik,ij,jk->k", directions, np.cov(flat.T), directions, optimize=True))
        self._weights = directions / spread
        self._offsets = flat.mean(axis=0) @ self._weights

    def mark(self, owner: keras.Model) -> keras.Model:
        """Returns a model that answers marked probabilities; layers are shared with `owner`."""
        inputs = keras.Input(owner.inputs[0].shape[1:])
        layer = HashedSignalLayer(
            self._weights[:, :2], self._offsets[:2], self.target, self.epsilon, self.frequency, SELECTED
        )
        return keras.Model(inputs, layer(inputs, owner(inputs)), name="drw_marked")

    def mark_drawn(self, owner: keras.Model) -> MarkedApi:
        """Returns an API that answers labels, drawn from the marked probabilities, as zeros and a one."""
        return _DrawnLabels(self.mark(owner), self._secret)

    def hashes(self, inputs: Array, which: slice) -> Array:
        """Hashes of inputs, shape `(n, keys)`: the first is the key's, the second selects, the others are decoys."""
        flat = inputs.reshape(len(inputs), -1)
        return np.asarray(special.ndtr(flat @ self._weights[:, which] - self._offsets[which]))

    def questions(self, pool: Questions) -> Questions:
        """The inputs that the API marks, in their order."""
        is_selected = self.hashes(pool.inputs, slice(1, 2))[:, 0] < SELECTED
        return pool.take(np.flatnonzero((pool.clean.argmax(axis=1) == self.target) & is_selected))

    def evidence(self, questions: Questions, answers: Array) -> BaselineEvidence:
        """Compares the Psnr of the key with that of decoy keys.

        Args:
            questions: those that `questions` chose.
            answers: probabilities, shape `(n, C)`.
        """
        score = answers[:, self.target].astype(np.float64)
        kept = np.sort(np.argsort(-score, kind="stable")[: math.ceil(KEPT * len(score))])
        hashes = self.hashes(questions.inputs[kept], slice(None))
        return spectral_evidence(np.delete(hashes, 1, axis=1), score[kept], self.frequency, len(questions))


class _DrawnLabels(MarkedApi):
    """The API that answers labels only. An input gets the same label whenever it is asked."""

    def __init__(self, api: keras.Model, secret: bytes) -> None:
        self._api = api
        self._secret = secret

    def predict(self, inputs: Array, batch_size: int = 256, verbose: int = 0) -> Array:
        probabilities = ask(self._api, inputs, batch_size)
        drawn = [int.from_bytes(digest[:8], "big") / 2**64 for digest in digests(self._secret, inputs)]
        below = probabilities.cumsum(axis=1) <= np.array(drawn)[:, None] * probabilities.sum(axis=1, keepdims=True)
        labels = np.minimum(below.sum(axis=1), probabilities.shape[1] - 1)
        return np.asarray(np.eye(probabilities.shape[1], dtype=np.float32)[labels])
