"""Memory that is used again for the next batch.

Arrays of a batch's size are so large that fresh memory for them, which the system has to find and to clear, costs as
much time as what is computed in it. So does memory whose rows lie a power of two apart: they share a few places of the
processor's cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_GAP = 64  # bytes between rows


class Memory:
    """Hands out arrays by name, each in the memory of the last one of that name and shape.

    Example:

    >>> memory = Memory()
    >>> first = memory.array("logs", (10, 4096), np.float32)
    >>> np.shares_memory(first, memory.array("logs", (10, 4096), np.float32))
    True
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array that holds anything. Those of the same name that were handed out before must be done with."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            gap = _GAP // np.dtype(dtype).itemsize
            array = self._arrays[name] = np.empty((*shape[:-1], shape[-1] + gap), dtype)[..., : shape[-1]]
        return array
