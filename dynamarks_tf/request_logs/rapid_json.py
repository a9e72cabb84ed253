"""JSON as RapidJSON understands it, which TensorFlow Serving and Triton use.

It differs from Python's. A reader that took the other side would see inputs that the model never answered, or none.

- `Inf`, `-Inf` and `-NaN` are numbers too; a number beyond the largest one is an error.
- Text after the first value is ignored.
- The second half of a surrogate pair may stand alone, `"\\udc00"`; it becomes three bytes that are not UTF-8.
- Of several values of one key, the first is found. TensorFlow Serving takes all of them in rows, `instances`, where
  it also cuts names at a zero byte.
"""

from __future__ import annotations

import json
import math
import re
from itertools import chain
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][c-fC-F]")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][\da-fA-F]{2}(?:\\u[dD][c-fC-F][\da-fA-F]{2})?|(?P<half>u[dD][c-fC-F][\da-fA-F]{2})|.)",
    re.DOTALL,
)
_NUMBERS = re.compile(r"\bInf\b|-NaN\b")
_LARGE_EXPONENT = re.compile(r"[eE]\+?0*[1-9]\d\d")
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG, _PART = 309, 2**16  # digits of a number that may be too large; characters that are looked at together


class Repeated(dict[str, Any]):
    """An object that has several values of one key, of which the first is found, or a zero byte in a key.

    Attributes:
        pairs: all keys and values.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(reversed(pairs))
        self.pairs = pairs


def decode(text: str, *, is_whole: bool = False) -> Any:
    """Returns the first value of a text that was decoded with `surrogateescape`.

    Args:
        text: the text.
        is_whole: whether more text after the value is an error.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deep.
    """
    if "Inf" in text or "-NaN" in text:
        text = _with_numbers(text)
    if _SURROGATE.search(text):
        text = _ESCAPES.sub(_without_half, text)
    decoder = _STRICT_DECODER if _may_be_huge(text) else _DECODER
    text = text.strip(" \t\r\n")
    value, end = decoder.raw_decode(text)
    if is_whole and end < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def members(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Returns the names and values of a row, as TensorFlow Serving takes them."""
    if isinstance(row, Repeated):
        return [(name.partition("\0")[0], value) for name, value in row.pairs]
    return list(row.items())


def values(rows: list[dict[str, Any]], name: str) -> list[Any]:
    """Returns the values of a name in rows, as TensorFlow Serving takes them; the first `len(rows)` are its tensor.

    Raises:
        KeyError: a row has none.
    """
    if not any(isinstance(row, Repeated) for row in rows):
        return [row[name] for row in rows]
    found = [[value for key, value in members(row) if key == name] for row in rows]
    if not all(found):
        raise KeyError(name)
    return list(chain.from_iterable(found))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) and "\0" not in "".join(fields) else Repeated(pairs)


def _may_be_huge(text: str) -> bool:
    """Whether a number may be beyond the largest double. A pattern for long runs of digits would take far longer."""
    parts = (text[start : start + _PART + _LONG] for start in range(0, len(text), _PART))
    has_long = any(b"0" * _LONG in part.encode("ascii", "replace").translate(_DIGITS) for part in parts)
    return has_long or _LARGE_EXPONENT.search(text) is not None


def _number(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError("Number too big to be stored in double.")
    return found


def _with_numbers(text: str) -> str:
    """A text with `Infinity` in place of `Inf`, and `NaN` of `-NaN`, but for strings."""
    parts, start = [], 0
    for index, part in enumerate(_ESCAPED.sub("..", text).split('"')):  # strings are every other part
        found = text[start : start + len(part)]
        parts.append(found if index % 2 else _NUMBERS.sub(_as_python, found))
        start += len(part) + 1
    return '"'.join(parts)


def _as_python(found: re.Match[str]) -> str:
    return "NaN" if found[0] == "-NaN" else "Infinity"


def _without_half(found: re.Match[str]) -> str:
    half = found["half"]
    return found[0] if half is None else chr(int(half[1:], 16)).encode("utf-8", "surrogatepass").decode(*_BYTES)


_BYTES = ("utf-8", "surrogateescape")
_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_STRICT_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number)
