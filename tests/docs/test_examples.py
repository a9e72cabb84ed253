"""The examples for users run as they are, on small real images."""

import numpy as np

from dynamarks_tf.keys.key import MarkKey
from tests.helpers import ROOT
from tests.helpers.files import script
from tests.helpers.idx import write_idx

EXAMPLES = ROOT / "examples"


def test_mark_and_export_then_verify_surrogate(tmp_path, digits, capsys, monkeypatch):
    # The example's key is random. On few images the strength depends on the key, so it is fixed here.
    monkeypatch.setattr(MarkKey, "generate", lambda owner: MarkKey(bytes(range(1, 33)), owner))
    data = tmp_path / "digits"
    data.mkdir()
    for split, images, labels in (
        ("train", digits.x_train, digits.y_train),
        ("t10k", digits.x_test, digits.y_test),
    ):
        write_idx(data / f"{split}-images-idx3-ubyte.gz", np.round(255 * images[..., 0]))
        write_idx(data / f"{split}-labels-idx1-ubyte.gz", labels)
    out = tmp_path / "release"
    script(EXAMPLES / "mark_and_export.py").main(["--out", str(out), "--data", str(data), "--epochs", "30"])
    printed = capsys.readouterr().out.splitlines()
    clean, marked = (line.split()[-1] for line in printed if line.startswith("accuracy"))
    assert abs(float(clean) - float(marked)) < 0.01  # near ties may change sides
    assert float(clean) > 0.9
    assert (out / "served" / "classifier" / "1" / "saved_model.pb").is_file()
    evidence = script(EXAMPLES / "verify_surrogate.py").main([str(out), "--data", str(data), "--epochs", "80"])
    assert evidence.log10_p <= -4
    printed = capsys.readouterr().out
    assert ("mark found" if evidence.detected() else "mark not found") in printed
    assert "follow from the recorded answers" in printed
    assert (out / "evidence.json").is_file()
