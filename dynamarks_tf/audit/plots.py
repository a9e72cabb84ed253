"""Results of attacks as figures, in the style of reports. They need the extra `report`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dynamarks_tf.audit.recommendation import SettingSummary
from dynamarks_tf.audit.tables import rounded, worst
from dynamarks_tf.report.style import LIGHT, WIDE, Figure, bare, canvas, cell, step_of

Row = Mapping[str, Any]

_SHOWN = {
    "100 fresh": "100\nfresh",
    "1000 fresh": "1,000\nfresh",
    "logged": "logged",
    "logged, labels": "logged,\nlabels",
}
_STEPS = (3.0, 6.0, 12.0)  # of -log10 p; 6 counts as a detection
_LINE, _CELL = 26, 58  # pixels
_LONGEST = 50  # letters of a line's name on a phone, where it stands above the cells


def matrix(rows: Iterable[Row], name: str, *, by: Sequence[str] = ("extraction", "removal")) -> Figure:
    """log10 p of every scenario by kind of queries, the worst of the seeds, as a shaded table.

    Args:
        rows: rows of thefts, with one setting of the mark.
        name: name of the figure's file.
        by: entries of a row that name its line.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(str(row[entry]) for entry in by), []).append(row)
    found = {line: [worst(same, column) for column in _SHOWN] for line, same in groups.items()}
    strongest = {line: min(values) for line, all_ in found.items() if (values := [v for v in all_ if v is not None])}
    values_in_words = "; ".join(f"{line}: {rounded(value, 0)}" for line, value in strongest.items())
    alt = f"log10 of the p-value for each theft, by the queries that give the strongest evidence: {values_in_words}."

    def draw(width: int) -> Any:
        is_wide = width == WIDE
        left, top = (1 - len(_SHOWN) * _CELL / width, 0.0) if is_wide else (0.0, 0.45)
        drawing, axes = canvas(width, math.ceil(60 + _LINE * len(found) / (1 - top)))
        size = (1 - left) / len(_SHOWN)
        for line, (title, values) in enumerate(found.items()):
            label = title if is_wide or len(title) <= _LONGEST else title[: _LONGEST - 1] + "…"
            place = line + (top / 2 or 0.5)
            axes.text(0, place, label, va="center_baseline", color=LIGHT["ink"], fontsize=13 if is_wide else 11)
            for column, value in enumerate(values):
                if value is not None:
                    step = step_of(max(-value, 0.0), _STEPS)
                    cell(axes, left + column * size, line + top, size, 1 - top, step)
                    axes.text(
                        left + (column + 0.5) * size,
                        line + (1 + top) / 2,
                        rounded(value, 0).replace("-", "−"),
                        ha="center",
                        va="center_baseline",
                        color=LIGHT[f"on-{step}"],
                        fontsize=13 if is_wide else 11,
                    )
        axes.set_xlim(0, 1)
        axes.set_ylim(len(found), 0)
        axes.xaxis.tick_top()
        places = [left + (column + 0.5) * size for column in range(len(_SHOWN))]
        axes.set_xticks(places, [*_SHOWN.values()], fontsize=12 if is_wide else 10)
        axes.set_yticks([])
        bare(axes)
        return drawing

    return Figure(name, alt, draw)


def trade_off(summaries: Iterable[SettingSummary], name: str) -> Figure:
    """The strength of each setting of the mark against its budget, with its cost in accuracy.

    Args:
        summaries: the settings.
        name: name of the figure's file.
    """
    margins: dict[float, list[SettingSummary]] = {}
    for summary in summaries:
        margins.setdefault(summary.tie_margin, []).append(summary)
    values_in_words = "; ".join(
        f"budget {s.budget:g}, tie margin {s.tie_margin:g}: log10 p {s.log10_p:.1f}, {100 * s.accuracy_cost:.2f} points"
        for same in margins.values()
        for s in same
    )
    alt = f"log10 p of the weakest theft by budget, and the points of accuracy that the mark costs. {values_in_words}."
    colors = (LIGHT["key"], LIGHT["against"], LIGHT["muted"], LIGHT["ink"])

    def draw(width: int) -> Any:
        drawing, axes = canvas(width, 320)
        for number, (margin, same) in enumerate(sorted(margins.items())):
            color = colors[number % len(colors)]
            same = sorted(same, key=lambda s: s.budget)
            axes.plot(
                [s.budget for s in same], [s.log10_p for s in same], "-o", color=color, linewidth=2, markersize=5.5
            )
            for s in same:
                cost = f"{100 * s.accuracy_cost:+.2f}".replace("-", "−")
                label = cost if s is not same[-1] else f"tie margin {margin:g}:  {cost}"
                axes.annotate(
                    label, (s.budget, s.log10_p), (-3, 7), textcoords="offset points", ha="right", color=color
                )
        budgets = sorted({summary.budget for same in margins.values() for summary in same})
        axes.set_xscale("log")
        axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axes.set_xlim(budgets[0] / 1.4, budgets[-1] * 1.15)
        axes.minorticks_off()
        strengths = [s.log10_p for same in margins.values() for s in same]
        axes.set_ylim(0.5, 1.2 * min(*strengths, -1))  # stronger evidence is higher
        axes.locator_params(axis="y", integer=True, nbins=6)
        axes.grid(axis="y", color=LIGHT["line"], linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel("Budget: largest total variation")
        title = "log10 p of the weakest theft (stronger is higher); numbers: points of accuracy lost"
        axes.set_title(
            title if width == WIDE else title.split(" (")[0], loc="left", fontsize=13, color=LIGHT["muted"], pad=8
        )
        bare(axes)
        return drawing

    return Figure(name, alt, draw)
