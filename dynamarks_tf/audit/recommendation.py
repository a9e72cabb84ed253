"""From attack runs to settings of the mark: the mildest setting that is strong enough in every scenario."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

DEFAULT_STRENGTH = -6.0
DEFAULT_ACCURACY_COST = 0.003
WORTHLESS = 0.1  # a suspect that is less accurate than the clean model by this much has no value


@dataclasses.dataclass(frozen=True)
class SettingSummary:
    """The cost and the strength of one setting of the mark.

    Attributes:
        budget: of the mark.
        tie_margin: of the mark.
        accuracy_cost: accuracy that the users of the API lose, as a share of all answers; the worst of the seeds.
        mean_total_variation: mean total variation between clean and released answers.
        log10_p: the weakest evidence among the thefts, each by its strongest queries. Suspects that lost at least 10
            points of accuracy against the clean model do not count: the removal attack has made them worthless.
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
    """The recommended setting of the mark.

    Attributes:
        chosen: the setting, or `None` if none is strong enough within the accuracy cost.
        settings: every setting that was tested, the mildest first.
        description: the recommendation in one or two sentences.
    """

    chosen: SettingSummary | None
    settings: tuple[SettingSummary, ...]
    description: str


def strength(row: Mapping[str, Any]) -> float:
    """log10 p of a theft by its strongest queries: fresh, logged, or logged with labels only."""
    return float(min(finding["log10_p"] for finding in row["findings"].values()))


def summarize(rows: Iterable[Mapping[str, Any]]) -> tuple[SettingSummary, ...]:
    """Sums up the rows of an audit by setting of the mark, the mildest first.

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
        wanted: target strength: the log10 p that every theft must reach.
        accuracy_cost: largest loss of accuracy, as a share of all answers: 0.003 is 0.3 points.
    """
    rows = list(rows)
    settings = summarize(rows)
    affordable = [setting for setting in settings if setting.accuracy_cost <= accuracy_cost]
    chosen = next((setting for setting in affordable if setting.log10_p <= wanted), None)
    if chosen is not None:
        description = (
            f"budget {chosen.budget:g}, tie margin {chosen.tie_margin:g}: every theft gives log10 p of "
            f"{chosen.log10_p:.1f} or less, at {100 * chosen.accuracy_cost:.2f} points of accuracy."
        )
        if len({row.get("seed") for row in rows}) == 1:
            description += " This is one seed, and with another key it may be weaker: give three."
    elif affordable:
        best = min(affordable, key=lambda setting: setting.log10_p)
        description = (
            f"none of the settings reaches log10 p of {wanted:g} in every theft. Nearest: budget {best.budget:g}, tie "
            f"margin {best.tie_margin:g} with {best.log10_p:.1f}; the weakest is {best.weakest}. Try a larger budget, "
            "or keep request logs of more queries."
        )
    else:
        description = (
            f"no setting keeps the loss of accuracy within {100 * accuracy_cost:g} points. Try a smaller tie margin."
        )
    return Recommendation(chosen, settings, description)
