"""What a type checker and an editor know of the public names."""

import os
import re
import subprocess
import sys

from tests.helpers import ROOT

SNIPPET = """
from pathlib import Path
import numpy as np
import dynamarks_tf as dm

key = dm.MarkKey.generate(owner="ACME Vision")
evidence = dm.verify("suspect.keras", owner="marked.keras", key=key, queries=np.zeros((3, 8, 8, 1)))
reveal_type(key)
reveal_type(key.commitment)
reveal_type(evidence)
reveal_type(evidence.log10_p)
reveal_type(evidence.detected())
reveal_type(dm.measure_cost("model", ()))
reveal_type(dm.find_mark("model"))
reveal_type(dm.export_saved_model("model", Path("served/clf/1")))
reveal_type(dm.MarkReport(()))
reveal_type(dm.MarkParams(budget=0.05))
dm.MarkKey.generate(owner=3)
dm.proof
"""

EXPECTED = """
dynamarks_tf.keys.key.MarkKey
str
dynamarks_tf.case.result.VerificationResult
float
bool
dynamarks_tf.watermark.metrics.MarkCost
dynamarks_tf.watermark.layer.DynaMarkLayer | None
pathlib.Path
dynamarks_tf.watermark.callbacks.MarkReport
dynamarks_tf.watermark.params.MarkParams
""".split("\n")[1:-1]


def test_public_names_have_their_types(tmp_path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    checker = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "snippet.py")]
    done = subprocess.run(checker, cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert [re.sub(r"builtins\.", "", kind) for kind in revealed] == EXPECTED
    errors = re.findall(r"error: (.*?)  \[", done.stdout)
    assert len(errors) == 2
    assert 'expected "str"' in errors[0]
    assert '"proof"' in errors[1]
