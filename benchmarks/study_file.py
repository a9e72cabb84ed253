"""What studies write: their results, and a table between two marks of a page of the documentation."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from benchmarks import result_file
from dynamarks_tf.verification.provenance import package_versions


def write(path: Path, name: str, version: int, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Writes the results of a study in one step.

    Args:
        path: the file.
        name: of the format.
        version: of the format.
        settings: what was measured.
        rows: the results.
    """
    content = {
        "format": name,
        "version": version,
        "settings": settings,
        "versions": package_versions(),
        "machine": platform.machine(),
        "rows": rows,
    }
    result_file.write(path, content)


def with_table(page: str, begin: str, end: str, table: str) -> str:
    """A page with another table between the lines `begin` and `end`."""
    before, rest = page.split(begin)
    return before + begin + table + end + rest.split(end)[1]
