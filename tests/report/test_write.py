"""Reports as files: complete or not at all, with the right modes, without TensorFlow, from the command line too."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dynamarks_tf._support import files
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.report import write_report
from tests.helpers import ROOT
from tests.helpers.files import mode


def test_a_public_report_is_readable_a_confidential_one_private(bundles, key, tmp_path):
    page, numbers = tmp_path / "report.html", tmp_path / "report.report.json"
    write_report(page, bundles / "surrogate.zip", key=key, plots=tmp_path / "plots")
    assert (mode(page), mode(numbers)) == (0o644, 0o644)
    content = json.loads(numbers.read_text())
    assert (content["format"], content["version"]) == ("dynamarks-report", 2)
    assert content["bundle_sha256"] == files.file_sha256(bundles / "surrogate.zip")
    assert content["decoys"]["num_keys"] == 10_000
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"agreement.png", "decoys.png", "growth.png"}
    text = page.read_text()
    assert "The mark of ACME Vision was detected in the suspect." in text
    assert "2026-01-01 00:00 UTC" in text  # the date of the commitment
    assert "Confidential" not in text

    write_report(page, bundles / "surrogate.zip", key=key, plots=tmp_path / "plots", confidential=True)
    assert {mode(path) for path in (page, numbers, tmp_path / "plots" / "sign-table.png")} == {0o600}
    assert "Confidential." in page.read_text()
    with pytest.raises(ArgumentError, match="sign-table.png is a part of the key"):
        write_report(page, bundles / "surrogate.zip", key=key, plots=tmp_path / "plots")
    assert "Confidential." in page.read_text()


def test_the_same_bundle_gives_the_same_report(bundles, key, tmp_path):
    for name in ("one", "two"):
        write_report(tmp_path / name / "report.html", bundles / "surrogate.zip", key=key, plots=tmp_path / name)
    for one in (tmp_path / "one").iterdir():
        assert one.read_bytes() == (tmp_path / "two" / one.name).read_bytes(), one.name


def test_a_report_that_cannot_be_made_leaves_the_old_one(bundles, key, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("old")
    with pytest.raises(ArgumentError, match="true_labels"):
        write_report(page, bundles / "surrogate.zip", key=key, true_labels=np.zeros(3, int))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert page.read_text() == "old"
    with pytest.raises(ArgumentError, match="A report is an HTML file, such as report.html. Received: .*report.pdf"):
        write_report(tmp_path / "report.pdf", bundles / "surrogate.zip")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ArgumentError, match=r"Reports need jinja2: pip install 'dynamarks_tf\[report\]'"):
        write_report(page, bundles / "surrogate.zip")


def test_check_writes_a_report_where_there_is_no_tensorflow(bundles, key, tmp_path):
    key.save(tmp_path / "acme.key")
    words = ["check", str(bundles / "surrogate.zip"), "--key", str(tmp_path / "acme.key"), "--report", "report.html"]
    script = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from dynamarks_tf.cli.main import main
sys.exit(main({words!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "Report: report.html. It may be published." in done.stderr
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_verify_writes_a_report_without_leaving_a_bundle(
    owner_model, surrogate, digits, key, tmp_path, capsys, monkeypatch
):
    import keras

    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    owner_model.save(tmp_path / "owner.keras")
    surrogate.save(tmp_path / "surrogate.keras")
    np.save(tmp_path / "x.npy", digits.x_test)
    np.save(tmp_path / "y.npy", digits.y_test)
    key.save(tmp_path / "acme.key")
    words = "verify surrogate.keras --owner owner.keras --key acme.key --queries x.npy --max-queries 100 --json"
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--plots", "plots"]) == 2
    assert "name it by --report" in capsys.readouterr().err
    assert main([*words.split(), "--report", "report.html", "--true-labels", "acme.key"]) == 2
    assert "Cannot read true labels from acme.key" in capsys.readouterr().err
    logits = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    logits.save("logits.keras")
    assert main([*words.replace("surrogate", "logits").split(), "--report", "report.html"]) == 2
    err = capsys.readouterr().err
    assert "error: " in err
    assert "are kept in" not in err  # they are not: the folder was a temporary one
    np.save(tmp_path / "floats.npy", np.zeros(5))
    assert main([*words.split(), "--report", "report.html", "--true-labels", "floats.npy"]) == 2
    assert "whole numbers of shape (n,) or (n, 1). Received: float64 of shape (5,)" in capsys.readouterr().err
    assert main([*words.split(), "--report", "report.html", "--confidential", "--labels"]) == 2
    assert "--labels leaves untested" in capsys.readouterr().err
    np.save(tmp_path / "few.npy", digits.y_test[:3])
    for kept in (tmp_path / "report.zip", None):  # beside the report; then elsewhere, since nothing is overwritten
        assert main([*words.split(), "--report", "report.html", "--true-labels", "few.npy"]) == 2
        err = capsys.readouterr().err
        kept = kept or next((tmp_path / "tmp").glob("dynamarks-kept-*/report.zip"))
        assert f"The evidence is kept in {kept.name if kept.parent == tmp_path else kept}" in err
        assert mode(kept) == 0o600
        assert main(["check", str(kept), "--report", "report.html"]) == 0
        capsys.readouterr()
    shutil.rmtree(kept.parent)
    (tmp_path / "report.zip").unlink()
    np.save(tmp_path / "y.npy", digits.y_test[:, None])
    assert main([*words.split(), "--report", "report.html", "--true-labels", "y.npy"]) == 0
    out, err = capsys.readouterr()
    evidence = json.loads(out)
    assert "Report: report.html. It may be published." in err
    assert "is confidential" not in err
    content = json.loads((tmp_path / "report.report.json").read_text())
    assert content["evidence"]["log10_p"] == evidence["log10_p"]
    assert content["accuracy"]["owner"] > 0.9
    assert content["with_key"] is True
    text = (tmp_path / "report.html").read_text()
    assert "The evidence bundle was not kept" in text
    assert re.search(r"Owner’s model, without its mark</th><td>\d+\.\d %", text)
    assert not list((tmp_path / "tmp").rglob("*.zip"))  # the bundle it was made from is gone
    assert not list(tmp_path.glob("*.zip*"))
    assert MarkKey.load(tmp_path / "acme.key") == key
