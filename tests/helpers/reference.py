"""Slow, obvious versions of what the package does, written without its code: the oracle of the tests."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
import struct
from fractions import Fraction

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


def sha256(data: bytes) -> bytes:
    """FIPS 180-4."""
    return hashlib.sha256(data).digest()


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


def class_channel(p: np.ndarray, signs: np.ndarray, rows: np.ndarray, columns: np.ndarray, alpha: float) -> np.ndarray:
    """The class channel for one probability vector, in float64, by trying every strength on a fine grid."""
    top = int(p.argmax())
    favored = [c for c in range(len(p)) if c != top and signs[rows[top], columns[c]] > 0]
    if not favored:
        return p
    uniform = np.zeros(len(p))
    uniform[favored] = 1 / len(favored)
    for a in np.linspace(alpha, 0, 20001):
        candidate = p + a * (uniform - p)
        if candidate.argmax() == top:
            return candidate
    return p


def stream(secret: bytes, owner: str, label: str, size: int) -> bytes:
    """docs/key-format.md, Derivation."""
    salt = hashlib.sha256(b"dynamarks-tf/v1/owner\0" + owner.encode()).digest()
    return chacha20_keystream(hkdf_sha256(secret, salt, b"dynamarks-tf/v1/" + label.encode(), 32), size)


def words(secret: bytes, owner: str, label: str, count: int) -> tuple[int, ...]:
    """Little-endian 32-bit words of a stream."""
    return struct.unpack(f"<{count}I", stream(secret, owner, label, 4 * count))


def hash_material(secret: bytes, owner: str, num_classes: int) -> dict[str, list]:
    """docs/key-format.md, Hash: which classes, where their steps begin, how steps are mixed."""
    size = min(num_classes, 32)
    chosen = list(range(num_classes))
    if num_classes > 32:
        drawn = words(secret, owner, f"hash/classes/{num_classes}", num_classes)
        chosen = sorted(sorted(range(num_classes), key=lambda c: (drawn[c], c))[:32])
    mixing = stream(secret, owner, f"hash/multipliers/{size}x2", 2 * size)
    return {
        "classes": chosen,
        "offsets": [(word >> 8) / 2**24 for word in words(secret, owner, f"hash/offsets/{size}", size)],
        "multipliers": [[mixing[2 * i] >> 2, mixing[2 * i + 1] >> 2] for i in range(size)],
    }


def hash_value(p: np.ndarray, material: dict[str, list]) -> int:
    """The column of one output, step by step."""
    if len(p) == 2:
        floor = 4e-3 if p[1] > p[0] else 2e-4
        position = math.log(min(float(p[0]), float(p[1])) / floor + 1) * 512
        return math.floor(position + 0.25 + 0.5 * material["offsets"][0]) % 4096
    fineness = {3: 16, 4: 4, 5: 2}.get(len(p), 1)
    digits = [0, 0]
    for c, offset, mixing in zip(material["classes"], material["offsets"], material["multipliers"], strict=True):
        step = math.floor(math.log(min(max(float(p[c]), 1e-8), 1.0)) * fineness + offset)
        digits = [digits[0] + step * mixing[0], digits[1] + step * mixing[1]]
    return 64 * (digits[0] % 64) + digits[1] % 64


def tie_hash_value(p: np.ndarray, material: dict[str, list]) -> int:
    """The column of one output in the tie channel."""
    if len(p) > 2:
        return hash_value(p, material)
    return math.floor((float(p[0]) - float(p[1])) * 16384 + material["offsets"][1]) % 4096


def class_signs(secret: bytes, owner: str, num_classes: int) -> list[list[int]]:
    """docs/key-format.md, Class channel, while the classes fit."""
    size = num_classes**2
    bits = stream(secret, owner, f"class-code/signs/{num_classes}x{num_classes}", -(-size // 8))
    flat = [1 if bits[i // 8] >> (i % 8) & 1 else -1 for i in range(size)]
    return [flat[start : start + num_classes] for start in range(0, size, num_classes)]


def pairs(secret: bytes, owner: str, signs) -> list[list[tuple[int, int]]]:
    """docs/key-format.md, Class-choice channel: by predicted class and hash, the two classes that a sign chooses."""
    num_classes = len(signs)
    drawn = words(secret, owner, f"class-code/focus/{num_classes}", num_classes**2)
    table = []
    for top in range(num_classes):
        favored = [c for c in range(num_classes) if c != top and signs[top][c] > 0]
        favored.sort(key=lambda c: (drawn[top * num_classes + c], c))
        n = len(favored)
        row = []
        for k in range(4096):
            if n == 0:
                row.append((-1, -1))
            elif n == 1:
                row.append((favored[0], favored[0]))
            else:
                row.append((favored[k % n], favored[(k + 1 + (k // n) % (n - 1)) % n]))
        table.append(row)
    return table


def class_choice_signs(secret: bytes, owner: str, num_classes: int) -> list[list[int]]:
    """docs/key-format.md, Class-choice channel: the signs."""
    bits = stream(secret, owner, f"query-code/signs/{num_classes}x4096", num_classes * 512)
    flat = [1 if bits[i // 8] >> (i % 8) & 1 else -1 for i in range(num_classes * 4096)]
    return [flat[start : start + 4096] for start in range(0, len(flat), 4096)]


def raised(secret: bytes, owner: str, signs) -> list[list[int]]:
    """For each predicted class and hash, the target class; -1 where there is none."""
    choosing = class_choice_signs(secret, owner, len(signs))
    table = pairs(secret, owner, signs)
    return [
        [pair[0] if sign > 0 else pair[1] for pair, sign in zip(*rows, strict=True)]
        for rows in zip(table, choosing, strict=True)
    ]


def tie_channel(p: np.ndarray, sign: int, margin: float, budget: float) -> np.ndarray:
    """The tie channel for one probability vector."""
    top = int(p.argmax())
    second = max((c for c in range(len(p)) if c != top), key=lambda c: (p[c], -c))
    low, high = min(top, second), max(top, second)
    limit = min((p[low] + p[high]) * math.tanh(margin / 2), 2 * budget)
    if abs(p[low] - p[high]) >= limit:
        return p
    winner, loser = (low, high) if sign > 0 else (high, low)
    gap = (p[winner] - p[loser] + limit) / 2
    released = p.copy()
    released[winner], released[loser] = (p[low] + p[high] + gap) / 2, (p[low] + p[high] - gap) / 2
    return released


def class_code_residuals(clean, suspect, rows, columns, shape, budget=0.05):
    """The residual table: cell means query by query, then one least-squares problem with everything in it."""
    total, weight = {"a": np.zeros(shape), "b": np.zeros(shape)}, np.zeros(shape)
    for p, q in zip(clean, suspect, strict=True):
        top = int(p.argmax())
        trust = 1 / (1 + (1 - float(p[top])) / 0.01)
        for c in range(len(p)):
            if c != top:
                cell = rows[top], columns[c]
                total["a"][cell] += trust * math.log(max(float(q[c]), 1e-8))
                total["b"][cell] += trust * math.log(max(float(p[c]), 1e-8))
                weight[cell] += trust
    cells = np.argwhere(weight > 0)
    a, b = (np.array([total[t][tuple(cell)] / weight[tuple(cell)] for cell in cells]) for t in "ab")
    w = np.maximum(math.log(10 * budget / len(clean[0])) - b, 0.3)
    features = [b, np.ones(len(cells))]
    energies = []
    for axis in (1, 0):  # columns, then rows
        dummies = [(cells[:, axis] == index) * 1.0 for index in range(shape[axis])]
        size = np.array([((w * dummy) ** 2).sum() for dummy in dummies])
        energies.append((2.0 if axis == 1 else 1.0) * size[size > 0].mean())
        features += dummies
    design = np.stack(features, axis=1) * w[:, None]
    ridge = np.sqrt(np.concatenate([[0, 0], np.full(shape[1], energies[0]), np.full(shape[0], energies[1])]))
    solved = np.linalg.lstsq(np.vstack([design, np.diag(ridge)]), np.append(w * a, np.zeros(len(ridge))), rcond=None)[0]
    residuals = np.zeros(shape)
    for cell, value in zip(cells, w * a - design @ solved, strict=True):
        residuals[tuple(cell)] = value
    return residuals


def tail(steps, statistic: int) -> Fraction:
    """P(sum of S R >= t) for whole numbers R, by counting the signs that give each sum."""
    ways = {0: 1}
    for step in map(int, steps):
        more: dict[int, int] = {}
        for total, count in ways.items():
            for other in (total + step, total - step):
                more[other] = more.get(other, 0) + count
        ways = more
    return Fraction(sum(count for total, count in ways.items() if total >= statistic), 2 ** len(steps))


def log10(fraction: Fraction) -> float:
    """Of fractions far below the smallest float, too."""
    return (math.log(fraction.numerator) - math.log(fraction.denominator)) / math.log(10)


def chernoff_log10_p(steps, statistic: int) -> float:
    """min over theta of exp(sum of log cosh(theta R) - theta t), on a grid of theta: any of them gives a bound."""
    r = np.abs(np.asarray(steps, float))
    exponents = [np.logaddexp(x := theta * r, -x).sum() - theta * statistic for theta in np.geomspace(1e-6, 10, 500)]
    return min((min(exponents) - len(r) * math.log(2)) / math.log(10), 0.0)
