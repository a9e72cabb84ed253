"""Images in folders, one folder for each class, as ImageNet and most photographs in use are kept.

Reference: J. Deng et al., ImageNet: A Large-Scale Hierarchical Image Database, CVPR 2009, for the layout.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import progress
from dynamarks_tf.datasets.image_data import (
    HELD_OUT,
    ImageData,
    balanced_order,
    balanced_split,
    sample_sizes,
    sampled,
)
from dynamarks_tf.errors import ArgumentError, DatasetError

Array = npt.NDArray[Any]
Split = Literal["train", "test"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
TEST_NAMES = ("val", "validation", "test")
IMAGE_SIZE = (64, 64)
MEMORY = 2**30  # bytes of images that `sample` holds by default
LAYOUT = "train/CLASS/*.jpg with val/CLASS/*.jpg or test/CLASS/*.jpg, or CLASS/*.jpg"


@dataclasses.dataclass(frozen=True, repr=False)
class ImageFolder:
    """The files of an image folder, which may hold more than fits in memory. `open_image_folder` makes it.

    Attributes:
        root: the folder.
        class_names: names of the class folders, sorted; a label is a position in it.
        image_size: height and width to which images are brought: cropped about the center, then resized.
        channels: 3 for colors, 1 for gray.
        held_out: how the test set was held out, in words; empty if it has a folder of its own.
        train_files: paths of the training images.
        train_labels: int64 of shape `(n,)`.
        test_files: as `train_files`.
        test_labels: as `train_labels`.
    """

    root: Path
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    held_out: str
    train_files: tuple[Path, ...]
    train_labels: Array
    test_files: tuple[Path, ...]
    test_labels: Array

    def dataset(self, split: Split = "train", *, batch_size: int = 128, shuffle_seed: int | None = None) -> Any:
        """A view for training that reads images on demand.

        Args:
            split: "train" or "test".
            batch_size: images in a batch; the last one may have fewer.
            shuffle_seed: gives each pass over the images a new order; `None` keeps the order of class and file name.

        Returns:
            A `tf.data.Dataset` of batches: float32 images in [0, 1] of shape `(b, height, width, channels)` and int64
            labels of shape `(b,)`. Iterating over it fails at a damaged image, and names its file.

        Example:
            >>> batches = folder.dataset("train", shuffle_seed=0)
            >>> model.fit(batches, validation_data=folder.dataset("test"), shuffle=False)
        """
        import tensorflow as tf

        files, labels = self._split(split)
        shape = (*self.image_size, self.channels)

        def read(file: Any, label: Any) -> tuple[Any, Any]:
            image = tf.py_function(lambda name: self._read(Path(name.numpy().decode())), [file], tf.float32)
            return tf.ensure_shape(image, shape), label

        files_and_labels = tf.data.Dataset.from_tensor_slices(([str(file) for file in files], labels))
        if shuffle_seed is not None:
            files_and_labels = files_and_labels.shuffle(len(files), seed=shuffle_seed)
        images = files_and_labels.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def sample(self, max_images: int | None = None, *, seed: int = 0, verbose: bool = False) -> ImageData:
        """Reads a seeded, class-balanced sample of the images into memory; a smaller set is read whole.

        Args:
            max_images: largest number of training and test images together, a fifth of them test images. If omitted,
                the number that fits in 1 GiB.
            seed: of the choice. Any first part of what is returned is balanced as well.
            verbose: whether to show progress.

        Raises:
            DatasetError: an image is damaged, or there would be fewer training images than classes.
        """
        num_train, num_test = len(self.train_files), len(self.test_files)
        height, width = self.image_size
        most = MEMORY // (4 * height * width * self.channels) if max_images is None else max_images
        train, test, source = num_train, num_test, self._source()
        if num_train + num_test > most:
            train, test = sample_sizes(num_train, num_test, len(self.class_names), most)
            source += f" ({sampled(train, num_train, test, num_test)})"
        chosen = balanced_order(self.train_labels, seed)[:train]
        tested = balanced_order(self.test_labels, seed)[:test]
        files = [*(self.train_files[i] for i in chosen), *(self.test_files[i] for i in tested)]
        shown = progress.track(files, "reading images", len(files), enabled=verbose, unit="images")
        images = np.empty((len(files), *self.image_size, self.channels), np.float32)
        for place, file in enumerate(shown):
            images[place] = self._read(file)
        labels = self.train_labels[chosen], self.test_labels[tested]
        return ImageData(self.root.name, source, images[:train], labels[0], images[train:], labels[1], self.class_names)

    def _split(self, split: Split) -> tuple[tuple[Path, ...], Array]:
        if split == "train":
            return self.train_files, self.train_labels
        if split == "test":
            return self.test_files, self.test_labels
        raise ArgumentError(f"split={split!r}; accepted are 'train' and 'test'.")

    def _source(self) -> str:
        return f"{self.root} ({self.held_out})" if self.held_out else str(self.root)

    def _read(self, file: Path) -> Any:
        return read_image(file, self.image_size, self.channels)


def open_image_folder(
    root: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    channels: int = 3,
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> ImageFolder:
    """Lists the images of a folder; reads none of them yet.

    `root` may have a folder `train` with a folder for each class, and one of `val`, `validation` and `test` with some
    of the same classes. Otherwise it holds the class folders itself. Without a test folder, a seeded part of each class
    is held out. Names that start with a dot, and files other than images (.bmp, .gif, .jpeg, .jpg, .png), are ignored.

    Args:
        root: the folder.
        image_size: height and width to which images are brought.
        channels: 3 for colors, 1 for gray.
        held_out: share of each class that becomes the test set, if there is no folder for it.
        seed: of that choice.

    Raises:
        ArgumentError: `image_size`, `channels` or `held_out` is out of range.
        DatasetError: the folder is laid out differently, or a class has no images.

    Example:
        >>> folder = open_image_folder("flowers", image_size=(96, 96))
        >>> images = folder.sample(2000)  # in memory
        >>> batches = folder.dataset("train", shuffle_seed=0)  # all of them, a batch at a time
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise ArgumentError(f"image_size={image_size!r}; expected height and width, such as (64, 64).")
    if channels not in (1, 3):
        raise ArgumentError(f"channels={channels!r}; accepted are 3 (colors) and 1 (gray).")
    if not 0 < held_out < 1:
        raise ArgumentError(f"held_out={held_out!r}; expected a share between 0 and 1.")
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"There is no folder {root}.")
    train = root / "train" if (root / "train").is_dir() else root
    names = tuple(_class_names(train))
    files, labels = _files(train, names, names)
    if empty := [name for position, name in enumerate(names) if not (labels == position).any()]:
        raise DatasetError(
            f"{len(empty)} class folder(s) of {train} hold no images ({', '.join(SUFFIXES)}), the first: {empty[0]}. "
            "Fill or remove them."
        )
    test = next((root / name for name in TEST_NAMES if train != root and (root / name).is_dir()), None)
    words = ""
    if test is not None:
        present = _class_names(test)
        if unknown := [name for name in present if name not in set(names)]:
            raise DatasetError(f"{test} has the class {unknown[0]}, which {train} lacks.")
        test_files, test_labels = _files(test, tuple(present), names)
        if not test_files:
            raise DatasetError(f"{test} holds no images in its class folders ({', '.join(SUFFIXES)}).")
    else:
        kept, tested = balanced_split(labels, held_out, seed)
        kept.sort()
        tested.sort()
        words = f"{held_out:.0%} of each class held out, seed {seed}"
        test_files, test_labels = tuple(files[i] for i in tested), labels[tested]
        files, labels = tuple(files[i] for i in kept), labels[kept]
    return ImageFolder(
        root, names, (image_size[0], image_size[1]), channels, words, files, labels, test_files, test_labels
    )


