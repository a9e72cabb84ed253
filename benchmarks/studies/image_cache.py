"""Images that a study makes once: an .npz file of arrays, with a text that says what made them.

Each half of the training images, in order, holds equally many of each class.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import files
from dynamarks_tf.datasets.image_data import ImageData, image_data
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def save(cache: Path, halves: tuple[Array, Array], test: Array, about: dict[str, Any], seed: int) -> None:
    """Shuffles images and writes them.

    Args:
        cache: the `.npz` file: uint8 images, uint16 labels, and `about`, a JSON text.
        halves: of the training images, uint8 of shape `(classes, n, height, width[, channels])` each.
        test: the test images, likewise.
        about: what the images are, with `format` and `version`. Their SHA-256 is added.
        seed: of the order of the images.
    """
    rng = np.random.default_rng([seed, len(test)])
    parts = [_shuffled(images, rng) for images in (*halves, test)]
    digest = hashlib.sha256(b"".join(x.tobytes() + y.tobytes() for x, y in parts)).hexdigest()
    with files.new_file(cache, mode=0o644) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            x_train=np.concatenate([parts[0][0], parts[1][0]]),
            y_train=np.concatenate([parts[0][1], parts[1][1]]),
            x_test=parts[2][0],
            y_test=parts[2][1],
            about=np.array(json.dumps({**about, "images_sha256": digest})),
        )
    print(f"{cache}: {sum(len(y) for _, y in parts):,} images, SHA-256 {digest}", file=sys.stderr)


def load(cache: Path, name: str, note: str, expected: tuple[str, int]) -> ImageData:
    """Loads images that `save` wrote.

    Args:
        cache: the file.
        name: of the images.
        note: what they are and are not; it becomes part of the name and is printed.
        expected: format and version.

    Raises:
        DatasetError: the file is damaged, or of another format or version.
    """
    try:
        with np.load(cache) as file:
            about = json.loads(str(file["about"]))
            x_train, y_train, x_test, y_test = (file[array] for array in ARRAYS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{cache} is damaged ({error}). Delete it; it will be made again.") from error
    if (about["format"], about["version"]) != expected:
        raise DatasetError(
            f"{cache} holds {about['format']} of version {about['version']}; expected {expected[0]} of version "
            f"{expected[1]}. Delete it; it will be made again."
        )
    print(f"{name}: {len(x_train):,} + {len(x_test):,} images, {note.upper()}.", file=sys.stderr)
    return image_data(f"{name} ({note})", str(cache), x_train, y_train, x_test, y_test)


def _shuffled(images: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    labels = np.repeat(np.arange(len(images), dtype=np.uint16), images.shape[1])
    order = rng.permutation(len(labels))
    return images.reshape(-1, *images.shape[2:])[order], labels[order]
