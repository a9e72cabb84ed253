"""An excerpt of the study of hostile files: damaged files are refused in words."""

from __future__ import annotations

import pytest

from benchmarks.studies.hostile_files import CHECKS, fuzz


@pytest.mark.parametrize("kind", CHECKS)
def test_damaged_files_are_refused_in_words(kind: str) -> None:
    pytest.importorskip("onnx")
    outcomes, slowest = fuzz(kind, 80)
    assert outcomes["raw"] == 0
    assert outcomes["refused"] > 40
    assert slowest < 10
