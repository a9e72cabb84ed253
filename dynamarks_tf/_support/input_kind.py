"""What kind of inputs a classifier takes, as attacks and data sets tell it: images, vectors or text."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["images", "vectors", "text"]
KINDS: tuple[Kind, ...] = ("images", "vectors", "text")


def input_kind(inputs: npt.NDArray[Any]) -> Kind:
    """The kind of an array of inputs.

    Args:
        inputs: text as `bytes` objects of shape `(n,)` or `(n, 1)`; vectors of shape `(n, features)`; or images, of
            three or four axes.
    """
    if inputs.dtype == np.object_:
        return "text"
    return "vectors" if inputs.ndim == 2 else "images"
