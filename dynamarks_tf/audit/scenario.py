"""Scenarios: settings of the mark, an extraction, a surrogate, a removal attack. And ready-made selections of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dynamarks_tf._support.input_kind import Kind
from dynamarks_tf.attacks import trees
from dynamarks_tf.attacks.architectures import ALL, BY_KIND, MAIN, SECOND
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS, applicable, by_name
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
        architecture: of the surrogate, a name of `architectures.ALL`.
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
        by_name(ALL, self.architecture, "architecture")
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


def quick(settings: Sequence[MarkParams] = (MarkParams(),), kind: Kind = "images") -> list[Scenario]:
    """A few minutes' worth: plain theft by probabilities and labels, fine-tuning, pruning, one independent model."""
    main = [MAIN[kind]]
    return [
        *crossed(["full", "labels"], ["none", "fine-tune all", "prune 60 %"], main, settings),
        *crossed(["true labels"], ["none"], main, settings),
    ]


def full(
    settings: Sequence[MarkParams] = (MarkParams(),),
    *,
    available: Iterable[str] = (),
    pool_size: int,
    kind: Kind = "images",
) -> list[Scenario]:
    """Every extraction with fine-tuning, every removal attack and architecture on plain thefts, independent models.

    Args:
        settings: of the mark.
        available: the attacker's means beyond the API; scenarios that need more are left out.
        pool_size: number of the attacker's inputs; extractions that send more are left out.
        kind: of the owner's inputs; attacks that make no sense for it are left out, and what
            scikit-learn is missing for.
    """
    main, tuned = MAIN[kind], ["none", "fine-tune all"]
    chosen = [
        *crossed(["full", "labels"], applicable(REMOVALS, kind), [main], settings),
        *crossed(["full", "labels"], tuned, [name for name in BY_KIND[kind] if name not in trees.TREES], settings),
        *crossed(applicable(EXTRACTIONS, kind), tuned, [main], settings),
        *crossed(INDEPENDENT_SOURCES, tuned, [main, SECOND[kind]], settings),
    ]
    if kind == "vectors" and trees.is_installed():
        removals = [name for name, removal in REMOVALS.items() if removal.takes_trees]
        chosen += crossed(["full", "labels"], removals, trees.TREES, settings)
        chosen += crossed(INDEPENDENT_SOURCES, ["none"], trees.TREES, settings)
    return [
        scenario
        for scenario in dict.fromkeys(chosen)
        if set(scenario.needs) <= set(available) and scenario.num_queries <= pool_size
    ]


def left_out(kind: Kind) -> str:
    """A sentence about the attacks that are left out for a kind of inputs, and why; empty for none."""
    names = [name for name, removal in REMOVALS.items() if kind not in removal.kinds]
    said = [f"Left out, as they make no sense for {kind}: {', '.join(names)}."] if names else []
    if kind == "vectors" and not trees.is_installed():
        said.append(f"Left out, as scikit-learn is not installed: {', '.join(trees.TREES)}.")
    return " ".join(said)


def check_feasible(scenarios: Sequence[Scenario], available: Iterable[str], kind: Kind = "images") -> None:
    """Checks that the attacker has the means that the scenarios need, and that they make sense for the inputs.

    Raises:
        ArgumentError: there is no scenario, or one needs something that is missing, or is for other inputs.
    """
    if not scenarios:
        raise ArgumentError("There is no attack to run: no scenario was given.")
    hints = {
        "pool_labels": "true labels of the attacker's inputs",
        "other_domain": "inputs of another domain",
        "rival": "a second model for the same classes",
        "second_client": "a second client of the marked API",
    }
    for scenario in scenarios:
        _check_kind(scenario, kind)
        missing = [hints.get(name, name) for name in scenario.needs if name not in set(available)]
        if missing:
            raise ArgumentError(
                f"The attack {scenario.extraction!r}, {scenario.removal!r} needs {' and '.join(missing)}. Provide "
                "this, or leave the attack out."
            )


def _check_kind(scenario: Scenario, kind: Kind) -> None:
    attack = scenario.extraction if scenario.is_independent else EXTRACTIONS[scenario.extraction]
    removal = REMOVALS[scenario.removal]
    named = {f"extraction {scenario.extraction!r}": attack, f"removal attack {scenario.removal!r}": removal}
    for what, entry in named.items():
        if not isinstance(entry, str) and kind not in entry.kinds:
            raise ArgumentError(f"The {what} is for {' and '.join(entry.kinds)}; the model takes {kind}. Leave it out.")
    if scenario.architecture not in BY_KIND[kind]:
        raise ArgumentError(
            f"The architecture {scenario.architecture!r} is not for {kind}. There are: {'; '.join(BY_KIND[kind])}."
        )
    if scenario.architecture not in trees.TREES:
        return
    if not trees.is_installed():
        raise ArgumentError(
            f"The architecture {scenario.architecture!r} takes scikit-learn: pip install 'dynamarks_tf[demo]'. Or "
            "leave it out."
        )
    if not removal.takes_trees or (not isinstance(attack, str) and attack.training):
        raise ArgumentError(
            f"{scenario.extraction!r}, {scenario.removal!r} works on neural networks only; {scenario.architecture!r} "
            "has no weights to train further. Leave it out."
        )
