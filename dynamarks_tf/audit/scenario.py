"""Scenarios: settings of the mark, an extraction, a surrogate, a removal attack. And ready-made selections of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS, by_name
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.watermark.params import MarkParams

# Sources that an independent model can learn from, and what each needs.
INDEPENDENT_SOURCES: dict[str, tuple[str, ...]] = {
    "true labels": ("pool_labels",),
    "unmarked API": (),
    "another key": (),
}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One attack run, or the training of one independent model.

    Attributes:
        extraction: a name of `EXTRACTIONS`; for an independent model, a name of `INDEPENDENT_SOURCES`.
        architecture: of the surrogate, a name of `ARCHITECTURES`.
        removal: the removal attack on the surrogate, a name of `REMOVALS`.
        budget: of the mark.
        tie_margin: of the mark.

    Raises:
        ArgumentError: a name is unknown; the message lists the known ones.
    """

    extraction: str
    architecture: str = "separable_cnn"
    removal: str = "none"
    budget: float = MarkParams().budget
    tie_margin: float = MarkParams().tie_margin

    def __post_init__(self) -> None:
        if not self.is_independent:
            by_name(EXTRACTIONS, self.extraction, "extraction")
        by_name(ARCHITECTURES, self.architecture, "architecture")
        by_name(REMOVALS, self.removal, "removal attack")

    @property
    def is_independent(self) -> bool:
        """Whether the suspect never saw an answer marked with the key that is tested."""
        return self.extraction in INDEPENDENT_SOURCES

    @property
    def params(self) -> MarkParams:
        """The settings of the mark."""
        return MarkParams(self.budget, tie_margin=self.tie_margin)

    @property
    def surrogate(self) -> tuple[Any, ...]:
        """Everything that the surrogate depends on before the removal attack. Equal values share one training."""
        return self.budget, self.tie_margin, self.extraction, self.architecture

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """The means that the attacker needs beyond the API, by name."""
        extraction = INDEPENDENT_SOURCES[self.extraction] if self.is_independent else EXTRACTIONS[self.extraction].needs
        return tuple(dict.fromkeys((*extraction, *REMOVALS[self.removal].needs)))

    @property
    def num_queries(self) -> int:
        """Number of inputs that the attacker's pool must hold."""
        return 1 if self.is_independent else EXTRACTIONS[self.extraction].num_queries


def crossed(
    extractions: Iterable[str],
    removals: Iterable[str] = ("none",),
    architectures: Iterable[str] = ("separable_cnn",),
    settings: Iterable[MarkParams] = (MarkParams(),),
) -> list[Scenario]:
    """Every extraction with every removal attack, architecture and setting of the mark."""
    removals, architectures, settings = list(removals), list(architectures), list(settings)
    return [
        Scenario(extraction, architecture, removal, params.budget, params.tie_margin)
        for params in settings
        for extraction in extractions
        for architecture in architectures
        for removal in removals
    ]


def quick(settings: Sequence[MarkParams] = (MarkParams(),)) -> list[Scenario]:
    """A few minutes' worth: plain theft by probabilities and labels, fine-tuning, pruning, one independent model."""
    return [
        *crossed(["full", "labels"], ["none", "fine-tune all", "prune 60 %"], settings=settings),
        *crossed(["true labels"], settings=settings),
    ]


def full(
    settings: Sequence[MarkParams] = (MarkParams(),), *, available: Iterable[str] = (), pool_size: int
) -> list[Scenario]:
    """Every extraction with fine-tuning, every removal attack and architecture on plain thefts, independent models.

    Args:
        settings: of the mark.
        available: the attacker's means beyond the API; scenarios that need more are left out.
        pool_size: number of the attacker's inputs; extractions that send more are left out.
    """
    main = "separable_cnn"
    chosen = [
        *crossed(["full", "labels"], REMOVALS, [main], settings),
        *crossed(["full", "labels"], ["none", "fine-tune all"], ARCHITECTURES, settings),
        *crossed(EXTRACTIONS, ["none", "fine-tune all"], [main], settings),
        *crossed(INDEPENDENT_SOURCES, ["none", "fine-tune all"], [main, "mlp"], settings),
    ]
    return [
        scenario
        for scenario in dict.fromkeys(chosen)
        if set(scenario.needs) <= set(available) and scenario.num_queries <= pool_size
    ]


def check_feasible(scenarios: Sequence[Scenario], available: Iterable[str]) -> None:
    """Checks that the attacker has the means that the scenarios need.

    Raises:
        ArgumentError: there is no scenario, or one needs something that is missing.
    """
    if not scenarios:
        raise ArgumentError("There is no attack to run: no scenario was given.")
    hints = {
        "pool_labels": "true labels of the attacker's inputs",
        "other_domain": "images of another domain",
        "rival": "a second model for the same classes",
    }
    for scenario in scenarios:
        missing = [hints.get(name, name) for name in scenario.needs if name not in set(available)]
        if missing:
            raise ArgumentError(
                f"The attack {scenario.extraction!r}, {scenario.removal!r} needs {' and '.join(missing)}. Provide "
                "this, or leave the attack out."
            )
