"""CosWM: a cosine of a secret projection of the input, added to the probabilities."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from benchmarks.studies.baselines.evidence import BaselineEvidence, Questions
from benchmarks.studies.baselines.spectrum import NUM_DECOYS, cosine_of, random_units, spectral_evidence, with_signal
from dynamarks_tf import MarkKey

Array = npt.NDArray[Any]

EPSILON = 0.05
FREQUENCY = 30.0


@keras.saving.register_keras_serializable(package="dynamarks_tf_baselines")
class CosineSignalLayer(keras.layers.Layer):
    """Adds the signal u = cos(frequency * v.x) to probabilities, given the input x they belong to.

    Args:
        projection: unit vector v, shape `(size of one input,)`.
        target: the target class.
        epsilon: amplitude.
        frequency: angular frequency, in radians per unit of the projection.
        **kwargs: `name` and `dtype` of the Keras layer.

    Call arguments:
        inputs: inputs of the classifier, shape `(n, ...)`.
        probabilities: its answers, shape `(n, C)`.

    Reference:
        Charette et al., https://arxiv.org/abs/2203.02777; the formulas as in the authors' readme at
        https://github.com/vbdai/coswm.
    """

    def __init__(self, projection: Any, target: int, epsilon: float, frequency: float, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.projection = np.asarray(projection, np.float32)
        self.target = int(target)
        self.epsilon = float(epsilon)
        self.frequency = float(frequency)

    def call(self, inputs: Any, probabilities: Any) -> Any:
        """The marked probabilities."""
        flat = ops.reshape(inputs, (-1, len(self.projection)))
        u = cosine_of(ops.matmul(flat, self.projection[:, None])[:, 0], self.frequency)
        return with_signal(probabilities, u, self.target, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """The configuration, which holds the key: this layer is for measurements only."""
        config = {name: getattr(self, name) for name in ("target", "epsilon", "frequency")}
        return {**super().get_config(), "projection": self.projection.tolist(), **config}


class CosineWatermark:
    """CosWM (Charette et al., Cosine Model Watermarking Against Ensemble Distillation, AAAI 2022).

    The key is a target class, an angular frequency and a random unit vector v. The suspect is asked inputs of the
    target class. Inputs to which it gives the target class a probability below the median are left out. The power
    spectrum of the other probabilities is taken over v.x (Lomb-Scargle, as the projections v.x are not evenly spaced).
    The statistic Psnr is the power at the key's frequency over the mean power elsewhere.

    The authors detect a surrogate by a threshold of Psnr and state no p-value. Here the same statistic is computed for
    decoy vectors, drawn as v was, with the same class and frequency. The rank of the true one is a valid p-value
    (`rank_log10_p`), which cannot fall below 1 / (decoys + 1). Beyond that, `log10_p_extrapolated` follows a fitted
    curve.

    Sources: the authors' code, https://github.com/vbdai/coswm. Of the paper only abstract and introduction were read,
    so no section is cited. Deviations:
    - The authors train the owner's model with the signal in its loss. Here it is appended to a trained model, like the
      other marks of the study, which may lower the accuracy.
    - Queries of the target class are those that the clean owner model classifies so; the authors use true labels.
    - The authors' code takes 1,000 points out of one half of the training data; here the count varies.
    - The spectrum is taken at the key's frequency and at 50 evenly spaced ones up to the authors' highest (40 cycles)
      instead of 200,000: neighbors closer than one over the range of v.x repeat each other. The authors average over
      a window of 0.01 around the key's frequency, which is narrower.
    - The frequency is a public constant, the authors' 30. The class is drawn from the key.

    Args:
        key: the owner's key; class and vector are expanded from it.
        num_classes: number of classes.
        epsilon: amplitude of the signal; 0.05 in the authors' code.
        frequency: angular frequency; 30 in the authors' code, for inputs in [0, 1].
        other_classes: False asks inputs of the target class, as published. True asks those of the other classes, where
            the clean probability of the target class is nearly constant at 0 and clipped at 4 epsilon. This variant is
            ours; it shows what the signal could carry.
        num_decoys: number of decoy vectors, at least 1,000 for a p-value of use.

    Example:

    >>> watermark = CosineWatermark(key, num_classes=10)
    >>> api = watermark.mark(model)
    >>> asked = watermark.questions(Questions(x, clean))
    >>> watermark.evidence(asked, ask(suspect, asked.inputs)).log10_p
    -2.999
    """

    asks: tuple[str, ...] = ("fresh", "logged")
    takes_labels = False

    def __init__(
        self,
        key: MarkKey,
        num_classes: int,
        *,
        epsilon: float = EPSILON,
        frequency: float = FREQUENCY,
        other_classes: bool = False,
        num_decoys: int = NUM_DECOYS,
    ) -> None:
        # The label decides class and vector: with another one, every figure of the study changes.
        self._rng_seed = int.from_bytes(key.derive("peers/coswm", 32), "little")
        self.target = int(np.random.default_rng([self._rng_seed, 0]).integers(num_classes))
        self.epsilon = epsilon
        self.frequency = frequency
        self.other_classes = other_classes
        self.num_decoys = num_decoys

    def projection(self, size: int) -> Array:
        """The key's unit vector, shape `(size,)`."""
        return random_units(np.random.default_rng([self._rng_seed, 1]), size, 1)[:, 0]

    def mark(self, owner: keras.Model) -> keras.Model:
        """Returns a model that answers marked probabilities; layers are shared with `owner`."""
        inputs = keras.Input(owner.inputs[0].shape[1:])
        size = int(np.prod(inputs.shape[1:]))
        layer = CosineSignalLayer(self.projection(size), self.target, self.epsilon, self.frequency)
        return keras.Model(inputs, layer(inputs, owner(inputs)), name="cosine_marked")

    def questions(self, pool: Questions) -> Questions:
        """The inputs that the owner model gives the target class, or another, in their order."""
        return pool.take(np.flatnonzero((pool.clean.argmax(axis=1) == self.target) != self.other_classes))

    def evidence(self, questions: Questions, answers: Array) -> BaselineEvidence:
        """Compares the Psnr of the key with that of decoy keys.

        Args:
            questions: those that `questions` chose.
            answers: probabilities, shape `(n, C)`.
        """
        score = answers[:, self.target].astype(np.float64)
        flat = questions.inputs.reshape(len(questions), -1)
        kept = np.minimum(score, 4 * self.epsilon) if self.other_classes else score
        is_kept = np.full(len(score), True) if self.other_classes else score > np.median(score)
        decoys = random_units(np.random.default_rng([self._rng_seed, 2]), flat.shape[1], self.num_decoys)
        vectors = np.concatenate([self.projection(flat.shape[1])[:, None], decoys], axis=1)
        return spectral_evidence(flat[is_kept] @ vectors, kept[is_kept], self.frequency, len(questions))
