"""This mark beside published output-side watermarks, which are rebuilt here: DAWN and CosWM.

`study.py` runs the study, `page.py` writes its page. `dawn.py` and `cosine.py` hold one watermark each, as a class with
the same methods:

- `mark(owner)`: an API with `predict(inputs, batch_size=..., verbose=...)` that answers marked probabilities;
- `questions(inputs, clean)`: which of the inputs at hand a suspect would be asked;
- `evidence(inputs, clean, answers)`: the watermark's statistic on these, as a p-value;
- `log10_p(suspect, queries, owner=..., logged=...)`: the last two in one call.
"""

from benchmarks.studies.baselines.cosine import CosineWatermark
from benchmarks.studies.baselines.dawn import DynamicAdversarialWatermark
from benchmarks.studies.baselines.evidence import BaselineEvidence

__all__ = ["BaselineEvidence", "CosineWatermark", "DynamicAdversarialWatermark"]
