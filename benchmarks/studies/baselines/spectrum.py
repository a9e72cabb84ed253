"""What CosWM and DRW share: a cosine in the probabilities, and the power spectrum in which it is looked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from benchmarks.studies.baselines.evidence import BaselineEvidence, extrapolated_log10_p, rank_log10_p

Array = npt.NDArray[Any]

HIGHEST_FREQUENCY = 80 * np.pi
NUM_FREQUENCIES = 50
NUM_DECOYS = 1000
FEWEST_POINTS = 5
CHUNK = 1 << 21


def with_signal(probabilities: Any, u: Any, target: int, epsilon: float) -> Any:
    """Probabilities that carry a signal u in [-1, 1], the same in both watermarks.

    With target class t and C classes:

        p'_t = (p_t + epsilon (1 + u)) / (1 + 2 epsilon),
        p'_c = (p_c + epsilon (1 - u) / (C - 1)) / (1 + 2 epsilon)   for c != t.

    Args:
        probabilities: tensor of shape `(n, C)`.
        u: tensor of shape `(n, 1)`.
        target: the class t.
        epsilon: amplitude.
    """
    num_classes = probabilities.shape[-1]
    one_hot = np.eye(num_classes, dtype=np.float32)[target]
    signal = one_hot * (1 + u) + (1 - one_hot) * (1 - u) / (num_classes - 1)
    return (probabilities + epsilon * signal) / (1 + 2 * epsilon)


def cosine_of(positions: Any, frequency: float) -> Any:
    """The signal at positions of shape `(n,)`, as a tensor of shape `(n, 1)`."""
    return ops.cos(frequency * positions)[:, None]


def spectral_evidence(positions: Array, values: Array, frequency: float, asked: int) -> BaselineEvidence:
    """Compares the key's Psnr with that of decoy keys.

    Args:
        positions: where the values were taken, shape `(n, 1 + decoys)`: by the key, then by each decoy key.
        values: the suspect's probabilities of the target class, shape `(n,)`.
        frequency: angular frequency of the signal.
        asked: how many queries there were, with those that were left out.
    """
    if len(values) < FEWEST_POINTS:
        return BaselineEvidence(0.0, asked, 0.0, log10_p_extrapolated=0.0)
    found = signal_to_noise(positions, values, frequency)
    return BaselineEvidence(
        rank_log10_p(found[0], found[1:]),
        asked,
        float(found[0]),
        log10_p_extrapolated=extrapolated_log10_p(found[0], found[1:]),
    )


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
