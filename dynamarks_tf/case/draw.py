"""What is drawn from a committed pool by a public value that nobody knew when the statement was published.

The draw is SHA-256 alone, so that anybody can repeat it (docs/provenance.md shows how, in ten lines):

    seed    = SHA-256("dynamarks-tf/v1/draw" 0x00 || digest of the pool || commitment || beacon)
    rank(i) = the first 8 bytes of SHA-256(seed || i), i in 8 bytes, all big-endian

The inputs with the smallest ranks are drawn, in the order of their ranks. Of these, the ones of which the clean model
is surest are asked, class by class.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamarks_tf.keys.pool import CommittedPool

_LABEL = b"dynamarks-tf/v1/draw\0"


def draw(pool: CommittedPool, commitment: str, beacon: str) -> npt.NDArray[np.int64]:
    """Which inputs of a pool are drawn, in the order of their ranks, shape `(num_drawn,)`.

    Args:
        pool: what the statement says about the pool.
        commitment: commitment to the owner's key, 64 hexadecimal digits.
        beacon: the public value.

    Example:

    >>> draw(pool, key.commitment, "drand 4812345 9f86d081")
    array([17, 4, 12])
    """
    seed = hashlib.sha256(_LABEL + bytes.fromhex(pool.sha256 + commitment) + beacon.encode()).digest()
    hashed = b"".join(hashlib.sha256(seed + i.to_bytes(8, "big")).digest()[:8] for i in range(pool.size))
    ranks = np.frombuffer(hashed, ">u8").astype(np.uint64)
    return np.argsort(ranks, kind="stable")[: pool.num_drawn].astype(np.int64)


def surest(classes: npt.NDArray[Any], confidences: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Which of the drawn inputs are asked: round by round, the surest of every class that is left.

    Args:
        classes: class that the clean model gives each, in the order of the draw, shape `(n,)`.
        confidences: its probability, shape `(n,)`. Of equal ones, the input that was drawn first comes first.
        count: how many to choose.

    Returns:
        Positions in the draw, shape `(count,)`.
    """
    by_class = np.lexsort((-confidences, classes))
    first = np.searchsorted(classes[by_class], classes[by_class])
    rounds = np.empty(len(classes), np.int64)
    rounds[by_class] = np.arange(len(classes)) - first
    return np.argsort(rounds, kind="stable")[:count].astype(np.int64)


def choice_sha256(
    drawn: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], confidences: npt.NDArray[np.float64]
) -> str:
    """Digest of what was drawn, and of what the clean model says of it, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for array, dtype in ((drawn, "<i8"), (classes, "<i8"), (confidences, "<f8")):
        digest.update(len(array).to_bytes(8, "big") + array.astype(dtype).tobytes())
    return digest.hexdigest()
