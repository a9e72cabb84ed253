"""The one command for CIFAR-10 or a folder of images: on a small folder of ImageNet's form, from images to a report."""

import numpy as np
import pytest

pytest.importorskip("PIL", reason="Pillow is in the extra `study`")

from PIL import Image

from benchmarks.studies import own_images
from dynamarks_tf import datasets
from dynamarks_tf.audit.scenario import Scenario


def test_a_folder_of_images_is_audited_and_gone_on_with(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 12)):
        for shade, name in enumerate(("n01440764", "n01443537", "n01484850")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(80 * shade, 80 * shade + 80, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    out = tmp_path / "out"
    images = datasets.load(tmp_path / "images", image_size=(8, 8))
    settings = {"owner": "mlp", "epochs": 2, "scenarios": [Scenario("full", "mlp")]}
    result = own_images.study(images, out, **settings)
    assert "36 training and 36 test images of 8 x 8 x 3, 3 classes" in capsys.readouterr().out
    assert [row["kind"] for row in result.rows] == ["cost", "theft"]
    assert "full" in (out / "report.md").read_text()
    owner = (out / "owner.keras").read_bytes()
    assert own_images.study(images, out, **settings).rows == result.rows
    assert "to go" not in capsys.readouterr().out
    assert (out / "owner.keras").read_bytes() == owner


def test_a_folder_without_classes_is_refused_in_words(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* has 0 class folder\(s\); expected a folder for each"):
        own_images.main([str(tmp_path), "--out", str(tmp_path / "out")])
