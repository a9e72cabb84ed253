"""Images in class folders: they are found, held out, sampled and read, and a damaged file is named."""

import shutil

import numpy as np
import pytest

from dynamarks_tf import datasets
from dynamarks_tf.errors import ArgumentError, DatasetError

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(np.asarray(pixels, np.uint8), "png" if path.suffix == ".png" else "jpeg"))


def encoded(array, writer):
    import tensorflow as tf

    return (tf.io.encode_png(array) if writer == "png" else tf.io.encode_jpeg(array, quality=95)).numpy()


def plain(color, height=12, width=12):
    return np.broadcast_to(np.uint8(color), (height, width, 3))


@pytest.fixture
def flat(tmp_path):
    """CLASS/* with 10, 5 and 5 images, of several formats and sizes, among other things."""
    root = tmp_path / "plain"
    for name, count in (("red", 10), ("green", 5), ("blue", 5)):
        for number in range(count):
            suffix = (".png", ".jpg", ".JPEG")[number % 3]
            save(root / name / f"{number}{suffix}", plain(COLORS[name], 10 + number, 20))
    (root / "red" / "notes.txt").write_text("no image")
    (root / "red" / ".hidden.png").write_bytes(b"no image")
    (root / ".cache").mkdir()
    (root / "README.md").write_text("no class")
    return root


@pytest.fixture
def split(tmp_path):
    """train/CLASS/* with 6 images a class, val/CLASS/* with 2 each of two of the three classes."""
    root = tmp_path / "split"
    for name, color in COLORS.items():
        for number in range(6):
            save(root / "train" / name / f"{number}.png", plain(color))
    for name in ("red", "blue"):
        for number in range(2):
            save(root / "val" / name / f"{number}.png", plain(COLORS[name]))
    return root


def color_of(image):
    return min(COLORS, key=lambda name: np.abs(image.mean((0, 1)) * 255 - COLORS[name]).sum())


def test_labels_fit_the_pictures_in_every_format_and_size(flat):
    images = datasets.load(flat, image_size=(8, 16))
    assert images.class_names == ("blue", "green", "red")
    assert images.x_train.shape == (16, 8, 16, 3)
    assert images.x_test.shape == (4, 8, 16, 3)
    assert images.x_train.dtype == np.float32
    assert 0 <= images.x_train.min() < images.x_train.max() <= 1
    for x, y in ((images.x_train, images.y_train), (images.x_test, images.y_test)):
        assert [color_of(image) for image in x] == [images.class_names[label] for label in y]
    assert sorted(images.y_test) == [0, 1, 2, 2]


def test_a_fifth_of_each_class_is_held_out_by_seed(flat):
    first, again, other = (datasets.open_image_folder(flat, seed=seed) for seed in (1, 1, 2))
    assert first.test_files == again.test_files != other.test_files
    assert not {*first.test_files} & {*first.train_files}
    assert len({*first.test_files} | {*first.train_files}) == 20
    assert np.bincount(first.test_labels).tolist() == [1, 1, 2]


def test_a_test_folder_is_used_as_it_is(split):
    images = datasets.load(split)
    assert np.bincount(images.y_train).tolist() == [6, 6, 6]
    assert np.bincount(images.y_test).tolist() == [2, 0, 2]
    assert images.num_classes == 3
    assert images.describe() == (f"split: 18 training and 4 test images of 64 x 64 x 3, 3 classes, from {split}")
    (split / "val").rename(split / "test")
    assert len(datasets.load(split).x_test) == 4


def test_without_a_test_folder_beside_train_a_part_is_held_out(split):

    shutil.rmtree(split / "val")
    images = datasets.load(split)
    assert (len(images.x_train), len(images.x_test)) == (12, 6)
    assert "20% of each class held out, seed 0" in images.describe()


def test_a_sample_is_balanced_seeded_and_described(flat):
    folder = datasets.open_image_folder(flat, image_size=(4, 4))
    images = folder.sample(10, seed=3)
    assert sorted(np.bincount(images.y_train)) == [2, 3, 3]
    assert len(images.x_test) == 2
    assert sorted(images.y_train[:3]) == [0, 1, 2]
    assert "a sample: 8 of 16 training images, 2 of 4 test images" in images.describe()
    np.testing.assert_array_equal(images.x_train, folder.sample(10, seed=3).x_train)
    with pytest.raises(DatasetError, match="max_images=2 leaves 2 training images for 3 classes; each class needs one"):
        folder.sample(2)


def test_memory_bounds_the_sample_by_default(flat, monkeypatch):
    monkeypatch.setattr("dynamarks_tf.datasets.image_folder.MEMORY", 10 * 4 * 8 * 8 * 3)
    images = datasets.load(flat, image_size=(8, 8))
    assert len(images.x_train) + len(images.x_test) == 10


