"""The inputs that an attacker sends: drawn from a domain, chosen by a pilot, perturbed copies, or made of nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.input_kind import input_kind

Array = npt.NDArray[Any]

_LARGEST_SHIFT = 2  # pixels
_DROPPED = 0.1  # share of a text's words
_NOISE = 0.02  # standard deviation, in units of the inputs' own


def in_distribution(pool: Array, count: int, seed: int = 0) -> Array:
    """Draws inputs of the victim's domain, without repetition.

    Args:
        pool: inputs, shape `(n, ...)`.
        count: number of inputs to draw; a smaller pool is taken whole.
        seed: seed of the draw.

    Returns:
        Sorted indices into the pool, shape `(min(count, n),)`.
    """
    return np.asarray(np.sort(np.random.default_rng(seed).permutation(len(pool))[:count]))


def most_uncertain(probabilities: Array, count: int) -> Array:
    """Chooses the inputs of which a pilot surrogate is least certain: those with the largest entropy.

    Args:
        probabilities: the pilot's answers to the pool, shape `(n, C)`.
        count: number of inputs to choose.

    Returns:
        Sorted indices into the pool, shape `(min(count, n),)`.

    Reference:
        S. Pal et al., ActiveThief: Model Extraction Using Active Learning and Unannotated Public Data, AAAI 2020.
    """
    p = np.maximum(probabilities.astype(np.float64), 1e-12)
    entropy = -(p * np.log(p)).sum(axis=1)
    return np.asarray(np.sort(np.argsort(-entropy, kind="stable")[:count]))


def k_centers(points: Array, centers: Array, count: int) -> Array:
    """Chooses inputs that a pilot surrogate answers unlike all others: greedily, the farthest from every center.

    Args:
        points: the pilot's answers to the pool, shape `(n, C)`.
        centers: its answers to the inputs that were sent already, shape `(m, C)`, m >= 1.
        count: number of inputs to choose.

    Returns:
        Indices into the pool, in the order of the choice, shape `(min(count, n),)`.

    Reference:
        S. Pal et al., ActiveThief: Model Extraction Using Active Learning and Unannotated Public Data, AAAI 2020
        (k-center); O. Sener and S. Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach,
        ICLR 2018.
    """
    distances = np.full(len(points), np.inf)
    for center in centers:
        distances = np.minimum(distances, ((points - center) ** 2).sum(axis=1))
    chosen = np.empty(min(count, len(points)), np.int64)
    for place in range(len(chosen)):
        chosen[place] = farthest = int(distances.argmax())
        distances = np.minimum(distances, ((points - points[farthest]) ** 2).sum(axis=1))
        distances[farthest] = -1  # also where all others are at distance 0, nothing is chosen twice
    return chosen


def random_inputs(pool: Array, rng: np.random.Generator) -> Array:
    """Makes as many inputs as the pool has, of noise that is even between the smallest and the largest value.

    A data-free attacker knows the shape of an input and the range of its values (of vectors: of each column), and no
    input.

    Reference: F. Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016.
    """
    of = 0 if input_kind(pool) == "vectors" else None
    return np.asarray(rng.uniform(pool.min(axis=of), pool.max(axis=of), pool.shape), pool.dtype)


def between_classes(pilot: Any, start: Array, rng: np.random.Generator, *, steps: int = 5, size: float = 0.05) -> Array:
    """Moves inputs towards the boundary between two classes, drawn at random for each, as a pilot surrogate sees it.

    Args:
        pilot: a Keras classifier.
        start: inputs, shape `(n, ...)`, float.
        rng: draws the classes.
        steps: of gradient ascent on the sum of the two log-probabilities, by the gradient's sign.
        size: of a step, in units of the range of each value.

    Returns:
        Inputs of the same shape, in the same range.

    Reference:
        A simple stand-in for the generators of MAZE (S. Kariyappa et al., CVPR 2021) and DFME (J.-B. Truong et al.,
        Data-Free Model Extraction, CVPR 2021), which a network of their own makes from estimated gradients of the
        victim.
    """
    import tensorflow as tf

    low, high = start.min(axis=0), start.max(axis=0)
    moved = []
    for inputs in _parts(start):
        x = tf.constant(inputs)
        pair = np.stack([rng.permutation(pilot.outputs[0].shape[-1])[:2] for _ in inputs])
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(x)
                logs = tf.math.log(tf.maximum(pilot(x, training=False), 1e-7))
                wanted = tf.reduce_sum(tf.gather(logs, pair, axis=1, batch_dims=1))
            x = tf.clip_by_value(x + size * (high - low) * tf.sign(tape.gradient(wanted, x)), low, high)
        moved.append(x.numpy())
    return np.concatenate(moved)


def adapted(images: Array, shape: tuple[int, ...]) -> Array:
    """Fits images of another domain to the size and the channels of the victim's inputs, as a knockoff attacker does.

    Args:
        images: shape `(n, height, width, channels)`.
        shape: `(height, width, channels)` of the victim's inputs; 1 or 3 channels.

    Returns:
        float32 of shape `(n, *shape)`; gray images are repeated in each channel, colored ones averaged.

    Reference:
        T. Orekondy et al., Knockoff Nets: Stealing Functionality of Black-Box Models, CVPR 2019.
    """
    import keras

    height, width, channels = shape
    if images.shape[1:3] != (height, width):
        images = np.concatenate(
            [keras.ops.convert_to_numpy(keras.ops.image.resize(part, (height, width))) for part in _parts(images)]
        )
    if images.shape[-1] != channels:
        gray = images.mean(axis=-1, keepdims=True)
        images = np.repeat(gray, channels, axis=-1)
    return np.asarray(images, np.float32)


def perturbed_copy(inputs: Array, rng: np.random.Generator) -> Array:
    """Makes one slightly changed copy of each input.

    Images get noise, and are shifted by at most 2 pixels. Vectors get noise in units of each column's deviation. Of
    text, about a tenth of the words are dropped.

    Args:
        inputs: shape `(n, ...)`; arrays of rank 4 are taken for images `(n, height, width, channels)`, of rank 2 for
            vectors, of objects for text.
        rng: draws shifts and noise.

    Returns:
        The shape and dtype of `inputs`.
    """
    kind = input_kind(inputs)
    if kind == "text":
        return _each_text(inputs, lambda words: [word for word in words if rng.random() >= _DROPPED] or words)
    if kind == "vectors":
        return noised(inputs, rng, _NOISE)
    noise = rng.normal(0, _NOISE * max(float(inputs.std()), 1e-6), inputs.shape)
    copy = inputs + noise.astype(inputs.dtype)
    if inputs.ndim == 4:
        copy = _shifted(copy, rng.integers(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, (len(inputs), 2)))
    return np.asarray(copy, inputs.dtype)


def noised(vectors: Array, rng: np.random.Generator, strength: float = 0.3) -> Array:
    """Adds Gaussian noise to vectors, `strength` in units of each column's standard deviation."""
    return np.asarray(vectors + rng.normal(0, 1, vectors.shape) * strength * vectors.std(axis=0), vectors.dtype)