def read_image(file: Path, image_size: tuple[int, int], channels: int = 3) -> Any:
    """Reads one image, crops it about its center to the proportions of `image_size`, and resizes it (bilinear,
    antialiased).

    Args:
        file: a BMP, GIF (its first frame), JPEG or PNG file.
        image_size: height and width.
        channels: 3 for colors, 1 for gray.

    Returns:
        float32 tensor in [0, 1], shape `(height, width, channels)`.

    Raises:
        DatasetError: the file cannot be read or is damaged.
    """
    import tensorflow as tf

    try:
        image = tf.io.decode_image(tf.io.read_file(str(file)), channels=channels, expand_animations=False)
    except tf.errors.OpError as error:
        raise DatasetError(f"The image {file} cannot be read: {error.message}. Repair or remove it.") from error
    height, width = image.shape[:2]
    wide = min(width, max(1, round(height * image_size[1] / image_size[0])))
    high = min(height, max(1, round(width * image_size[0] / image_size[1])))
    image = tf.image.crop_to_bounding_box(image, (height - high) // 2, (width - wide) // 2, high, wide)
    return tf.clip_by_value(tf.image.resize(image, image_size, antialias=True) / 255, 0, 1)


def _class_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DatasetError(
            f"{folder} has {len(names)} class folder(s); expected a folder for each of two or more classes: {LAYOUT}."
        )
    return names


def _files(folder: Path, names: tuple[str, ...], all_names: tuple[str, ...]) -> tuple[tuple[Path, ...], Array]:
    """Images of the class folders `names`, and the positions of their classes in `all_names`."""
    position = {name: place for place, name in enumerate(all_names)}
    files: list[Path] = []
    labels: list[int] = []
    for name in names:
        with os.scandir(folder / name) as entries:
            images = sorted(entry.name for entry in entries if _is_image(entry))
        files += [folder / name / image for image in images]
        labels += [position[name]] * len(images)
    return tuple(files), np.array(labels, np.int64)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
