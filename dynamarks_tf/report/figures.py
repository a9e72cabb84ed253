"""The figures of a report. Each is drawn for a wide page and for a phone by the same code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dynamarks_tf.report import wording
from dynamarks_tf.report.content import BundleReport, ChannelTable
from dynamarks_tf.report.decoys import BIN_WIDTH, ChannelDecoys
from dynamarks_tf.report.style import LIGHT, WIDE, Figure, bare, canvas, cell, step_of

_STEPS = (2.0, 4.0, 8.0)  # deviations from chance at which the color changes
_SHADES = (0.05, 0.25, 0.6)  # the same for residuals, in units of the largest
_LONGEST_LINE = 40  # cells of a sign table in one line


def bundle_figures(report: BundleReport) -> dict[str, Figure]:
    """The figures of a report, by name."""
    figures = [] if report.by_key else [decoys(report), growth(report)]  # these are about one key
    if report.agreement and not report.by_key and any(report.agreement.values()):
        figures.append(agreement(report))
    if report.sign_table is not None:
        figures.append(sign_table(report.sign_table))
    return {figure.name: figure for figure in figures}


def decoys(report: BundleReport) -> Figure:
    """The statistic of the owner’s key among those of decoys, one line for each channel."""
    compared, evidence = report.decoys, report.evidence
    log10_p = {channel.channel: channel.log10_p for channel in evidence.channels}
    values = "; ".join(
        f"{wording.CHANNEL_NAMES[each.channel]}: the owner’s key at {each.observed:.1f} standard deviations, the "
        f"furthest decoy at {each.furthest:.1f}, p at most {wording.probability(log10_p[each.channel])}"
        for each in compared.channels
    )
    alt = (
        f"Histograms of how well the suspect agrees with {compared.num_keys:,} decoy keys, bells around zero, and the "
        f"place of the owner’s key. {values}."
    )

    def draw(width: int) -> Any:
        drawing, lines = canvas(
            width, 40 + 128 * len(compared.channels), nrows=len(compared.channels), sharex=True, squeeze=False
        )
        observed = [each.observed for each in compared.channels]
        furthest = max(*observed, *(each.furthest for each in compared.channels))
        for axes, each in zip(lines.ravel(), compared.channels, strict=True):
            _decoy_line(axes, each, wording.probability(log10_p[each.channel]), width)
        axes.set_xlim(1.05 * min(*observed, -4.8), 1.05 * max(furthest, 4.8))
        axes.locator_params(axis="x", integer=True)
        unit = ", in standard deviations of decoy keys" if width == WIDE else " (standard deviations)"
        axes.set_xlabel(f"Agreement with a key{unit}")
        lines[0, 0].annotate(
            f"{compared.num_keys:,}\ndecoy keys",
            (-1.6, max(compared.channels[0].counts) * 0.72),
            ha="right",
            va="center",
            color=LIGHT["muted"],
        )
        return drawing

    return Figure("decoys", alt, draw)


def _decoy_line(axes: Any, each: ChannelDecoys, p: str, width: int) -> None:
    counts = np.array(each.counts)
    top = counts.max()
    edges = each.first_bin + BIN_WIDTH * np.arange(len(counts) + 1)
    axes.stairs(counts, edges, fill=True, color=LIGHT["decoy"], linewidth=0)
    axes.axhline(0, color=LIGHT["line"], linewidth=1)
    axes.vlines(each.observed, 0, top * 0.72, color=LIGHT["key"], linewidth=2.5)
    axes.plot([each.observed], [top * 0.72], "o", color=LIGHT["key"], markersize=7, clip_on=False)
    whose = "owner’s key: " if width == WIDE else ""
    axes.set_title(wording.CHANNEL_NAMES[each.channel], loc="left", fontsize=13, color=LIGHT["ink"], pad=7)
    axes.set_title(f"● {whose}p ≤ {p}", loc="right", fontsize=13, fontweight="bold", color=LIGHT["key"], pad=7)
    axes.set_ylim(0, top * 1.05)
    axes.set_yticks([])
    bare(axes)


def growth(report: BundleReport) -> Figure:
    """How the evidence grew with the queries."""
    points = report.evidence.growth
    alpha = report.evidence.plan.alpha
    values = "; ".join(f"{point.num_queries:,} queries: {wording.probability(point.log10_p)}" for point in points)
    needed = report.evidence.queries_needed()
    reached = "never reaches the threshold" if needed is None else f"stays below the threshold from {needed:,} on"
    alt = f"The p-value after the first queries. {values}. It {reached}."

    def draw(width: int) -> Any:
        drawing, axes = canvas(width, 300 if width == WIDE else 260)
        queries = [point.num_queries for point in points]
        exponents = [point.log10_p for point in points]
        lowest = min(*exponents, math.log10(alpha) * 1.15)
        axes.axhline(math.log10(alpha), color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
        middle = math.sqrt(queries[0] * queries[-1])
        is_late = needed is None or needed > middle  # below the line, the left is free then; above it, the right is
        axes.annotate(
            f"threshold {wording.probability(math.log10(alpha))}",
            (0 if is_late else 1, math.log10(alpha)),
            (0, 4 if is_late else -4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="left" if is_late else "right",
            va="bottom" if is_late else "top",
            color=LIGHT["muted"],
        )
        axes.plot(queries, exponents, "-o", color=LIGHT["key"], linewidth=2, markersize=5.5, clip_on=False, zorder=3)
        axes.annotate(
            f"p ≤ {wording.probability(exponents[-1])}",
            (queries[-1], exponents[-1]),
            (4, 8),
            textcoords="offset points",
            ha="right",
            color=LIGHT["key"],
            fontweight="bold",
        )
        axes.set_xscale("log")
        left, right = min(queries) * 0.8, max(queries) * 1.25
        axes.set_xlim(left, right)
        axes.set_ylim(-0.03 * lowest, 1.14 * lowest)  # p gets smaller upwards
        axes.minorticks_off()
        ticks = [10**power for power in range(9) if left <= 10**power <= right] or queries
        axes.set_xticks(ticks, [f"{each:,}" for each in ticks])
        step = next(size * 10**power for power in range(9) for size in (1, 2, 5) if -lowest <= 6 * size * 10**power)
        levels = np.arange(0, 1.14 * lowest, -step)
        axes.set_yticks(levels, ["1" if level == 0 else wording.power_of_ten(int(level)) for level in levels])
        axes.grid(axis="y", color=LIGHT["line"], linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel("Queries asked")
        axes.set_title("p-value (stronger evidence is higher)", loc="left", fontsize=13, color=LIGHT["muted"], pad=8)
        bare(axes)
        return drawing

    return Figure("growth", alt, draw)


def agreement(report: BundleReport) -> Figure:
    """Share of secret signs that agree with the key, by channel and size of the residual."""
    rows = {channel: groups for channel, groups in (report.agreement or {}).items() if groups}
    values = "; ".join(
        f"{wording.CHANNEL_NAMES[channel]}: {', '.join(wording.percent(group.share, 0) for group in groups)}"
        for channel, groups in rows.items()
    )
    alt = (
        "Share of the key’s secret signs that the suspect’s answers agree with, in groups from the weakest leaning to "
        f"the strongest; 50 % is chance. {values}."
    )

    def draw(width: int) -> Any:
        wide = width == WIDE
        drawing, lines = canvas(width, 36 + 84 * len(rows), nrows=len(rows), squeeze=False)
        for axes, (channel, groups) in zip(lines.ravel(), rows.items(), strict=True):
            for place, group in enumerate(groups):
                step = step_of(group.deviations, _STEPS)
                left, size = place / len(groups), 1 / len(groups)
                cell(axes, left, 0, size, 1, step)
                axes.text(
                    left + size / 2,
                    0.5,
                    f"{100 * group.share:.0f}" + (" %" if wide else ""),
                    ha="center",
                    va="center_baseline",
                    color=LIGHT[f"on-{step}"],
                    fontsize=13,
                )
            each = groups[0].num_signs
            name = wording.CHANNEL_NAMES[channel]
            title = f"{name}: {len(groups)} groups of {each:,} signs" if len(groups) > 1 else f"{name}: {each:,} signs"
            axes.set_title(title, loc="left", fontsize=13, color=LIGHT["ink"], pad=6)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_xticks([])
            axes.set_yticks([])
            bare(axes)
        axes.set_xticks([0, 1], ["weak leaning", "strong leaning"])
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            label.set_ha(side)
        return drawing

    return Figure("agreement", alt, draw)


def sign_table(table: ChannelTable) -> Figure:
    """The class channel's secret signs beside the suspect's residuals. Confidential."""
    signs, residuals = np.array(table.signs), np.array(table.residuals)
    met = residuals != 0
    agreeing = int(((signs * residuals) > 0).sum())
    alt = (
        f"Confidential. Two tables of {signs.shape[0]} by {signs.shape[1]} cells: the signs of the key and the "
        f"residuals of the suspect. They agree in {agreeing} of the {int(met.sum())} cells that the queries met."
    )
    panels = {
        "Signs of the key": np.where(met, signs * 3, 0),
        "Residuals of the suspect": np.vectorize(lambda value: int(step_of(value, _SHADES)[4:]))(residuals),
    }
    is_square = signs.shape[1] <= _LONGEST_LINE

    def draw(width: int) -> Any:
        beside = width == WIDE
        lines = signs.shape[0] if is_square else -(-signs.size // _LONGEST_LINE)
        columns = min(signs.shape[1], _LONGEST_LINE)
        panel = (width / 2 if beside else width) - 36
        height = 60 + panel * lines / columns
        drawing, both = canvas(
            width, math.ceil(height if beside else 2 * height), nrows=1 if beside else 2, ncols=2 if beside else 1
        )
        for axes, (title, steps) in zip(both, panels.items(), strict=True):
            for index, step in enumerate(steps.ravel()):
                line, column = divmod(index, columns)
                if met.ravel()[index]:
                    cell(axes, column, line, 1, 1, f"step{step:+d}")
            axes.set_xlim(0, columns)
            axes.set_ylim(lines, 0)
            axes.set_aspect("equal")
            axes.set_title(title, loc="left", fontsize=13, color=LIGHT["ink"], pad=6)
            axes.set_xticks([])
            axes.set_yticks([])
            bare(axes)
            if is_square:
                axes.set_xlabel("other class")
                axes.set_ylabel("predicted class")
        return drawing

    return Figure("sign-table", alt, draw)
