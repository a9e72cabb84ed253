"""Images, vectors or text in memory, and how they are scaled, split and sampled."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.input_kind import Kind, input_kind
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True, repr=False)
class ImageData:
    """Images, or vectors or text in their place, with labels; split into training and test set.

    Attributes:
        name: name of the data.
        source: file, folder or library that they come from.
        x_train: images, float32 in [0, 1] of shape `(n, height, width, channels)`; or vectors, float32 of shape
            `(n, features)`; or text, `bytes` objects in UTF-8 of shape `(n,)`.
        y_train: class index, int64 of shape `(n,)`.
        x_test: as `x_train`, never used for training.
        y_test: as `y_train`.
        class_names: one for each class, where they are known.
    """

    name: str
    source: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names) or int(self.y_train.max()) + 1

    @property
    def kind(self) -> Kind:
        """What the inputs are: `"images"`, `"vectors"` or `"text"`."""
        return input_kind(self.x_train)

    def describe(self) -> str:
        """Describes the data in one line."""
        size = " x ".join(str(length) for length in self.x_train.shape[1:])
        noun = "texts" if self.kind == "text" else f"{self.kind} of {size}"
        return (
            f"{self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test {noun}, "
            f"{self.num_classes:,} classes, from {self.source}"
        )


def image_data(name: str, source: str, x_train: Array, y_train: Array, x_test: Array, y_test: Array) -> ImageData:
    """Makes `ImageData` from images in unsigned bytes.

    Args:
        name: name of the images.
        source: file, folder or library that they come from.
        x_train: uint8 of shape `(n, height, width)` or `(n, height, width, channels)`.
        y_train: class indices of shape `(n,)` or `(n, 1)`.
        x_test: as `x_train`.
        y_test: as `y_train`.
    """
    return ImageData(name, source, scaled(x_train), as_labels(y_train), scaled(x_test), as_labels(y_test))


def scaled(images: Array) -> Array:
    """Unsigned bytes as float32 in [0, 1], with an axis for the channels."""
    images = images.astype(np.float32) / 255
    return images[..., np.newaxis] if images.ndim == 3 else images


def as_labels(labels: Array) -> Array:
    """Class indices as int64 of shape `(n,)`."""
    return labels.reshape(-1).astype(np.int64)


def balanced_order(labels: Array, seed: int) -> Array:
    """A random order in which every first part has each class equally often, as far as the images suffice.

    Args:
        labels: class index, shape `(n,)`.
        seed: of the order.

    Returns:
        A permutation of the positions 0 to n - 1.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    _, starts, counts = np.unique(labels[order][by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)  # the first image of each class, then the second of each ...
    turn[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return order[np.argsort(turn, kind="stable")]


def balanced_split(labels: Array, held_out: float, seed: int) -> tuple[Array, Array]:
    """Splits images, class by class, into those for training and those for the test.

    Args:
        labels: class index, shape `(n,)`.
        held_out: share of each class for the test, between 0 and 1; at least one image of a class stays for training.
        seed: of the choice.

    Returns:
        Positions of the training images and of the test images, each in the order of `balanced_order`.

    Raises:
        DatasetError: no class has two images.
    """
    order = balanced_order(labels, seed)
    counts = np.bincount(labels)
    waiting = np.minimum(np.ceil(counts * held_out).astype(np.int64), counts - 1)
    tested = np.zeros(len(labels), bool)
    for place, label in zip(order, labels[order], strict=True):
        if waiting[label] > 0:
            waiting[label] -= 1
            tested[place] = True
    if not tested.any():
        raise DatasetError("No class has two images, so none can be held out for the test. Add images, or a test set.")
    return order[~tested[order]], order[tested[order]]


def sample_sizes(num_train: int, num_test: int, num_classes: int, max_images: int) -> tuple[int, int]:
    """Numbers of training and test images in a sample of `max_images`; a fifth are test images, if there are enough.

    Raises:
        DatasetError: there would be fewer training images than classes.
    """
    test = min(num_test, int(max_images * HELD_OUT))
    train = min(num_train, max_images - test)
    if train < num_classes:
        raise DatasetError(
            f"max_images={max_images} leaves {train} training images for {num_classes:,} classes; each class needs "
            "one. Allow more images, or make them smaller with image_size."
        )
    return train, test


def sample(images: ImageData, max_images: int, seed: int = 0) -> ImageData:
    """A seeded, class-balanced sample of images in memory; a smaller set is returned as it is.

    Args:
        images: the images to choose from.
        max_images: largest number of training and test images together.
        seed: of the choice.

    Raises:
        DatasetError: `max_images` is less than one training image a class.
    """
    num_train, num_test = len(images.x_train), len(images.x_test)
    if num_train + num_test <= max_images:
        return images
    train, test = sample_sizes(num_train, num_test, images.num_classes, max_images)
    chosen = balanced_order(images.y_train, seed)[:train]
    tested = balanced_order(images.y_test, seed)[:test]
    return dataclasses.replace(
        images,
        source=f"{images.source} ({sampled(train, num_train, test, num_test)})",
        x_train=images.x_train[chosen],
        y_train=images.y_train[chosen],
        x_test=images.x_test[tested],
        y_test=images.y_test[tested],
    )


def sampled(train: int, num_train: int, test: int, num_test: int) -> str:
    """Describes the size of a sample."""
    return f"a sample: {train:,} of {num_train:,} training images, {test:,} of {num_test:,} test images"
