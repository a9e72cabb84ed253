"""CosWM: a cosine of a secret projection of the input, added to the probabilities."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from benchmarks.studies.baselines.evidence import BaselineEvidence, extrapolated_log10_p, log10_p, rank_log10_p
from dynamarks_tf import MarkKey

Array = npt.NDArray[Any]

EPSILON = 0.05
FREQUENCY = 30.0
HIGHEST_FREQUENCY = 80 * np.pi
NUM_FREQUENCIES = 50
NUM_DECOYS = 1000
FEWEST_POINTS = 5
CHUNK = 1 << 21


@keras.saving.register_keras_serializable(package="dynamarks_tf_baselines")
class CosineSignalLayer(keras.layers.Layer):
    """Adds the signal to probabilities, given the input they belong to.

    With u = cos(frequency * v.x), target class t, C classes:

        p'_t = (p_t + epsilon (1 + u)) / (1 + 2 epsilon),
        p'_c = (p_c + epsilon (1 - u) / (C - 1)) / (1 + 2 epsilon)   for c != t.

    Args:
        projection: unit vector v, shape `(size of one input,)`.
        target: the class t.
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
        u = ops.cos(self.frequency * ops.matmul(flat, self.projection[:, None]))
        num_classes = probabilities.shape[-1]
        one_hot = np.eye(num_classes, dtype=np.float32)[self.target]
        signal = one_hot * (1 + u) + (1 - one_hot) * (1 - u) / (num_classes - 1)
        return (probabilities + self.epsilon * signal) / (1 + 2 * self.epsilon)

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
    >>> watermark.log10_p(suspect, x, owner=model)
    -2.999
    """

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

    def epsilon_for(self, mean_total_variation: float, inputs: Array, clean: Array) -> float:
        """The amplitude at which the mean total variation over `inputs` is as given.

        The marked answer is a mixture of the clean one and of the signal with weight w = 2 epsilon / (1 + 2 epsilon),
        so the total variation is w times that between these two.

        Args:
            mean_total_variation: the wanted value.
            inputs: shape `(n, ...)`.
            clean: clean answers to them, shape `(n, C)`.
        """
        flat = inputs.reshape(len(inputs), -1)
        u = np.cos(self.frequency * flat @ self.projection(flat.shape[1]))[:, None]
        one_hot = np.eye(clean.shape[1])[self.target]
        signal = (one_hot * (1 + u) + (1 - one_hot) * (1 - u) / (clean.shape[1] - 1)) / 2
        weight = mean_total_variation / float((np.abs(signal - clean).sum(axis=1) / 2).mean())
        return weight / (2 * (1 - weight))

    def questions(self, inputs: Array, clean: Array) -> Array:
        """Indices of the inputs that the owner model gives the target class, or another, in their order."""
        return np.asarray(np.flatnonzero((clean.argmax(axis=1) == self.target) != self.other_classes))

    def evidence(self, inputs: Array, clean: Array, answers: Array) -> BaselineEvidence:
        """Compares the Psnr of the key with that of decoy keys.

        Args:
            inputs: queries that `questions` named, shape `(n, ...)`.
            clean: unused; the signature is that of every baseline.
            answers: probabilities, shape `(n, C)`.
        """
        score = answers[:, self.target].astype(np.float64)
        flat = inputs.reshape(len(inputs), -1)
        kept = np.minimum(score, 4 * self.epsilon) if self.other_classes else score
        is_kept = np.full(len(score), True) if self.other_classes else score > np.median(score)
        kept, flat = kept[is_kept], flat[is_kept]
        if len(kept) < FEWEST_POINTS:
            return BaselineEvidence(0.0, len(inputs), 0.0, 0.0)
        decoys = random_units(np.random.default_rng([self._rng_seed, 2]), flat.shape[1], self.num_decoys)
        vectors = np.concatenate([self.projection(flat.shape[1])[:, None], decoys], axis=1)
        snr = signal_to_noise(flat @ vectors, kept, self.frequency)
        return BaselineEvidence(
            rank_log10_p(snr[0], snr[1:]), len(inputs), float(snr[0]), extrapolated_log10_p(snr[0], snr[1:])
        )

    def log10_p(
        self, suspect: Any, queries: Array, *, owner: Any, logged: bool = False, max_queries: int | None = None
    ) -> float:
        """Asks a suspect and tests its answers.

        Args:
            suspect: anything that `dynamarks_tf.verify` takes; it must answer probabilities.
            queries: inputs at hand, shape `(n, ...)`; only those of the target class are asked.
            owner: the clean owner model.
            logged: whether the inputs were sent to the marked API; makes no difference to this scheme.
            max_queries: maximum number of queries; the first are asked.
        """
        return log10_p(self, suspect, queries, owner, max_queries)


def random_units(rng: np.random.Generator, size: int, count: int) -> Array:
    """Unit vectors in uniformly random directions, float32 of shape `(size, count)`."""
    vectors = rng.standard_normal((count, size)).T
    return np.asarray(vectors / np.linalg.norm(vectors, axis=0), np.float32)


def signal_to_noise(positions: Array, values: Array, frequency: float) -> Array:
    """Psnr: Lomb-Scargle power at one frequency over the mean power at others, for many sets of positions at once.

    Args:
        positions: where the values were taken, shape `(n, keys)`.
        values: shape `(n,)`.
        frequency: angular frequency of the signal.

    Returns:
        Shape `(keys,)`; 0 where the values are constant.
    """
    elsewhere = np.linspace(0, HIGHEST_FREQUENCY, NUM_FREQUENCIES + 1)[1:]
    columns = max(1, CHUNK // len(values))
    result = []
    for start in range(0, positions.shape[1], columns):
        part = positions[:, start : start + columns]
        signal = lomb_scargle(part, values, np.array([frequency]))[0]
        noise = lomb_scargle(part, values, elsewhere).mean(axis=0)
        result.append(np.divide(signal, noise, out=np.zeros_like(signal), where=noise > 0))
    return np.concatenate(result)


def lomb_scargle(positions: Array, values: Array, frequencies: Array) -> Array:
    """Lomb-Scargle power with a floating mean, by least squares of cosine and sine.

    `scipy.signal.lombscargle` does the same for one set of positions; this does a thousand at once.

    Args:
        positions: shape `(n, keys)`.
        values: shape `(n,)`.
        frequencies: angular, evenly spaced from one step on, shape `(f,)`.

    Returns:
        Power in units of the squared values, shape `(f, keys)`.
    """
    count = len(values)
    centered = (values - values.mean()).astype(np.float32)
    step = np.exp(1j * frequencies[0] * positions.astype(np.float64)).astype(np.complex64)
    wave = np.ones_like(step)
    result = []
    for _ in frequencies:
        wave *= step
        mean = wave.mean(axis=0, dtype=np.complex128)
        product = (centered @ wave).astype(np.complex128)
        squares = np.einsum("nk,nk->k", wave, wave).astype(np.complex128)
        cc = (count + squares.real) / 2 - count * mean.real**2
        ss = (count - squares.real) / 2 - count * mean.imag**2
        cs = squares.imag / 2 - count * mean.real * mean.imag
        determinant = np.maximum(cc * ss - cs**2, 1e-6)
        yc, ys = product.real, product.imag
        result.append((yc**2 * ss + ys**2 * cc - 2 * yc * ys * cs) / determinant / 2)
    return np.stack(result)
