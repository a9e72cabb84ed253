"""Real images, and tables of vectors or text, for audits, the demo, the tests and the benchmarks.

Imports `_support` and `errors`; `audit`, `demo` and `cli` may import it.
"""

from dynamarks_tf.datasets.idx import load_idx_folder
from dynamarks_tf.datasets.image_data import ImageData, sample
from dynamarks_tf.datasets.image_folder import ImageFolder, open_image_folder
from dynamarks_tf.datasets.known import (
    DEBIAN_FOLDER,
    FOLDER_VARIABLE,
    load_cifar10,
    load_digits,
    load_fashion_mnist,
    load_images,
)
from dynamarks_tf.datasets.locate import ACCEPTED, load
from dynamarks_tf.datasets.npz import load_npy, load_npz
from dynamarks_tf.datasets.table import load_table

__all__ = [
    "ACCEPTED",
    "DEBIAN_FOLDER",
    "FOLDER_VARIABLE",
    "ImageData",
    "ImageFolder",
    "load",
    "load_cifar10",
    "load_digits",
    "load_fashion_mnist",
    "load_idx_folder",
    "load_images",
    "load_npy",
    "load_npz",
    "load_table",
    "open_image_folder",
    "sample",
]
