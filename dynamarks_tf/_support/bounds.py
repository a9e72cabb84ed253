"""How much a file or message of an unknown maker may take in memory, and what an error of a library says, shortened."""

from __future__ import annotations

FREE = 2**28  # bytes that the smallest file may take
RATIO = 16  # bytes that each byte of a larger one may take
_LONGEST_REASON = 200


def allowed(size: int) -> int:
    """The memory, in bytes, that the content of a file may take.

    Args:
        size: of the file as it is stored, in bytes.
    """
    return max(FREE, RATIO * size)


def reason(error: BaseException) -> str:
    """What a library says about damaged input: one short line of ASCII, with the error's type where it says nothing."""
    said = ascii(" ".join(str(error)[: 10 * _LONGEST_REASON].split()))[1:-1]
    return said[:_LONGEST_REASON] or type(error).__name__
