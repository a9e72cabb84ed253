"""Pictures of the pages: SVG files that follow the reader's light or dark theme, the same bytes in every run."""

from __future__ import annotations

import re
from pathlib import Path

from dynamarks_tf._support import files
from dynamarks_tf.report import style

_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_RULES = (
    f"<style>svg {{ {style.css_variables(0)} --sans: system-ui, sans-serif; background: var(--paper); }} "
    f"@media (prefers-color-scheme: dark) {{ svg {{ {style.css_variables(1)} }} }}</style>"
)


def save_svg(figure: style.Figure, folder: Path) -> Path:
    """Writes a figure to `NAME.svg` in a folder.

    Reports embed figures as elements whose colors are the page's variables. A file of its own needs the namespaces and
    the variables as well. Hundredths of a pixel and one line for each text or shape make it small.
    """
    element = figure.svg(style.WIDE).replace("<svg", f"<svg {_NAMESPACES}", 1)
    opening, _, rest = element.partition(">")
    rest = re.sub(r' transform="rotate\(-0 [^"]*"', "", rest)
    rest = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), rest)
    rest = re.sub(r"\s*\n\s*", " ", rest).replace("> <", "><").replace("<g/>", "")
    rest = re.sub(r"((?:</g>)+)", r"\1\n", rest)
    path = folder / f"{figure.name}.svg"
    files.write_atomically(path, f"{opening}>\n{_RULES}\n{rest}\n".encode())
    return path
