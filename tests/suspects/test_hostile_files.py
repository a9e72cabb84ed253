"""Model files from an adversary: each is refused by name, within a memory limit and a deadline, and nothing happens."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects import as_suspect
from tests.helpers.hostile_files import CASES

MEMORY = 1 << 29
DEADLINE_S = 60


@pytest.mark.parametrize("case", CASES)
def test_hostile_file_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, reason = CASES[case]
    if "ONNX" in case:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    path = write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("dynamarks_tf.suspects.isolation.launcher.usable_memory", lambda: MEMORY)
    start = time.monotonic()
    with pytest.raises(SuspectError, match=reason) as refusal:
        as_suspect(path, timeout_s=DEADLINE_S / 10)
    assert time.monotonic() - start < 2 * DEADLINE_S
    assert str(refusal.value).startswith(str(path))
    assert str(refusal.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before


def test_operators_of_the_runtimes_own_quantization_and_fusion_are_no_harm(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from dynamarks_tf.suspects.admission.onnx_file import check_onnx_file
    from dynamarks_tf.suspects.onnx_model import OnnxSuspect
    from tests.helpers.hostile_files import _onnx

    path = _onnx(
        tmp_path / "fused.onnx",
        [onnx.helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")],
        domains=("", "com.microsoft"),
    )
    check_onnx_file(path, "suspect")
    assert OnnxSuspect(path).predict(np.zeros((2, 4), np.float32)).tolist() == [[0] * 4] * 2


def test_many_tensors_at_one_place_of_a_file_count_each(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from dynamarks_tf.suspects.admission.onnx_file import check_onnx_file
    from tests.helpers.hostile_files import _onnx

    tensors = []
    for number in range(100):
        tensor = onnx.TensorProto(name=f"w{number}", data_type=1, dims=[1 << 18], data_location=1)
        tensor.external_data.add(key="location", value="weights")
        tensors.append(tensor)
    (tmp_path / "weights").write_bytes(bytes(1 << 20))
    path = _onnx(tmp_path / "many.onnx", [onnx.helper.make_node("Identity", ["x"], ["y"])], tensors)
    with pytest.raises(SuspectError, match="all its tensors would take 105 MB"):
        check_onnx_file(path, "suspect")
