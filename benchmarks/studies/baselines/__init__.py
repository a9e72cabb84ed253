"""This mark beside published watermarks and fingerprints, which are rebuilt here.

`study.py` runs the study, `page.py` writes its page. Each scheme is a class of its own with the same methods:

- `mark(owner)`: an API with `predict(inputs, batch_size=..., verbose=...)` that answers marked probabilities; a
  fingerprint has none;
- `questions(pool)`: what a suspect would be asked, given the inputs at hand;
- `evidence(questions, answers)`: the scheme's statistic, and its p-value where there is one.
"""

from benchmarks.studies.baselines.akh import AnnaKareninaFingerprint
from benchmarks.studies.baselines.cosine import CosineWatermark
from benchmarks.studies.baselines.credit import CertifiedThreshold
from benchmarks.studies.baselines.dawn import DynamicAdversarialWatermark
from benchmarks.studies.baselines.drw import DistillationResistantWatermark
from benchmarks.studies.baselines.evidence import BaselineEvidence, Questions
from benchmarks.studies.baselines.honeytrace import NeuralHoneytrace

__all__ = [
    "AnnaKareninaFingerprint",
    "BaselineEvidence",
    "CertifiedThreshold",
    "CosineWatermark",
    "DistillationResistantWatermark",
    "DynamicAdversarialWatermark",
    "NeuralHoneytrace",
    "Questions",
]
