"""Files of results: JSON with one row a line, so that files stay small and a changed row is a changed line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynamarks_tf._support import files

DIGITS = 6


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes results in one step.

    Args:
        path: the file. Missing parent folders are created.
        content: plain values for JSON. Entries that are lists, or dictionaries of dictionaries, get one line an item.
            Floats are rounded to 6 significant digits.
    """
    entries = ",\n".join(f" {json.dumps(name)}: {_lines(rounded(value))}" for name, value in content.items())
    files.write_atomically(path, f"{{\n{entries}\n}}\n".encode())


def rounded(value: Any) -> Any:
    """The value with every float in it rounded to 6 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def _lines(value: Any) -> str:
    """JSON of one entry, with one line an item where its items are rows."""
    if value and isinstance(value, list):
        return "[\n" + ",\n".join(f"  {_json(row)}" for row in value) + "\n ]"
    if value and isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
        return "{\n" + ",\n".join(f"  {_json(name)}: {_json(row)}" for name, row in value.items()) + "\n }"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
