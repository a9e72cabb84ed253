"""The rendered characters of the studies: chosen and drawn the same way each time; missing fonts are named."""

import json

import numpy as np
import pytest

from dynamarks_tf.errors import DatasetError

pytest.importorskip("PIL", reason="Pillow is in the extra `study`")

from benchmarks.studies import glyphs


@pytest.fixture(scope="module")
def few_classes(tmp_path_factory):
    """Five classes with 4 + 1 images, from one process and from two."""
    try:
        glyphs.find_faces()
    except DatasetError:
        pytest.skip("the fonts are not installed")
    folder = tmp_path_factory.mktemp("glyphs")
    for processes in (1, 2):
        glyphs.build(folder / f"{processes}.npz", processes=processes, classes=5, train=4, test=1)
    return folder


def test_missing_fonts_are_listed_with_the_command_that_installs_them(tmp_path):
    with pytest.raises(DatasetError) as caught:
        glyphs.find_faces(tmp_path)
    assert "wqy-zenhei.ttc" in str(caught.value)
    assert "apt-get install -y --no-install-recommends fonts-arphic-bkai00mp " in str(caught.value)


def test_the_characters_are_common_in_three_standards_and_in_a_fixed_order():
    characters = glyphs.shared_characters()
    assert len(characters) == len({*characters}) == 1583
    assert "".join(characters[:10]) == "一乙丁七乃九了二人入"


def test_images_do_not_depend_on_the_number_of_processes(few_classes):
    one, two = (np.load(few_classes / f"{processes}.npz") for processes in (1, 2))
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])


def test_each_half_of_the_training_images_has_each_class_equally_often(few_classes, capsys):
    images = glyphs.load(few_classes / "1.npz")
    assert images.x_train.shape == (20, 32, 32, 1)
    assert images.x_test.shape == (5, 32, 32, 1)
    assert np.bincount(images.y_train[:10]).tolist() == np.bincount(images.y_train[10:]).tolist() == [2] * 5
    assert len({image.tobytes() for image in [*images.x_train, *images.x_test]}) == 25
    assert "RENDERED FROM FONTS, NOT PHOTOGRAPHED" in capsys.readouterr().err
    assert "not photographed" in images.describe()


def test_another_version_of_the_cache_or_a_damaged_one_is_refused(tmp_path):
    cache = tmp_path / "glyphs.npz"
    cache.write_bytes(b"PK\3\4 cut off")
    with pytest.raises(DatasetError, match="is damaged .* Delete it; it will be made again"):
        glyphs.load(cache)
    arrays = {name: np.zeros(1) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(cache, about=np.array(json.dumps({"format": glyphs.FORMAT, "version": 99})), **arrays)
    with pytest.raises(DatasetError, match="of version 99; expected dynamarks-glyphs of version 1"):
        glyphs.load(cache)
