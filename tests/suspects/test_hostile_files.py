"""Model files from an adversary: each is refused by name, within a memory limit and a deadline, and nothing happens."""

from __future__ import annotations

import time
from pathlib import Path

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
