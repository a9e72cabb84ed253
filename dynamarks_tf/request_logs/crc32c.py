"""CRC-32C (Castagnoli), the checksum of TFRecord files: by google-crc32c where that is installed, else in NumPy.

A CRC is linear over GF(2): that of a block is the exclusive or of one table entry for each byte, chosen by the byte's
value and its distance from the end. So NumPy looks up all bytes of a block at once, and blocks are chained through the
same tables. Reference: RFC 3720, appendix B.4 (polynomial and examples).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

POLYNOMIAL = 0x82F63B78  # reflected
BLOCK = 512  # bytes looked up in one row; the table takes 1 KiB a byte and should fit the processor's cache
ROWS = 64  # blocks looked up at once
SHORT = 16  # bytes; below that a loop is quicker
ALL_ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of `data`."""
    library = _library()
    return numpy_crc32c(data) if library is None else library(data)


def numpy_crc32c(data: bytes) -> int:
    """Returns the same, with NumPy alone."""
    return _short(data) if len(data) < SHORT else _long(data)


@functools.cache
def _library() -> Callable[[bytes], int] | None:
    try:
        import google_crc32c
    except ImportError:
        return None
    return google_crc32c.value if google_crc32c.implementation == "c" else None  # its Python is slower than NumPy


def _short(data: bytes) -> int:
    table = _byte_table()
    state = ALL_ONES
    for byte in data:
        state = table[(state ^ byte) & 255] ^ (state >> 8)
    return state ^ ALL_ONES


def _long(data: bytes) -> int:
    padding = -len(data) % BLOCK
    padded = np.zeros(padding + len(data), np.uint8)  # zeros in front change nothing
    padded[padding:] = np.frombuffer(data, np.uint8)
    padded[padding : padding + 4] ^= 255  # the register begins as all ones
    blocks = padded.reshape(-1, BLOCK)
    table, positions = _block_table()
    four = _last_four()
    state = 0
    for start in range(0, len(blocks), ROWS):
        found = table[positions + blocks[start : start + ROWS]]  # shape (rows, BLOCK)
        for crc in np.bitwise_xor.reduce(found, axis=1).tolist():
            state = (
                crc
                ^ four[0][state & 255]
                ^ four[1][state >> 8 & 255]
                ^ four[2][state >> 16 & 255]
                ^ (four[3][state >> 24])
            )
    return state ^ ALL_ONES


@functools.cache
def _byte_table() -> list[int]:
    """What each value of the lowest byte of the register turns into."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


@functools.cache
def _tables() -> Array:
    """The share of each byte value at each position in a block, shape `(BLOCK, 256)`."""
    first = np.array(_byte_table(), np.uint32)
    shares = [first]  # from the last position to the first: one more zero byte follows each time
    for _ in range(BLOCK - 1):
        shares.append(first[shares[-1] & 255] ^ (shares[-1] >> 8))
    return np.stack(shares[::-1])


@functools.cache
def _block_table() -> tuple[Array, Array]:
    """The tables in one row, and where each position's begins."""
    return _tables().ravel(), np.arange(BLOCK, dtype=np.intp) * 256


@functools.cache
def _last_four() -> list[list[int]]:
    """What each byte of the register, lowest first, turns into when a block of zeros goes through."""
    shares: list[list[int]] = _tables()[:4].tolist()
    return shares
