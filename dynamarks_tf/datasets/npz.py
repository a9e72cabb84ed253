"""Images in a NumPy archive: `x_train` and `y_train`, perhaps `x_test` and `y_test`."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.datasets.image_data import HELD_OUT, ImageData, as_labels, balanced_split, scaled
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

EXPECTED = "x_train and y_train, perhaps also x_test and y_test"


def load_npz(path: str | os.PathLike[str], *, held_out: float = HELD_OUT, seed: int = 0) -> ImageData:
    """Loads images from an `.npz` file.

    `x_train` and `x_test` have the shape `(n, height, width)` or `(n, height, width, channels)`, and are unsigned bytes
    or floats in [0, 1]. `y_train` and `y_test` are class indices of shape `(n,)` or `(n, 1)`. Other arrays are ignored.

    Args:
        path: the file.
        held_out: share of each class that becomes the test set, if the file has none.
        seed: of that choice.

    Raises:
        DatasetError: the file cannot be read, or an array has another shape or type.

    Example:
        >>> np.savez("set.npz", x_train=images, y_train=labels)
        >>> load_npz("set.npz").describe()
        'set: 800 training and 200 test images of 32 x 32 x 3, 10 classes, from set.npz (a seeded fifth held out)'
    """
    file = Path(path)
    arrays = _read(file)
    x_train, y_train = _images(file, "x_train", arrays), _labels(file, "y_train", arrays, "x_train")
    source = str(file)
    if "x_test" in arrays or "y_test" in arrays:
        x_test, y_test = _images(file, "x_test", arrays), _labels(file, "y_test", arrays, "x_test")
        if x_test.shape[1:] != x_train.shape[1:]:
            raise DatasetError(f"{file}: x_test has images of {x_test.shape[1:]}, x_train of {x_train.shape[1:]}.")
        if len(unknown := np.setdiff1d(y_test, y_train)):
            raise DatasetError(f"{file}: y_test has class {unknown[0]}, which y_train lacks.")
    else:
        kept, tested = balanced_split(y_train, held_out, seed)
        x_train, y_train, x_test, y_test = x_train[kept], y_train[kept], x_train[tested], y_train[tested]
        source += f" ({held_out:.0%} of each class held out, seed {seed})"
    return ImageData(file.stem, source, x_train, y_train, x_test, y_test)


def _read(file: Path) -> dict[str, Array]:
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array")
        with archive:
            return {name: archive[name] for name in ("x_train", "y_train", "x_test", "y_test") if name in archive}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{file} cannot be read as an .npz file with {EXPECTED}: {error}") from error


def _images(file: Path, name: str, arrays: dict[str, Array]) -> Array:
    if name not in arrays:
        raise DatasetError(f"{file} has no array {name}; expected {EXPECTED}.")
    images = arrays[name]
    if images.ndim not in (3, 4) or len(images) == 0:
        raise DatasetError(
            f"{file}: {name} has shape {images.shape}; expected (n, height, width) or (n, height, width, channels)."
        )
    if images.dtype == np.uint8:
        return scaled(images)
    if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
        raise DatasetError(
            f"{file}: {name} is {images.dtype}, from {images.min()} to {images.max()}; expected uint8, or floats in "
            "[0, 1]."
        )
    images = images.astype(np.float32)
    return images[..., np.newaxis] if images.ndim == 3 else images


def _labels(file: Path, name: str, arrays: dict[str, Array], images: str) -> Array:
    if name not in arrays:
        raise DatasetError(f"{file} has no array {name}; expected {EXPECTED}.")
    labels = arrays[name]
    count = len(arrays[images])
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DatasetError(
            f"{file}: {name} is {labels.dtype} of shape {labels.shape}; expected {count} class indices, 0 or larger, "
            f"one for each image of {images}."
        )
    return as_labels(labels)
