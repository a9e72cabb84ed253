"""The look of figures: one palette for page and figures, light and dark; figures as SVG for the page or as PNG.

In the SVG of a page, colors are CSS variables, which the page defines from `PALETTE`, and fonts are those of the page.
Figures therefore follow the reader's theme.
"""

from __future__ import annotations

import dataclasses
import html
import importlib.util
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamarks_tf._support import files
from dynamarks_tf.errors import ArgumentError

WIDE, NARROW = 680, 320  # pixels
_PIXELS_PER_INCH = 72  # one unit of SVG is then one pixel

# name: (light, dark). Light colors must all differ: replacing them by variables themes the SVG. The blue and the orange
# of the steps are distinct with every form of color-blindness, and by lightness alone.
PALETTE = {
    "ink": ("#1c1d20", "#e9e7e2"),
    "muted": ("#5a5e66", "#a9adb5"),
    "line": ("#d5d5d0", "#3c4048"),
    "paper": ("#fefefe", "#15171b"),
    "decoy": ("#a5aab2", "#6c727c"),
    "key": ("#0a5a9e", "#6cb4ee"),
    "against": ("#a84a0b", "#f0a35e"),
    "step-3": ("#a84b0c", "#f0a35f"),
    "step-2": ("#dc9a63", "#a8683a"),
    "step-1": ("#f3dcc7", "#4a3424"),
    "step+0": ("#efefec", "#24272d"),
    "step+1": ("#cfe0ef", "#1f364a"),
    "step+2": ("#74a9d4", "#3a75a5"),
    "step+3": ("#0b5b9f", "#6db5ef"),
    "on-step-3": ("#fffffe", "#17191c"),
    "on-step-2": ("#1d1e20", "#fffffd"),
    "on-step-1": ("#1d1e21", "#e9e7e3"),
    "on-step+0": ("#1d1e22", "#e9e7e4"),
    "on-step+1": ("#1d1e23", "#e9e7e5"),
    "on-step+2": ("#1d1e24", "#fffffc"),
    "on-step+3": ("#fffffb", "#17191d"),
}
LIGHT = {name: colors[0] for name, colors in PALETTE.items()}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a report.

    Attributes:
        name: name of its file, without suffix.
        alt: description of the figure for readers who do not see it.
        draw: function that draws it on a matplotlib figure of a given width in pixels.
    """

    name: str
    alt: str
    draw: Callable[[int], Any]

    def svg(self, width: int) -> str:
        """The figure as an SVG element for a page."""
        import matplotlib

        buffer = io.StringIO()
        with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": f"{self.name}{width}"}):
            nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
            self.draw(width).savefig(buffer, format="svg", transparent=True, metadata=nothing)
        return _themed(buffer.getvalue(), self.alt)

    def save_png(self, folder: Path, *, mode: int = 0o644) -> Path:
        """Writes the figure to `NAME.png` in a folder, in one step."""
        import matplotlib

        path = folder / f"{self.name}.png"
        with matplotlib.rc_context(_SETTINGS), files.new_file(path, mode=mode) as temporary:
            self.draw(WIDE).savefig(temporary, dpi=2 * _PIXELS_PER_INCH, facecolor=LIGHT["paper"])
        return path


def canvas(width: int, height: int, **subplots: Any) -> tuple[Any, Any]:
    """A matplotlib figure of a size in pixels, and its axes; `subplots` is as for `Figure.subplots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing, drawing.subplots(**subplots)


def bare(axes: Any) -> None:
    """Removes the frame of axes, and keeps the labels of the ticks."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)


def cell(axes: Any, left: float, bottom: float, width: float, height: float, step: str) -> None:
    """Fills a rectangle of a heat map with one of the palette's steps."""
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((left, bottom), width, height, facecolor=LIGHT[step], edgecolor=LIGHT["paper"], linewidth=1.5)
    )


def step_of(value: float, limits: tuple[float, float, float]) -> str:
    """The palette's step for a value: `step+0` if nearer to zero than all limits, `step-3` or `step+3` beyond all."""
    size = sum(abs(value) >= limit for limit in limits)
    return f"step{size if value > 0 else -size:+d}"


def check_installed() -> None:
    """Checks that the libraries for reports are installed.

    Raises:
        ArgumentError: one is not.
    """
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ArgumentError(f"Reports need {' and '.join(missing)}: pip install 'dynamarks_tf[report]'")


_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; a page replaces it by the reader's font
    "font.size": 13,
    "axes.labelsize": 13,
    "xtick.labelsize": 13,
    "ytick.labelsize": 13,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["line"],
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "axes.unicode_minus": True,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.03,
}


def css_variables(theme: int) -> str:
    """Declarations of the palette's variables: 0 for light, 1 for dark."""
    return " ".join(f"{variable_name(name)}: {colors[theme]};" for name, colors in PALETTE.items())


def variable_name(name: str) -> str:
    """Name of a color's CSS variable."""
    return "--" + name.replace("+", "p")


def _themed(svg: str, alt: str) -> str:
    """An SVG file as an element for a page, with the colors and fonts of the page and a text alternative."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure
    for name, light in LIGHT.items():
        svg = svg.replace(light, f"var({variable_name(name)})")
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(alt, quote=True)}">'
    return opening + svg[svg.index(">") + 1 :].strip()
