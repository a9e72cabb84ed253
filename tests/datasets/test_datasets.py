"""Loading real images, and the messages when they are missing."""

import gzip
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from dynamarks_tf import datasets
from dynamarks_tf.errors import DatasetError
from tests.helpers import ROOT
from tests.helpers.idx import write_idx


@pytest.fixture
def no_local_copy(monkeypatch, tmp_path):
    """Fashion-MNIST is in no folder of this machine."""
    monkeypatch.delenv(datasets.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr("dynamarks_tf.datasets.known.DEBIAN_FOLDER", tmp_path / "none")


@pytest.fixture
def offline(no_local_copy, monkeypatch):
    """It cannot be downloaded either."""

    def load_data():
        raise OSError("no network")

    monkeypatch.setattr("keras.datasets.fashion_mnist.load_data", load_data)


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


def test_without_folder_and_network_the_digits_are_used_with_a_warning(offline):
    with pytest.warns(UserWarning, match=r"cannot be downloaded \(no network\).*digits take its place: 1,797 images"):
        data = datasets.load_images()
    assert data.name == "digits"


def test_keras_datasets_is_tried_before_the_digits(no_local_copy, monkeypatch):
    arrays = (np.zeros((4, 28, 28), np.uint8), np.arange(4)), (np.zeros((2, 28, 28), np.uint8), np.arange(2))
    monkeypatch.setattr("keras.datasets.fashion_mnist.load_data", lambda: arrays)
    assert datasets.load_images().source == "keras.datasets"


def test_digits_are_split_without_overlap(digits):
    assert len(digits.x_train) + len(digits.x_test) == 1797
    test = {image.tobytes() for image in digits.x_test}
    assert len(test & {image.tobytes() for image in digits.x_train}) == 0
    assert digits.x_train.max() == 1


@pytest.fixture
def npz(tmp_path):
    """Writes an .npz file of 40 gray images in four classes; other arrays replace or, if None, remove those."""

    def write(**changes):
        rng = np.random.default_rng(0)
        arrays = {"x_train": rng.integers(0, 256, (40, 6, 6), np.uint8), "y_train": np.repeat(np.arange(4), 10)}
        arrays = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return write


def test_an_npz_file_without_a_test_set_is_split_by_class_and_seed(npz):
    data = datasets.load(npz())
    assert data.x_train.shape == (32, 6, 6, 1)
    assert np.bincount(data.y_train).tolist() == [8] * 4
    assert np.bincount(data.y_test).tolist() == [2] * 4
    assert not {x.tobytes() for x in data.x_train} & {x.tobytes() for x in data.x_test}
    assert data.x_train.max() <= 1 < data.x_train.max() * 255
    assert "20% of each class held out, seed 0" in data.describe()
    assert not np.array_equal(datasets.load(npz(), seed=1).x_test, data.x_test)


def test_an_npz_file_with_a_test_set_keeps_it_and_floats_stay_as_they_are(npz):
    x = np.linspace(0, 1, 5 * 6 * 6 * 3).reshape(5, 6, 6, 3)
    y = np.array([[0], [1], [2], [0], [1]])
    data = datasets.load(npz(x_train=x, y_train=y, x_test=x[:2], y_test=y[:2]))
    np.testing.assert_allclose(data.x_train, x, rtol=1e-6)
    assert data.y_test.tolist() == [0, 1]
    assert data.x_test.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "has no array y_train; expected x_train and y_train"),
        ({"x_test": np.zeros((2, 6, 6), np.uint8)}, "has no array y_test"),
        (
            {"x_train": np.zeros((40, 6, 1, 1, 1))},
            r"x_train has shape \(40, 6, 1, 1, 1\); expected \(n, height, width\)",
        ),
        (
            {"x_train": np.full((40, 6, 6), 255.0)},
            r"x_train is float64, from 255.0 to 255.0; expected uint8, or floats",
        ),
        ({"x_train": np.full((40, 6, 6), np.nan)}, "x_train is float64, from nan to nan"),
        ({"y_train": np.zeros(39, int)}, r"y_train is int64 of shape \(39,\); expected 40 class indices"),
        ({"y_train": np.eye(4)[np.arange(40) % 4]}, r"y_train is float64 of shape \(40, 4\)"),
        ({"y_train": np.full(40, -1)}, "expected 40 class indices, from 0 to 199999"),
        ({"x_test": np.zeros((1, 6, 6), np.uint8), "y_test": np.array([9])}, "y_test has class 9, which y_train lacks"),
        ({"x_test": np.zeros((1, 7, 6), np.uint8), "y_test": np.array([0])}, r"x_test has inputs of \(7, 6, 1\)"),
    ],
)
def test_npz_files_with_other_arrays(npz, changes, message):
    with pytest.raises(DatasetError, match=message):
        datasets.load(npz(**changes))


