"""Images, vectors or text in NumPy files: an archive with arrays of these names, or two single arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import archives, bounds, texts
from dynamarks_tf._support.input_kind import input_kind
from dynamarks_tf.datasets.image_data import HELD_OUT, ImageData, as_labels, balanced_split, scaled
from dynamarks_tf.datasets.table import MAX_BYTES, MAX_ROWS
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

_KINDS = archives.NUMBERS + archives.TEXTS
EXPECTED = "x_train and y_train, perhaps also x_test and y_test (or x and y)"


def load_npz(path: str | os.PathLike[str], *, held_out: float = HELD_OUT, seed: int = 0) -> ImageData:
    """Loads images, vectors or text from an `.npz` file.

    `x_train` and `x_test` are images of shape `(n, height, width)` or `(n, height, width, channels)`, unsigned bytes
    or floats in [0, 1]; vectors of shape `(n, features)`, numbers as the model takes them; or text of shape `(n,)`.
    `y_train` and `y_test` are class indices of shape `(n,)` or `(n, 1)`. `x` and `y` stand for the former two. Other
    arrays are ignored. Of vectors and text the first 200,000 rows are taken, and the source says so.

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
    x_train, y_train, cut = _first_rows(x_train, y_train)
    if "x_test" in arrays or "y_test" in arrays:
        x_test, y_test = _images(file, "x_test", arrays), _labels(file, "y_test", arrays, "x_test")
        x_test, y_test, test_cut = _first_rows(x_test, y_test)
        source += f" (test set: {test_cut})" if test_cut else ""
        if x_test.shape[1:] != x_train.shape[1:] or input_kind(x_test) != input_kind(x_train):
            raise DatasetError(
                f"{file}: x_test has inputs of {x_test.shape[1:]}, x_train of {x_train.shape[1:]}, or of another kind."
            )
        if len(unknown := np.setdiff1d(y_test, y_train)):
            raise DatasetError(f"{file}: y_test has class {unknown[0]}, which y_train lacks.")
    else:
        kept, tested = balanced_split(y_train, held_out, seed)
        x_train, y_train, x_test, y_test = x_train[kept], y_train[kept], x_train[tested], y_train[tested]
        source += f" ({held_out:.0%} of each class held out, seed {seed})"
    source += f" ({cut})" if cut else ""
    return ImageData(file.stem, source, x_train, y_train, x_test, y_test)


def load_npy(
    path: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None,
    *,
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> ImageData:
    """Loads images, vectors or text from an `.npy` file, and their labels from a second one.

    Args:
        path: the inputs, as `x_train` of `load_npz`. At most 200,000 rows and 1 GiB are read, and the source says so.
        labels: class indices, shape `(n,)` or `(n, 1)`.
        held_out: share of each class that becomes the test set.
        seed: of that choice.

    Raises:
        DatasetError: a file cannot be read, or an array has another shape or type.
    """
    file = Path(path)
    if labels is None:
        raise DatasetError(
            f"{file} holds inputs alone. Name the file of their labels: labels='y.npy' (--labels y.npy)."
        )
    try:
        inputs, numbers = (archives.mapped(each, _KINDS) for each in (file, labels))
        if not inputs.ndim or not numbers.ndim:
            raise ValueError("expected an .npy file with one array of several rows in each")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} or {labels} cannot be read: {_reason(error)}") from error
    total = len(inputs)
    if len(numbers) != total:
        raise DatasetError(f"{file} has {total:,} rows; {labels} has {len(numbers):,}. Each input takes one label.")
    count = min(total, MAX_ROWS, max(1, MAX_BYTES * total // max(1, inputs.nbytes)))
    arrays = {"x": np.array(inputs[:count]), "y": np.array(numbers[:count])}
    x, y = _images(file, "x", arrays), _labels(Path(labels), "y", arrays, "x")
    kept, tested = balanced_split(y, held_out, seed)
    source = f"{file}, labels from {labels} ({held_out:.0%} of each class held out, seed {seed}"
    source += ")" if count == total else f"; only the first {count:,} of {total:,} rows were read)"
    return ImageData(file.stem, source, x[kept], y[kept], x[tested], y[tested])


def _read(file: Path) -> dict[str, Array]:
    try:
        with archives.Archive(file) as archive:
            stands_for = {} if "x_train.npy" in archive.names else {"x": "x_train", "y": "y_train"}
            return {
                stands_for.get(name, name): archive.array(f"{name}.npy", _KINDS)
                for name in ("x_train", "y_train", "x_test", "y_test", *stands_for)
                if f"{name}.npy" in archive.names
            }
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read as an .npz file with {EXPECTED}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What is wrong with a file; pickled objects, which could run code, are never loaded."""
    if "Python objects" in str(error):
        return "it holds pickled Python objects, which could run code. Save numbers, or text as np.array(texts, str)."
    return bounds.reason(error)


def _images(file: Path, name: str, arrays: dict[str, Array]) -> Array:
    if name not in arrays:
        raise DatasetError(f"{file} has no array {name}; expected {EXPECTED}.")
    images = arrays[name]
    if texts.may_be_text(images):
        return _text(file, name, images)
    if images.ndim == 2 and len(images) and images.dtype.kind in "iuf":
        vectors = images.astype(np.float32)
        if not np.isfinite(vectors).all():
            raise DatasetError(f"{file}: {name} holds values that are missing or too large for float32.")
        return vectors
    if images.ndim not in (3, 4) or len(images) == 0:
        raise DatasetError(
            f"{file}: {name} has shape {images.shape}; expected (n, height, width) or (n, height, width, channels) for "
            "images, (n, features) for vectors, (n,) for text."
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


def _text(file: Path, name: str, inputs: Array) -> Array:
    if inputs.shape not in ((len(inputs),), (len(inputs), 1)) or not len(inputs):
        raise DatasetError(f"{file}: {name} is text of shape {inputs.shape}; expected (n,), a text for each label.")
    try:
        return texts.as_bytes(inputs.reshape(-1))
    except ValueError as error:
        raise DatasetError(f"{file}: {name} cannot be read as text: {error}.") from error


def _first_rows(inputs: Array, labels: Array) -> tuple[Array, Array, str]:
    """Vectors or text up to the bound of rows, and words about what was left; images as they are."""
    if input_kind(inputs) == "images" or len(inputs) <= MAX_ROWS:
        return inputs, labels, ""
    return inputs[:MAX_ROWS], labels[:MAX_ROWS], f"only the first {MAX_ROWS:,} of {len(inputs):,} rows were taken"


def _labels(file: Path, name: str, arrays: dict[str, Array], images: str) -> Array:
    if name not in arrays:
        raise DatasetError(f"{file} has no array {name}; expected {EXPECTED}.")
    labels = arrays[name]
    count = len(arrays[images])
    is_class = labels.dtype.kind in "iu" and labels.size and labels.min() >= 0 and labels.max() < MAX_ROWS
    if labels.shape not in ((count,), (count, 1)) or not is_class:
        raise DatasetError(
            f"{file}: {name} is {labels.dtype} of shape {labels.shape}; expected {count} class indices, from 0 to "
            f"{MAX_ROWS - 1}, one for each input of {images}."
        )
    return as_labels(labels)
