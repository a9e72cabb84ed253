"""The results of attacks: a JSON file that grows row by row, so that an interrupted audit can continue."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynamarks_tf._support import files, own_files, strict_json
from dynamarks_tf._support.formats import check_format
from dynamarks_tf.errors import ArgumentError, FormatError

FORMAT = "dynamarks-audit"
FORMAT_VERSION = 2


class Results:
    """Rows of results, written to a file after each.

    Args:
        path: the JSON file; it is read if it exists.
        settings: values that the rows depend on, plain values for JSON. A file with other settings is refused.

    Raises:
        ArgumentError: the file has other settings.
        FormatError: the file has another format or version.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))
        self._rows: list[dict[str, Any]] = []
        if not self.path.exists():
            return
        try:
            own_files.open_own(self.path).close()
        except own_files.NotOwnError as error:
            raise ArgumentError(f"The results of an earlier audit cannot be trusted. {error}") from error
        content = read(self.path)
        if content["settings"] != self.settings:
            changed = [
                f"{name}: {content['settings'].get(name)!r} there, {self.settings.get(name)!r} now"
                for name in sorted({*content["settings"], *self.settings})
                if content["settings"].get(name) != self.settings.get(name)
            ]
            raise ArgumentError(
                f"{self.path} holds results of another audit ({'; '.join(changed)}). Name another folder, or remove "
                "the file."
            )
        self._rows = content["rows"]

    def has(self, **values: Any) -> bool:
        """Whether there is a row with these values."""
        return any(all(row.get(name) == value for name, value in values.items()) for row in self._rows)

    def add(self, row: dict[str, Any], versions: dict[str, str]) -> None:
        """Appends a row and writes the file in one step.

        Args:
            row: plain values for JSON.
            versions: versions of the packages that made it.
        """
        self._rows.append(row)
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "settings": self.settings,
            "versions": versions,
            "rows": self._rows,
        }
        files.write_atomically(self.path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file of results: `settings`, `versions` and `rows`.

    Raises:
        FormatError: it has another format or version, or is damaged.
    """
    try:
        content = strict_json.parse(Path(path).read_bytes(), numbers_only=False)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read as results of an audit: {error}") from error
    check_format(content, FORMAT, FORMAT_VERSION, str(path), "results of an audit")
    if not isinstance(content.get("rows"), list) or not isinstance(content.get("settings"), dict):
        raise FormatError(f"{path} is damaged: it has no rows or no settings.")
    return dict(content)


def read_all(paths: Iterable[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """The rows of several files, each with the seed of its file."""
    return [{"seed": content["settings"].get("seed"), **row} for content in map(read, paths) for row in content["rows"]]
