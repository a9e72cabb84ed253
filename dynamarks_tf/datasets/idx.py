"""Images in the IDX format of MNIST: four files in a folder.

Reference: Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database, 1998, which describes the format.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import bounds
from dynamarks_tf.datasets.image_data import ImageData, image_data
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def load_idx_folder(folder: str | os.PathLike[str]) -> ImageData:
    """Loads images in the IDX format of MNIST from a folder.

    Raises:
        DatasetError: a file is missing, or is not an IDX file.
    """
    root = Path(folder)
    x_train, y_train, x_test, y_test = (_read_idx(root, name) for name in FILES)
    name = "Fashion-MNIST" if "fashion" in root.name.lower() else root.name
    return image_data(name, str(root), x_train, y_train, x_test, y_test)


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder has any of the four files."""
    return any((folder / f"{name}{suffix}").is_file() for name in FILES for suffix in ("", ".gz"))


def _read_idx(root: Path, name: str) -> Array:
    """Reads one IDX file: two zero bytes, a type code, the number of axes, the axes as big-endian 32-bit sizes."""
    path = next((p for p in (root / f"{name}.gz", root / name) if p.is_file()), None)
    if path is None:
        raise DatasetError(f"{root} has no file {name} or {name}.gz. Expected the four IDX files: {', '.join(FILES)}")
    try:
        data = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
        zero, code, axes = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
        if (zero, code) != (0, 8):
            raise ValueError("not an IDX file of unsigned bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DatasetError(f"{path} is damaged or no IDX file: {error}") from error


def _unpacked(path: Path) -> bytes:
    most = bounds.allowed(path.stat().st_size)
    with gzip.open(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")
    return data