def test_the_view_reads_every_image_once_in_batches(flat):
    folder = datasets.open_image_folder(flat, image_size=(8, 8))
    batches = [(x.numpy(), y.numpy()) for x, y in folder.dataset("train", batch_size=5)]
    assert [len(y) for _, y in batches] == [5, 5, 5, 1]
    assert batches[0][0].dtype == np.float32
    assert batches[0][0].shape == (5, 8, 8, 3)
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    np.testing.assert_array_equal(y, folder.train_labels)
    assert [color_of(image) for image in x] == [folder.class_names[label] for label in y]
    assert sum(len(y) for _, y in folder.dataset("test")) == 4
    with pytest.raises(ArgumentError, match="split='all'; accepted are 'train' and 'test'"):
        folder.dataset("all")


def test_the_view_is_shuffled_anew_in_each_pass_and_the_same_for_a_seed(flat):
    folder = datasets.open_image_folder(flat, image_size=(4, 4))

    def passes(seed):
        view = folder.dataset("train", batch_size=16, shuffle_seed=seed)
        return [next(iter(view))[1].numpy().tolist() for _ in range(2)]

    first, second = passes(0)
    assert sorted(first) == sorted(folder.train_labels) == sorted(second)
    assert first != second
    assert passes(0) == [first, second]


def test_a_model_trains_on_the_view(flat):
    import keras

    keras.utils.set_random_seed(0)
    folder = datasets.open_image_folder(flat, image_size=(4, 4))
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    )
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(folder.dataset("train", batch_size=8, shuffle_seed=0), epochs=15, shuffle=False, verbose=0)
    assert model.evaluate(folder.dataset("test"), verbose=0)[1] == 1


def test_images_are_cropped_about_the_center_not_squeezed(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    for name in ("a", "b"):
        save(tmp_path / "set" / name / "0.png", pixels)
        save(tmp_path / "set" / name / "1.png", pixels)
    images = datasets.load(tmp_path / "set", image_size=(5, 5))
    np.testing.assert_allclose(images.x_train, 1, atol=1e-6)


def test_gray_images(flat):
    images = datasets.load(flat, image_size=(4, 4), channels=1)
    assert images.x_train.shape == (16, 4, 4, 1)
    green, blue = (images.x_train[images.y_train == label].mean() for label in (1, 0))
    assert green > 4 * blue > 0


@pytest.mark.parametrize("damage", ["empty", "text", "cut JPEG", "cut PNG"])
def test_a_damaged_image_is_named(flat, damage):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    damaged = flat / "green" / ("0.png" if damage == "cut PNG" else "1.jpg")
    content = {"empty": b"", "text": b"not an image"}.get(damage)
    whole = encoded(noise, "png" if damage == "cut PNG" else "jpeg")
    damaged.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(DatasetError, match=rf"image .*{damaged.name} cannot be read: .* Repair or remove it"):
        datasets.load(flat)
    folder = datasets.open_image_folder(flat)
    split = "train" if damaged in folder.train_files else "test"
    with pytest.raises(Exception, match=rf"green/{damaged.name} cannot be read"):
        list(folder.dataset(split))


def test_classes_without_images(flat, split):
    for image in (flat / "green").iterdir():
        image.unlink()
    (flat / "green" / "list.txt").write_text("")
    with pytest.raises(DatasetError, match=r"1 class folder\(s\) of .* hold no images .*, the first: green\. Fill or"):
        datasets.load(flat)
    for image in split.glob("val/*/*.png"):
        image.unlink()
    with pytest.raises(DatasetError, match="val holds no images in its class folders"):
        datasets.load(split)


def test_other_layouts_are_refused_with_the_one_that_is_accepted(tmp_path, split):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match=r"nothing has 0 class folder\(s\); .*train/CLASS/\*\.jpg"):
        datasets.load(tmp_path / "nothing")
    (split / "val" / "purple").mkdir()
    with pytest.raises(DatasetError, match="val has the class purple, which .*train lacks"):
        datasets.load(split)


def test_one_image_a_class_leaves_nothing_for_the_test(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "set" / name / "0.png", plain((9, 9, 9)))
    with pytest.raises(DatasetError, match="No class has two images"):
        datasets.load(tmp_path / "set")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (0, 4)}, r"image_size=\(0, 4\); expected height and width"),
        ({"channels": 4}, "channels=4; accepted are 3"),
        ({"held_out": 1.0}, "held_out=1.0; expected a share between 0 and 1"),
    ],
)
def test_arguments_out_of_range(flat, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        datasets.open_image_folder(flat, **arguments)
