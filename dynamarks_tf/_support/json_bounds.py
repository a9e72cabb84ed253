"""How much a JSON text holds, found out before it is parsed: a few bytes can be many values, or nested very deep."""

from __future__ import annotations

import re

MOST_NESTED = 500  # levels; leaves Python's parser, which takes 1,000, room for the calls around it
MOST_VALUES = 2**21  # each takes up to 70 bytes

# Two plain patterns: a single one would keep a state for each escape in a string, or start again at each quote.
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_STRING = re.compile(r'"[^"]*(?:"|\Z)')


def check_json(text: str | bytes, most_values: int = MOST_VALUES) -> None:
    """Checks how many values a text holds and how deep they are nested.

    Args:
        text: JSON. It may be damaged; then the parser says so.
        most_values: the largest number of values, lists and objects among them.

    Raises:
        ValueError: there are more, or they are nested too deep.
    """
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if _num_values(text) > most_values and _num_values(_without_strings(text)) > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    check_nesting(text)


def check_nesting(text: str) -> None:
    """Checks how deep a text is nested. Python's parser has a limit too, which depends on how deep its caller stands.

    With that limit alone, a client could nest a request so that one pass over a log reads it and the next does not.

    Raises:
        ValueError: it is nested too deep.
    """
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    import numpy as np  # here, as commands that read a key only start faster without

    signs = np.frombuffer(_without_strings(text).encode("ascii", "replace"), np.uint8)
    steps = np.zeros(256, np.int8)
    steps[[ord("["), ord("{")]], steps[[ord("]"), ord("}")]] = 1, -1
    if np.cumsum(steps[signs], dtype=np.int64).max(initial=0) > MOST_NESTED:
        raise ValueError(f"it is nested more than {MOST_NESTED} levels deep")


def _without_strings(text: str) -> str:
    """A text without its strings; one without an end counts up to the end of the text."""
    return _STRING.sub("", _ESCAPED.sub("", text) if "\\" in text else text)


def _num_values(text: str) -> int:
    return 1 + sum(map(text.count, "[{,"))