def permuted(vectors: Array, rng: np.random.Generator) -> Array:
    """Shuffles each column by itself: every value is real, the rows are not."""
    return np.asarray(rng.permuted(vectors, axis=0))


def mixed(vectors: Array, rng: np.random.Generator) -> Array:
    """Mixes each vector with another, in a random proportion.

    Reference: H. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.
    """
    share = rng.random((len(vectors), 1))
    return np.asarray(share * vectors + (1 - share) * vectors[rng.permutation(len(vectors))], vectors.dtype)


def shuffled_words(inputs: Array, rng: np.random.Generator) -> Array:
    """Puts the words of each text into a random order."""
    return _each_text(inputs, lambda words: [words[place] for place in rng.permutation(len(words))])


def cropped_words(inputs: Array, rng: np.random.Generator) -> Array:
    """Keeps half of the words of each text, one after the other, from a random place on."""

    def cropped(words: list[bytes]) -> list[bytes]:
        length = -(-len(words) // 2)
        start = int(rng.integers(0, len(words) - length + 1))
        return words[start : start + length]

    return _each_text(inputs, cropped)


def _each_text(inputs: Array, change: Callable[[list[bytes]], list[bytes]]) -> Array:
    """Text, `bytes` objects of any shape, with the list of each one's words changed."""
    found = np.empty(inputs.shape, object)
    flat = found.ravel()  # a view: `found` is contiguous
    for index, text in enumerate(inputs.ravel().tolist()):
        flat[index] = b" ".join(change(text.split()))
    return found


def averaged_over_copies(
    api: Callable[[Array], Array], inputs: Array, *, copies: int = 5, seed: int = 0
) -> tuple[Array, Array]:
    """Queries an API with perturbed copies of each input, and averages the answers.

    The part of an answer that depends on the exact input is averaged out.

    Args:
        api: gives probabilities of shape `(n, C)` for inputs.
        inputs: shape `(n, ...)`.
        copies: number of copies of each input.
        seed: seed of the copies.

    Returns:
        Mean answers, shape `(n, C)`; and the inputs that were sent, shape `(copies * n, ...)`.
    """
    rng = np.random.default_rng(seed)
    sent = [perturbed_copy(inputs, rng) for _ in range(copies)]
    mean = np.mean([api(copy) for copy in sent], axis=0)
    return np.asarray(mean, np.float32), np.concatenate(sent)


def _shifted(images: Array, shifts: Array) -> Array:
    """Moves each image by its own shift of shape `(n, 2)`; pixels from outside repeat the border."""
    size = _LARGEST_SHIFT
    padded = np.pad(images, ((0, 0), (size, size), (size, size), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    result = np.empty_like(images)
    for down in range(-size, size + 1):
        for right in range(-size, size + 1):
            rows = np.flatnonzero((shifts[:, 0] == down) & (shifts[:, 1] == right))
            result[rows] = padded[rows, size + down : size + down + height, size + right : size + right + width]
    return result


def _parts(images: Array) -> Iterator[Array]:
    for start in range(0, len(images), 1024):
        yield images[start : start + 1024]
