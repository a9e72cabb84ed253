"""Patches of photographs: owner, attacker and test see different places; fewer classes are the first of more."""

import numpy as np
import pytest

from dynamarks_tf._support import files
from dynamarks_tf.errors import DatasetError

pytest.importorskip("PIL", reason="Pillow is in the extra `study`")

from PIL import Image

from benchmarks.studies import photos


@pytest.fixture
def pictures(tmp_path):
    """Three pictures in which a pixel's color says which tile it is in, and the list of them."""
    rows, columns = np.indices((640, 1024)) // photos.TILE
    made = []
    for number in range(3):
        pixels = np.stack([columns * 8, rows * 8, np.full_like(rows, 80 * number)], axis=-1).astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        made.append(photos.Photo(files.file_sha256(path)[:16], "a-package", path.name, "tiles"))
    return tmp_path, made


def built(pictures, classes, **options):
    folder, chosen = pictures
    cache = folder / f"{classes}.npz"
    photos.build(classes, cache, folder=folder, chosen=chosen, train=24, test=12, **options)
    return photos.load(classes, cache)


def test_owner_attacker_and_test_see_different_tiles_of_the_same_photographs(pictures, capsys):
    images = built(pictures, 3)
    halves = np.split(images.x_train, 2)
    assert [len(half) for half in (*halves, images.x_test)] == [12, 12, 12]
    assert np.bincount(images.y_train[:12]).tolist() == np.bincount(images.y_test).tolist() == [4, 4, 4]
    tiles = []
    for x, y in ((halves[0], images.y_train[:12]), (halves[1], images.y_train[12:]), (images.x_test, images.y_test)):
        assert x.shape[1:] == (32, 32, 3)
        assert np.ptp(x, axis=(1, 2)).max() == 0, "a patch reaches into another tile"
        assert np.round(x[:, 0, 0, 2] * 255).tolist() == (80 * y).tolist()
        tiles.append({(round(column * 255) // 8, round(row * 255) // 8) for column, row, _ in x[:, 0, 0]})
    assert not tiles[0] & tiles[1] | tiles[0] & tiles[2] | tiles[1] & tiles[2]
    assert "A CLASS IS A PHOTOGRAPH, NOT AN OBJECT" in capsys.readouterr().err
    assert "not an object" in images.describe()


def test_patches_depend_on_photograph_and_seed_alone(pictures):
    def of_first(images):
        return {patch.tobytes() for patch in images.x_test[images.y_test == 0]}

    three, two = built(pictures, 3), built(pictures, 2)
    assert of_first(three) < of_first(two)  # fewer classes, more patches of each
    assert of_first(built(pictures, 3, seed=1)) != of_first(three)


def test_missing_and_other_photographs_are_named(pictures):
    folder, chosen = pictures
    with pytest.raises(DatasetError, match="1 photograph.s. are not under .* `make photos` fetches .* a-package"):
        photos.check(folder, [*chosen, chosen[0]._replace(path="gone.jpg")])
    with pytest.raises(DatasetError, match=r"1\.png is another file than the one that was chosen"):
        photos.check(folder, [chosen[1]._replace(sha256="0" * 16)])
    with pytest.raises(DatasetError, match="The list has 3 photographs, not 50"):
        photos.build(50, folder / "50.npz", folder=folder, chosen=chosen)


def test_the_list_names_each_photograph_once():
    listed = photos.photos()
    assert len(listed) >= max(photos.CLASSES)
    assert len({photo.sha256 for photo in listed}) == len({photo.path for photo in listed}) == len(listed)
    assert all(len(photo.sha256) == 16 and photo.shows for photo in listed)
