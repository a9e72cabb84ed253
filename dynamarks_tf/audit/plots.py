"""The results of rehearsals as plots. Needs matplotlib, from the extra `study`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamarks_tf import _files
from dynamarks_tf.audit.recommendation import SettingSummary
from dynamarks_tf.audit.tables import rounded, worst
from dynamarks_tf.errors import ArgumentError

Row = Mapping[str, Any]

_DARKEST = -24.0
_SHOWN = ("100 fresh", "1000 fresh", "logged", "logged, labels")


def matrix(rows: Iterable[Row], path: Path, *, by: Sequence[str] = ("extraction", "removal")) -> None:
    """Draws log10 p of every scenario by the queries that were asked, the worst of the seeds, as a shaded table.

    Args:
        rows: rows of thefts, with one setting of the mark.
        path: the PNG file to write.
        by: which entries name a line.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(str(row[name]) for name in by), []).append(row)
    values = np.array(
        [[np.nan if (found := worst(same, column)) is None else found for column in _SHOWN] for same in groups.values()]
    )
    figure, axes = _figure(6.4, 1.2 + 0.24 * len(groups))
    shaded = axes.imshow(np.clip(values, _DARKEST, 0), cmap="YlGnBu_r", vmin=_DARKEST, vmax=0, aspect="auto")
    axes.set_xticks(range(len(_SHOWN)), _SHOWN, rotation=30, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(groups)), [*groups])
    for (line, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = "white" if value < _DARKEST / 2 else "black"
            axes.text(column, line, rounded(value, 0), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(shaded, label="log10 p, worst of the seeds", shrink=0.5)
    _save(figure, path)


def trade_off(summaries: Iterable[SettingSummary], path: Path) -> None:
    """Draws how strong each setting of the mark is against how much it changes the answers.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    figure, axes = _figure(6.4, 4.0)
    margins: dict[float, list[SettingSummary]] = {}
    for summary in summaries:
        margins.setdefault(summary.tie_margin, []).append(summary)
    for margin, same in sorted(margins.items()):
        axes.plot([s.budget for s in same], [s.log10_p for s in same], "o-", label=f"tie margin {margin:g}")
        for s in same:
            axes.annotate(f"{100 * s.accuracy_cost:+.2f}", (s.budget, s.log10_p), (4, 4), textcoords="offset points")
    axes.set_xlabel("budget (largest total variation); numbers: points of accuracy lost")
    axes.set_ylabel("log10 p of the weakest theft")
    axes.set_xscale("log")
    budgets = sorted({summary.budget for same in margins.values() for summary in same})
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.minorticks_off()
    axes.legend()
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError("Plots need matplotlib: pip install 'dynamarks_tf[study]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> None:
    with _files.new_file(path, mode=0o644) as temporary:
        figure.savefig(temporary, dpi=110)
