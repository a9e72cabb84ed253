"""Slow, obvious versions of what the package does, written without its code: the oracle of the tests."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import struct

import numpy as np


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869."""
    pseudorandom_key = hmac.new(salt, secret, hashlib.sha256).digest()
    output, block = b"", b""
    for counter in itertools.count(1):
        if len(output) >= size:
            return output[:size]
        block = hmac.new(pseudorandom_key, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
    raise AssertionError


def chacha20_keystream(key: bytes, size: int) -> bytes:
    """RFC 8439, nonce 0, counter from 0."""

    def rotate(x: int, n: int) -> int:
        return ((x << n) | (x >> (32 - n))) & 0xFFFFFFFF

    def quarter_round(s: list[int], a: int, b: int, c: int, d: int) -> None:
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotate(s[z] ^ s[x], n)

    stream = b""
    for counter in itertools.count():
        if len(stream) >= size:
            return stream[:size]
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter, 0, 0, 0]
        state = list(start)
        for _ in range(10):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter_round(state, a, b, c, d)
            for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter_round(state, a, b, c, d)
        stream += struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(state, start, strict=True)))
    raise AssertionError


def class_code(p: np.ndarray, signs: np.ndarray, rows: np.ndarray, columns: np.ndarray, alpha: float) -> np.ndarray:
    """The class code for one probability vector, in float64, by trying every strength on a fine grid."""
    top = int(p.argmax())
    favoured = [c for c in range(len(p)) if c != top and signs[rows[top], columns[c]] > 0]
    if not favoured:
        return p
    uniform = np.zeros(len(p))
    uniform[favoured] = 1 / len(favoured)
    for a in np.linspace(alpha, 0, 20001):
        candidate = p + a * (uniform - p)
        if candidate.argmax() == top:
            return candidate
    return p


def class_code_residuals(clean, suspect, rows, columns, shape, floor=1e-6):
    """The residual table, query by query and class by class."""
    tables = []
    for answers in (suspect, clean):
        total, count = np.zeros(shape), np.zeros(shape)
        for p, q in zip(clean, answers, strict=True):
            top = int(p.argmax())
            others = [c for c in range(len(p)) if c != top]
            logs = {c: np.log(max(float(q[c]), floor)) for c in others}
            mean = sum(logs.values()) / len(logs)
            for c in others:
                total[rows[top], columns[c]] += logs[c] - mean
                count[rows[top], columns[c]] += 1
        tables.append(np.divide(total, count, out=np.zeros(shape), where=count > 0))
    a, b = tables
    slope = (a * b).sum() / (b * b).sum()
    return a - slope * b


def exact_tail(residuals, statistic) -> float:
    """P(sum of S R >= t) by going through all signs."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(residuals))))
    slack = 1e-12 * np.abs(residuals).sum()  # sums of the same terms in another order differ by rounding
    return float((signs @ np.asarray(residuals) >= statistic - slack).mean())