def test_damaged_npz_files(npz, tmp_path):
    whole = npz().read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("text")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    np.savez(tmp_path / "objects.npz", x_train=np.array([{}]), y_train=np.array([0]))
    for name in ("cut", "text", "one", "objects"):
        with pytest.raises(DatasetError, match=f"{name}.npz cannot be read as an .npz file"):
            datasets.load(tmp_path / f"{name}.npz")


def test_sets_by_name(idx_folder, monkeypatch, digits):
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(idx_folder))
    assert datasets.load("fashion-mnist").name == "Fashion-MNIST"
    assert datasets.load(idx_folder).x_train.shape == (20, 28, 28, 1)
    np.testing.assert_array_equal(datasets.load("digits").x_test, digits.x_test)
    assert datasets.load("digits").describe() == (
        "digits: 1,438 training and 359 test images of 8 x 8 x 1, 10 classes, from scikit-learn"
    )


def test_fashion_mnist_by_name_is_never_replaced_by_another_set(offline):
    with pytest.raises(
        DatasetError, match=r"cannot be downloaded \(no network\).*dataset-fashion-mnist.*DYNAMARKS_DATA"
    ):
        datasets.load("fashion-mnist")


def test_cifar10_comes_through_keras(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20, dtype=np.uint8)[:, None] % 10
    monkeypatch.setattr("keras.datasets.cifar10.load_data", lambda: ((x, y), (x[:5], y[:5])))
    data = datasets.load("cifar10")
    assert (data.name, data.num_classes, data.class_names[3]) == ("CIFAR-10", 10, "cat")
    np.testing.assert_allclose(data.x_train, x / np.float32(255))
    assert data.y_test.tolist() == [0, 1, 2, 3, 4]


def test_cifar10_without_a_network_names_the_file_that_keras_looks_for(tmp_path):
    """A damaged file under the name in the message is found by Keras. The process is new because Keras reads its
    folder and the proxy, behind which there is no network, from the environment."""
    script = """
        from pathlib import Path
        from dynamarks_tf import datasets
        from dynamarks_tf.errors import DatasetError

        for attempt in ("first", "second"):
            print(attempt)
            try:
                datasets.load("cifar10")
            except DatasetError as error:
                message = str(error)
                named = Path(message.rpartition("looks for it: ")[2])
                named.write_bytes(b"damaged")
        print(message)
    """
    offline = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "", "KERAS_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, **offline, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("second\n")
    assert "A local file was found" not in first
    assert "A local file was found" in second
    assert "CIFAR-10 is not on this machine and cannot be downloaded" in second
    assert str(tmp_path) in second


def test_a_sample_of_images_in_memory(digits):
    data = datasets.load("digits", max_images=500, seed=4)
    assert (len(data.x_train), len(data.x_test)) == (400, 100)
    assert np.ptp(np.bincount(data.y_train)) == 0
    assert np.bincount(data.y_train[:50]).tolist() == [5] * 10
    known = {image.tobytes(): label for image, label in zip(digits.x_train, digits.y_train, strict=True)}
    assert [known[image.tobytes()] for image in data.x_train] == data.y_train.tolist()
    assert not np.array_equal(datasets.load("digits", max_images=500, seed=5).x_train, data.x_train)
    assert "a sample: 400 of 1,438 training images, 100 of 359 test images" in data.describe()
    assert len(datasets.load("digits", max_images=5000).x_train) == 1438
    with pytest.raises(DatasetError, match="max_images=10 leaves 8 training images for 10 classes"):
        datasets.load("digits", max_images=10)


def test_other_files_are_refused_with_a_list_of_data_sets(tmp_path):
    (tmp_path / "set.txt").write_text("")
    for spec, message in (
        ("mnist-fashion", "no data set, file or folder 'mnist-fashion'"),
        ("set.txt", "is not a data set"),
    ):
        with pytest.raises(DatasetError, match=message) as caught:
            datasets.load(tmp_path / spec if spec == "set.txt" else spec)
        assert "accepted: fashion-mnist, cifar10, digits, a folder" in str(caught.value)
    with pytest.raises(DatasetError, match=r"image_size=\(4, 4\) is for image folders; digits has images of \(8, 8\)"):
        datasets.load("digits", image_size=(4, 4))
