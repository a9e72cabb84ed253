"""Loading real images, and what happens when they are not there."""

import gzip
import struct

import numpy as np
import pytest

from dynamarks_tf import datasets
from dynamarks_tf.errors import DatasetError


def write_idx(path, array, compress=True):
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte.gz", rng.integers(0, 256, (20, 28, 28)))
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(20) % 10)
    write_idx(folder / "t10k-images-idx3-ubyte", rng.integers(0, 256, (5, 28, 28)), compress=False)
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(5), compress=False)
    return folder


def test_idx_files_compressed_or_not(idx_folder):
    data = datasets.load_images(idx_folder)
    assert (data.name, data.num_classes) == ("Fashion-MNIST", 10)
    assert data.x_train.shape == (20, 28, 28, 1)
    assert data.x_train.dtype == np.float32
    assert 0 <= data.x_train.min() < data.x_train.max() <= 1
    np.testing.assert_array_equal(data.y_test, np.arange(5))


def test_the_environment_names_a_folder(idx_folder, monkeypatch):
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(idx_folder))
    assert datasets.load_images().source == str(idx_folder)


def test_missing_and_damaged_files(idx_folder, tmp_path):
    with pytest.raises(DatasetError, match=r"has no file train-images-idx3-ubyte or train-images-idx3-ubyte\.gz"):
        datasets.load_images(tmp_path)
    whole = (idx_folder / "train-labels-idx1-ubyte.gz").read_bytes()
    for damaged in (whole[:-9], b"not gzip", gzip.compress(b"\0\0\x0d\1\0\0\0\1\0"), gzip.compress(b"\0")):
        (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"train-labels-idx1-ubyte\.gz is damaged or no IDX file"):
            datasets.load_images(idx_folder)


def test_without_folder_and_network_the_digits_are_used_with_a_loud_warning(monkeypatch, tmp_path):
    def offline():
        raise OSError("no network")

    monkeypatch.delenv(datasets.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setattr("keras.datasets.fashion_mnist.load_data", offline)
    with pytest.warns(UserWarning, match="Fashion-MNIST cannot be had .*Falling back to scikit-learn's digits"):
        data = datasets.load_images()
    assert data.name == "digits"


def test_keras_datasets_is_asked_before_the_digits(monkeypatch, tmp_path):
    arrays = (np.zeros((4, 28, 28), np.uint8), np.arange(4)), (np.zeros((2, 28, 28), np.uint8), np.arange(2))
    monkeypatch.delenv(datasets.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setattr("keras.datasets.fashion_mnist.load_data", lambda: arrays)
    assert datasets.load_images().source == "keras.datasets"


def test_digits_are_real_and_split_without_overlap(digits):
    assert len(digits.x_train) + len(digits.x_test) == 1797
    test = {image.tobytes() for image in digits.x_test}
    assert len(test & {image.tobytes() for image in digits.x_train}) == 0
    assert digits.x_train.max() == 1
