"""Sets with a name: Fashion-MNIST, CIFAR-10 and scikit-learn's digits."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np

from dynamarks_tf.datasets.idx import load_idx_folder
from dynamarks_tf.datasets.image_data import ImageData, as_labels, image_data
from dynamarks_tf.errors import DatasetError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FOLDER_VARIABLE = "DYNAMARKS_DATA"
CIFAR10_ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_ARCHIVE = "cifar-10-batches-py-target_archive"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_images(folder: str | os.PathLike[str] | None = None) -> ImageData:
    """Loads Fashion-MNIST from the first place that has it, otherwise scikit-learn's digits with a warning.

    The places, in this order:

    - `folder`;
    - the folder named by the environment variable DYNAMARKS_DATA;
    - the folder of Debian's package dataset-fashion-mnist;
    - `keras.datasets`, which downloads it;
    - the digits that ship with scikit-learn.

    Args:
        folder: a folder with the four IDX files of Fashion-MNIST or of a set in the same format, `.gz` or not.

    Raises:
        DatasetError: the folder does not hold the files, or not even the digits can be loaded.
    """
    local = Path(folder) if folder else _local_folder()
    if local is not None:
        return load_idx_folder(local)
    try:
        return load_fashion_mnist()
    except DatasetError as error:
        warnings.warn(
            f"{error} Until then, scikit-learn's digits take its place: 1,797 images of 8 x 8 pixels. Figures from "
            "them say little about real models.",
            stacklevel=2,
        )
        return load_digits()


def load_fashion_mnist() -> ImageData:
    """Loads Fashion-MNIST as `load_images` does, but never the digits in its place.

    Raises:
        DatasetError: it is not on this machine and cannot be downloaded.

    Reference:
        [Fashion-MNIST](https://arxiv.org/abs/1708.07747), H. Xiao, K. Rasul and R. Vollgraf, 2017.
    """
    if (local := _local_folder()) is not None:
        return load_idx_folder(local)
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # offline, Keras raises whatever the download raised
        raise DatasetError(
            f"Fashion-MNIST is not on this machine and cannot be downloaded ({error}). Install Debian's package "
            f"dataset-fashion-mnist, or put its four .gz files in a folder and set {FOLDER_VARIABLE} to it."
        ) from error
    return image_data("Fashion-MNIST", "keras.datasets", x_train, y_train, x_test, y_test)


def load_cifar10() -> ImageData:
    """Loads CIFAR-10: 50,000 training and 10,000 test photographs of 32 x 32 pixels, 10 classes.

    Keras downloads it once, into its cache.

    Raises:
        DatasetError: it is not in the cache of Keras and cannot be downloaded, or the copy is damaged.

    Reference:
        Learning Multiple Layers of Features from Tiny Images, A. Krizhevsky, 2009.
    """
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:
        cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets" / CIFAR10_ARCHIVE
        raise DatasetError(
            f"CIFAR-10 is not on this machine and cannot be downloaded ({error}). Where there is a network, fetch "
            f"{CIFAR10_ORIGIN} (163 MiB); put the file here, under the name by which Keras looks for it: {cache}"
        ) from error
    images = image_data("CIFAR-10", "keras.datasets", x_train, y_train, x_test, y_test)
    return dataclasses.replace(images, class_names=CIFAR10_CLASSES)


def load_digits(seed: int = 0) -> ImageData:
    """Loads scikit-learn's digits (8 x 8 pixels, 10 classes); a fifth of them, drawn with `seed`, is the test set.

    Raises:
        DatasetError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise DatasetError("The digits need scikit-learn: pip install 'dynamarks_tf[demo]'") from error
    x, y = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32), as_labels(y[order])
    held_out = len(x) // 5
    return ImageData("digits", "scikit-learn", x[held_out:], y[held_out:], x[:held_out], y[:held_out])


def _local_folder() -> Path | None:
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    return DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else None
