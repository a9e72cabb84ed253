"""paragraphs-20: text in 20 classes, from the documentation inside packages that this project installs anyway.

A text is a paragraph of prose in a docstring; its class is the part of a package that the docstring is in, such as
`scipy.stats`. Each paragraph counts once, in the first part that has it; a part keeps at most 500, drawn by a seed.
Releases of the packages change the texts: `describe` counts them, and the settings of a study name the releases.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

PARTS = (
    "keras/src/backend",
    "keras/src/layers",
    "keras/src/ops",
    "matplotlib/axes",
    "matplotlib/backends",
    "numpy/ma",
    "numpy/lib",
    "scipy/interpolate",
    "scipy/linalg",
    "scipy/optimize",
    "scipy/signal",
    "scipy/sparse",
    "scipy/spatial",
    "scipy/special",
    "scipy/stats",
    "sklearn/linear_model",
    "sklearn/metrics",
    "tensorflow/python/data",
    "tensorflow/python/distribute",
    "tensorflow/python/ops",
)
MOST = 500
_PROSE = re.compile(r"[A-Z][^>{}=|]{60,600}\.")


def load(seed: int = 0) -> tuple[Array, Array]:
    """The texts in a random order.

    Args:
        seed: of the choice and the order.

    Returns:
        `bytes` objects of shape `(n,)`, and class indices of shape `(n,)`.
    """
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    texts: list[bytes] = []
    labels: list[int] = []
    for label, part in enumerate(PARTS):
        found = [text for text in paragraphs(part) if text not in seen]
        seen.update(found)
        kept = [found[place] for place in rng.permutation(len(found))[:MOST]]
        texts += [text.encode() for text in kept]
        labels += [label] * len(kept)
    order = rng.permutation(len(texts))
    return np.array(texts, object)[order], np.array(labels)[order]


def paragraphs(part: str) -> list[str]:
    """The paragraphs of prose in the docstrings of a folder of a package, sorted, tests left out."""
    package, _, folder = part.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DatasetError(f"The texts need {package}: pip install 'dynamarks_tf[study]'")
    root = Path(spec.origin).parent / folder
    found: set[str] = set()
    for path in root.rglob("*.py"):
        if "test" in str(path.relative_to(root)):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                found.update(" ".join(block.split()) for block in text.split("\n\n"))
    return sorted(block for block in found if _PROSE.fullmatch(block))
