"""Results of attacks as tables for people. The worst of the seeds counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dynamarks_tf.audit.recommendation import SettingSummary

Rows = Iterable[Mapping[str, Any]]

COLUMNS = ("10 fresh", "100 fresh", "1000 fresh", "logged", "logged, labels")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        header: title of each column.
        rows: the cells of each line.
        texts: indices of the columns that hold words.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[int, ...] = ()

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.header, *self.rows)]
        return "\n".join([lines[0], "|---" * len(self.header) + "|", *lines[1:]])


def suspects(rows: Rows) -> Table:
    """One line for each scenario: accuracy, and log10 p by kind of queries, the worst of the seeds.

    The worst is the largest p of stolen models, and the smallest of independent ones.

    Args:
        rows: rows of thefts or of independent models, with one setting of the mark.
    """
    by = ("extraction", "architecture", "removal")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    lines = []
    for names, same in groups.items():
        accuracy = sum(row["accuracy"] for row in same) / len(same)
        fidelity = sum(row["fidelity"] for row in same) / len(same)
        cells = [_worst(same, column) for column in COLUMNS]
        lines.append((*names, str(len(same)), f"{accuracy:.3f}", f"{fidelity:.3f}", *cells, _needed(same)))
    return Table(
        (*by, "seeds", "accuracy", "fidelity", *COLUMNS, "queries needed"), tuple(lines), tuple(range(len(by)))
    )


def costs(rows: Rows) -> Table:
    """One line for each owner model and setting: the cost of the mark for the users of the API."""
    lines = [
        (
            str(row["seed"]),
            f"{row['budget']:g}",
            f"{row['tie_margin']:g}",
            f"{row['cost']['clean_accuracy']:.4f} → {row['cost']['marked_accuracy']:.4f}",
            f"{1 - row['cost']['top1_agreement']:.2%}",
            f"{row['cost']['mean_total_variation']:.4f}, {row['cost']['max_total_variation']:.4f}",
        )
        for row in rows
    ]
    header = "seed | budget | tie margin | accuracy, clean → marked | top-1 changed | total variation: mean, largest"
    return Table(tuple(header.split(" | ")), tuple(lines))


def settings(summaries: Iterable[SettingSummary]) -> Table:
    """One line for each setting of the mark: its cost and its strength."""
    lines = [
        (
            f"{s.budget:g}",
            f"{s.tie_margin:g}",
            f"{100 * s.accuracy_cost:.2f}",
            f"{s.mean_total_variation:.4f}",
            f"{s.log10_p:.1f}",
            s.weakest,
        )
        for s in summaries
    ]
    header = "budget | tie margin | accuracy cost, points | mean total variation | weakest log10 p | in"
    return Table(tuple(header.split(" | ")), tuple(lines), (5,))


def worst(rows: Rows, column: str) -> float | None:
    """The worst log10 p of several rows by one kind of queries; `None` if it was not tested.

    It is the weakest evidence against stolen models, and the strongest against independent ones.

    Args:
        rows: rows of one kind.
        column: the kind of queries.
    """
    tested = [row for row in rows if column in row["findings"]]
    choose = min if any(row["kind"] == "independent" for row in tested) else max
    return choose((row["findings"][column]["log10_p"] for row in tested), default=None)


def _worst(rows: Rows, column: str) -> str:
    found = worst(rows, column)
    return "-" if found is None else rounded(found, 1)


def rounded(value: float, decimals: int) -> str:
    """A number with `decimals` decimals, and no minus before zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _needed(rows: Rows) -> str:
    """For each kind of queries that was enough with every seed: the largest number that a seed needed."""
    parts = []
    for column, name in (("1000 fresh", "fresh"), ("logged", "logged"), ("logged, labels", "labels")):
        needed = [row["findings"][column]["queries_needed"] for row in rows if column in row["findings"]]
        if needed and None not in needed:
            parts.append(f"{max(needed):,} {name}")
    return "; ".join(parts) or "-"
