"""Real images for the demo, the tests and the benchmarks: Fashion-MNIST, or scikit-learn's digits without a network."""

from __future__ import annotations

import dataclasses
import gzip
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FOLDER_VARIABLE = "DYNAMARKS_DATA"
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclasses.dataclass(frozen=True, repr=False)
class ImageData:
    """Images with labels, split into training and test set.

    Attributes:
        name: what the images are.
        source: where they were read.
        x_train: float32 in [0, 1], shape `(n, height, width, channels)`.
        y_train: class index, int64 of shape `(n,)`.
        x_test: as `x_train`, never used for training.
        y_test: as `y_train`.
    """

    name: str
    source: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.y_train.max()) + 1


def load_images(folder: str | os.PathLike[str] | None = None) -> ImageData:
    """Loads Fashion-MNIST from wherever it can be had, else scikit-learn's digits with a loud warning.

    Tried in this order: `folder`; the folder named by the environment variable DYNAMARKS_DATA; the folder of Debian's
    package dataset-fashion-mnist; `keras.datasets`, which downloads it; the digits that ship with scikit-learn.

    Args:
        folder: a folder with the four IDX files of Fashion-MNIST or of a set in the same format, `.gz` or not.

    Raises:
        DatasetError: `folder` was given and does not hold the files, or nothing at all can be loaded.
    """
    named = folder or os.environ.get(FOLDER_VARIABLE)
    if named:
        return load_idx_folder(named)
    if DEBIAN_FOLDER.is_dir():
        return load_idx_folder(DEBIAN_FOLDER)
    try:
        return _keras_fashion_mnist()
    except Exception as error:  # offline, Keras raises whatever the download raised
        warnings.warn(
            f"Fashion-MNIST cannot be had ({error}). Falling back to scikit-learn's digits: 1,797 images of 8 x 8 "
            "pixels. Figures from them say little about real models. For Fashion-MNIST, pass --data FOLDER with its "
            "IDX files, or install Debian's package dataset-fashion-mnist.",
            stacklevel=2,
        )
        return load_digits()


def load_idx_folder(folder: str | os.PathLike[str]) -> ImageData:
    """Loads images in the IDX format of MNIST from a folder.

    Raises:
        DatasetError: a file is missing or is no IDX file.
    """
    root = Path(folder)
    x_train, y_train, x_test, y_test = (_read_idx(root, name) for name in _FILES)
    name = "Fashion-MNIST" if "fashion" in root.name.lower() else root.name
    return ImageData(name, str(root), _scaled(x_train), _labels(y_train), _scaled(x_test), _labels(y_test))


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
    x, y = (x[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32), _labels(y[order])
    held_out = len(x) // 5
    return ImageData("digits", "scikit-learn", x[held_out:], y[held_out:], x[:held_out], y[:held_out])


def _keras_fashion_mnist() -> ImageData:
    import keras

    (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    return ImageData(
        "Fashion-MNIST", "keras.datasets", _scaled(x_train), _labels(y_train), _scaled(x_test), _labels(y_test)
    )


def _read_idx(root: Path, name: str) -> Array:
    """Reads one IDX file: two zero bytes, a type code, the number of axes, the axes as big-endian 32-bit sizes."""
    path = next((p for p in (root / f"{name}.gz", root / name) if p.is_file()), None)
    if path is None:
        raise DatasetError(f"{root} has no file {name} or {name}.gz. Expected the four IDX files: {', '.join(_FILES)}")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, code, axes = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
        if (zero, code) != (0, 8):
            raise ValueError("not an IDX file of unsigned bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DatasetError(f"{path} is damaged or no IDX file: {error}") from error


def _scaled(images: Array) -> Array:
    return (images.astype(np.float32) / 255)[..., np.newaxis]


def _labels(labels: Array) -> Array:
    return labels.astype(np.int64)
