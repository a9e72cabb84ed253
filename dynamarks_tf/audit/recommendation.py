"""From rehearsed thefts to settings of the mark: the mildest that is strong enough in every scenario."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

DEFAULT_STRENGTH = -6.0
DEFAULT_ACCURACY_COST = 0.003
WORTHLESS = 0.1  # a suspect that is so much less accurate than the clean model is none that anybody would sell


@dataclasses.dataclass(frozen=True)
class SettingSummary:
    """What one setting of the mark costs and how strong it is.

    Attributes:
        budget: of the mark.
        tie_margin: of the mark.
        accuracy_cost: how much accuracy the users of the API lose, as a share of all answers; the worst of the seeds.
        mean_total_variation: mean total variation between clean and released answers.
        log10_p: the weakest evidence in any rehearsed theft, by the queries that say most in each. Suspects that lost
            10 points of accuracy against the clean model or more do not count: laundering has made them worthless.
        weakest: the theft that it comes from.
    """

    budget: float
    tie_margin: float
    accuracy_cost: float
    mean_total_variation: float
    log10_p: float
    weakest: str


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Which settings to use.

    Attributes:
        chosen: the setting, or `None` if none is strong enough at the wanted cost.
        settings: all that were rehearsed, the mildest first.
        says: one sentence for people.
    """

    chosen: SettingSummary | None
    settings: tuple[SettingSummary, ...]
    says: str


def strength(row: Mapping[str, Any]) -> float:
    """log10 p of a rehearsed theft by the queries that say most: fresh, logged, or logged with labels only."""
    return float(min(finding["log10_p"] for finding in row["findings"].values()))


def summarize(rows: Iterable[Mapping[str, Any]]) -> tuple[SettingSummary, ...]:
    """Sums the rows of a rehearsal up by setting of the mark, the mildest first.

    Args:
        rows: rows of `Results`, of any number of seeds.
    """
    rows = list(rows)
    found = []
    for budget, margin in sorted({(row["budget"], row["tie_margin"]) for row in rows}):
        here = [row for row in rows if (row["budget"], row["tie_margin"]) == (budget, margin)]
        costs = [row["cost"] for row in here if row["kind"] == "cost"]
        least = max((cost["clean_accuracy"] for cost in costs), default=0.0) - WORTHLESS
        thefts = [row for row in here if row["kind"] == "theft" and row["accuracy"] > least]
        if not costs or not thefts:
            continue
        worst = max(thefts, key=strength)
        found.append(
            SettingSummary(
                budget,
                margin,
                accuracy_cost=max(cost["clean_accuracy"] - cost["marked_accuracy"] for cost in costs),
                mean_total_variation=sum(cost["mean_total_variation"] for cost in costs) / len(costs),
                log10_p=strength(worst),
                weakest=f"{worst['extraction']}, {worst['architecture']}, {worst['removal']}",
            )
        )
    return tuple(sorted(found, key=lambda setting: (setting.mean_total_variation, setting.tie_margin)))


def recommend(
    rows: Iterable[Mapping[str, Any]],
    *,
    wanted: float = DEFAULT_STRENGTH,
    accuracy_cost: float = DEFAULT_ACCURACY_COST,
) -> Recommendation:
    """Recommends settings of the mark.

    Args:
        rows: rows of `Results`, of any number of seeds.
        wanted: log10 p that every rehearsed theft must reach.
        accuracy_cost: largest loss of accuracy, as a share of all answers: 0.003 is 0.3 points.
    """
    settings = summarize(rows)
    affordable = [setting for setting in settings if setting.accuracy_cost <= accuracy_cost]
    chosen = next((setting for setting in affordable if setting.log10_p <= wanted), None)
    if chosen is not None:
        says = (
            f"budget {chosen.budget:g}, tie margin {chosen.tie_margin:g}: every rehearsed theft gives log10 p of "
            f"{chosen.log10_p:.1f} or less, at {100 * chosen.accuracy_cost:.2f} points of accuracy."
        )
    elif affordable:
        best = min(affordable, key=lambda setting: setting.log10_p)
        says = (
            f"none of the settings reaches log10 p of {wanted:g} in every rehearsed theft. Nearest: budget "
            f"{best.budget:g}, tie margin {best.tie_margin:g} with {best.log10_p:.1f}; the weakest is {best.weakest}. "
            "Try a larger budget, or keep request logs of more queries."
        )
    else:
        says = f"no setting keeps the loss of accuracy within {100 * accuracy_cost:g} points. Try a smaller tie margin."
    return Recommendation(chosen, settings, says)
