"""Published output-side watermarks, rebuilt from their papers, to be measured beside this project's mark.

Each module holds one scheme as a class with the same three methods:

- `mark(owner)`: something with `predict(inputs, batch_size=..., verbose=...)` that answers marked probabilities;
- `questions(inputs, clean)`: which of the inputs at hand the scheme would put to a suspect;
- `evidence(inputs, clean, answers)`: the scheme's statistic on these, as a p-value;

and `log10_p(suspect, queries, owner=..., logged=...)`, which does the last two for a suspect.
"""

from peers.cosine import CosineWatermark
from peers.dawn import DynamicAdversarialWatermark
from peers.evidence import BaselineEvidence

__all__ = ["BaselineEvidence", "CosineWatermark", "DynamicAdversarialWatermark"]
