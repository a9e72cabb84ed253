"""Loads a data set by name, or from a folder or file."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
from pathlib import Path

from dynamarks_tf._support import storage
from dynamarks_tf._support.storage import StoredFile
from dynamarks_tf.datasets.idx import is_idx_folder, load_idx_folder
from dynamarks_tf.datasets.image_data import ImageData, sample
from dynamarks_tf.datasets.image_folder import IMAGE_SIZE, LAYOUT, open_image_folder
from dynamarks_tf.datasets.known import load_cifar10, load_digits, load_fashion_mnist
from dynamarks_tf.datasets.npz import load_npy, load_npz
from dynamarks_tf.datasets.table import SUFFIXES, load_table
from dynamarks_tf.errors import DatasetError

KNOWN = {"fashion-mnist": load_fashion_mnist, "cifar10": load_cifar10, "digits": load_digits}
ACCEPTED = (
    f"{', '.join(KNOWN)}, a folder with the IDX files of MNIST's format, a folder with images ({LAYOUT}), an .npz "
    "file with x_train and y_train, an .npy file with a second one for the labels, or a .csv or .parquet table"
)


def load(
    spec: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    max_images: int | None = None,
    seed: int = 0,
    verbose: bool = False,
) -> ImageData:
    """Loads images by the name of a known set, or images, vectors or text from a folder or file.

    Args:
        spec: `fashion-mnist`, `cifar10` or `digits`; a folder with the IDX files of MNIST's format; or an `.npz` file
            with `x_train`, `y_train`, perhaps `x_test`, `y_test`. Or a folder with images: `train/CLASS/*.jpg` with
            `val/CLASS/*.jpg` or `test/CLASS/*.jpg`, or `CLASS/*.jpg`. Vectors or text: a `.csv` or `.parquet` file
            (see `load_table`), an `.npz` file, or an `.npy` file with `labels`. Files may be fsspec URLs such as
            `s3://BUCKET/customers.parquet`, and compressed by gzip or Zstandard.
        labels: the `.npy` file of the labels, for inputs in an `.npy` file.
        image_size: height and width to which images from an image folder are brought, 64 x 64 if omitted. Other sets
            keep their size.
        channels: of an image folder: 3 for colors, 1 for gray.
        max_images: largest number of training and test images together; a larger set is sampled, with a seed and
            balanced classes. If omitted, an image folder is sampled down to 1 GiB; other sets are loaded whole.
        seed: seed of the held-out test images and of the sample.
        verbose: whether to show progress.

    Returns:
        The images. `describe()` describes them in one line.

    Raises:
        DatasetError: there is no such set, it cannot be read, or `max_images` is less than one training image a class.

    Example:
        >>> images = load("flowers", image_size=(96, 96), max_images=2000)
        >>> print(images.describe())
        flowers: 1,600 training and 400 test images of 96 x 96 x 3, 5 classes, from flowers (...)
    """
    name = os.fspath(spec)
    if storage.is_url(name):
        with tempfile.TemporaryDirectory(prefix="dynamarks-data-") as place:
            copy = _fetched(name, place)
            beside = None if labels is None else _fetched(os.fspath(labels), place)
            data = load(copy, labels=beside, max_images=max_images, seed=seed, verbose=verbose)
            return dataclasses.replace(data, source=data.source.replace(copy, storage.without_secrets(name)))
    path = Path(name).expanduser()
    if labels is not None and path.suffix != ".npy":
        raise DatasetError(f"labels={os.fspath(labels)!r} (--labels) is for inputs in an .npy file. Leave it out.")
    if name in KNOWN:
        images = KNOWN[name]()
    elif path.is_file():
        if path.suffix not in (".npz", ".npy", *SUFFIXES):
            raise DatasetError(f"{path} is not a data set; accepted: {ACCEPTED}.")
        if path.suffix == ".npy":
            images = load_npy(path, labels, seed=seed)
        else:
            images = load_npz(path, seed=seed) if path.suffix == ".npz" else load_table(path, seed=seed)
    elif path.is_dir() and is_idx_folder(path):
        images = load_idx_folder(path)
    elif path.is_dir():
        folder = open_image_folder(path, image_size=image_size or IMAGE_SIZE, channels=channels, seed=seed)
        return folder.sample(max_images, seed=seed, verbose=verbose)
    else:
        raise DatasetError(f"There is no data set, file or folder {name!r}; accepted: {ACCEPTED}.")
    if image_size is not None and image_size != images.x_train.shape[1:3]:
        raise DatasetError(
            f"image_size={image_size} is for image folders; {images.name} has {images.kind} of "
            f"{images.x_train.shape[1:3]}. Leave it out."
        )
    return images if max_images is None else sample(images, max_images, seed)


def _fetched(url: str, folder: str) -> str:
    """Copies a file at a URL to a folder, unpacked; returns its path there.

    Raises:
        DatasetError: there is no such file, or it cannot be read.
    """
    try:
        found = storage.find(url)
        if len(found) != 1 or not isinstance(found[0], StoredFile):
            raise DatasetError(f"{storage.without_secrets(url)} is not one file; of URLs, only files are loaded.")
        name = re.sub(r"[^\w.-]", "_", found[0].last_name).removesuffix(".gz").removesuffix(".zst")
        path = os.path.join(folder, name)
        with found[0].open_seekable() as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target)
        return path
    except OSError as error:
        raise DatasetError(str(error)) from error
