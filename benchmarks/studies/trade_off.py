"""Strength against budget and accuracy by number of classes, and whether `audit` recommends what holds on other seeds.

A part of docs/robustness.md; the rows are those of robustness.py, of untouched surrogates with several budgets.
"""

from __future__ import annotations

from typing import Any

from dynamarks_tf.audit.recommendation import recommend, summarize
from dynamarks_tf.report import style

Row = dict[str, Any]

LEAST = 0.1  # of -log10 p on the logarithmic axis


def lines(rows_by_classes: dict[int, list[Row]]) -> list[str]:
    """The words below the picture: what `audit` would recommend from the first seed, and what others then gave."""
    found = [
        "| classes | recommended from one seed | weakest log10 p of that budget, on the other seeds |",
        "|---|---|---|",
    ]
    for classes, rows in rows_by_classes.items():
        first, *others = sorted({row["seed"] for row in rows})
        chosen = recommend([row for row in rows if row["seed"] == first]).chosen
        same = [
            s for s in summarize(row for row in rows if row["seed"] in others) if chosen and s.budget == chosen.budget
        ]
        budget = "none" if chosen is None else f"budget {chosen.budget:g}, log10 p {chosen.log10_p:.1f}"
        found.append(f"| {classes:,} | {budget} | {f'{same[0].log10_p:.1f}' if same else '-'} |")
    several = "So a recommendation of one seed may not hold on others. `audit` says so; `--seed` may be repeated."
    return [*found, "", several]


def figure(rows_by_classes: dict[int, list[Row]]) -> style.Figure:
    """The weaker surrogate of each budget, one line for each number of classes, with the points of accuracy lost."""
    found = {classes: summarize(rows) for classes, rows in rows_by_classes.items()}
    said = "; ".join(
        f"{classes:,} classes, budget {s.budget:g}: log10 p {s.log10_p:.1f}, {100 * s.accuracy_cost:.2f} points"
        for classes, summaries in found.items()
        for s in summaries
    )
    colors = (style.LIGHT["key"], style.LIGHT["against"], style.LIGHT["muted"], style.LIGHT["ink"])

    def draw(width: int) -> Any:
        drawing, axes = style.canvas(width, 340)
        for number, (classes, summaries) in enumerate(sorted(found.items())):
            color = colors[number % len(colors)]
            same = sorted(summaries, key=lambda s: s.budget)
            heights = [max(-s.log10_p, LEAST) for s in same]
            axes.plot([s.budget for s in same], heights, "-o", color=color, linewidth=2, markersize=5.5)
            for s, height in zip(same, heights, strict=True):
                cost = f"{100 * s.accuracy_cost:+.2f}".replace("-", "−")
                label = f"{classes:,} classes:  {cost}" if s is same[-1] else cost
                axes.annotate(label, (s.budget, height), (-3, 7), textcoords="offset points", ha="right", color=color)
        budgets = sorted({s.budget for summaries in found.values() for s in summaries})
        axes.axhline(6, color=style.LIGHT["line"], linewidth=1.5)
        axes.set(xscale="log", yscale="log", xlim=(budgets[0] / 1.4, budgets[-1] * 1.15))
        axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axes.minorticks_off()
        axes.set(xlabel="Budget: largest total variation", ylabel="−log10 p of the weaker surrogate")
        axes.grid(axis="y", color=style.LIGHT["line"], linewidth=0.7)
        axes.set_axisbelow(True)
        style.bare(axes)
        return drawing

    alt = f"-log10 p of the weaker of two untouched surrogates by budget, and the points of accuracy lost. {said}."
    return style.Figure("trade-off", alt, draw)
