"""The one command for CIFAR-10 or a folder of images: on a small folder of ImageNet's form, from images to a report."""

import json

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="Pillow is in the extra `study`")

from benchmarks.studies import own_images


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
    command = [str(tmp_path / "images"), "--image-size", "8", "--quick", "--epochs", "2", "--owner", "mlp"]
    own_images.main([*command, "--out", str(out)])
    said = capsys.readouterr().out
    assert "36 training and 36 test images of 8 x 8 x 3, 3 classes" in said
    rows = json.loads((out / "results-seed0.json").read_text())["rows"]
    assert {row["kind"] for row in rows} == {"cost", "theft", "independent"}
    assert "true labels" in (out / "report.md").read_text()
    weights = (out / "owner.keras").read_bytes()
    own_images.main([*command, "--out", str(out)])
    assert "to go" not in capsys.readouterr().out
    assert (out / "owner.keras").read_bytes() == weights


def test_a_folder_without_classes_is_refused_in_words(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* has 0 class folder\(s\); expected a folder for each"):
        own_images.main([str(tmp_path), "--out", str(tmp_path / "out")])
