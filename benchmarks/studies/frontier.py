"""What removing the mark costs: the least accuracy that an attacker loses until p rises above 10^-6.

    python benchmarks/studies/frontier.py fashion-mnist --seed 0 --seed 1 --seed 2
    python benchmarks/studies/frontier.py digits-mixed --seed 0 --seed 1 --seed 2
    python benchmarks/studies/frontier.py --report    # writes docs/frontier.md and its pictures from the results

Owner model, data and attacker are those of robustness.py. One surrogate of all probabilities is trained for each seed,
and every family of removal attacks starts from it; *smoothed* alone needs surrogates of its own. A family is swept over
its strengths, with 0, 300 and 3,000 true labels (of digits 1,800). The strengths were fixed before the study ran.

Rows are written as soon as a family is done with one number of labels. What is there already is not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import fused_normalization
from benchmarks.studies import picture, robustness
from dynamarks_tf._support import files
from dynamarks_tf.attacks import post_processing, removal
from dynamarks_tf.attacks.architectures import SECOND, new_model
from dynamarks_tf.attacks.attacker import Array, Attacker, TransferSet
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.catalogue import own_model
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.audit.attack_runner import AttackRunner
from dynamarks_tf.audit.results import Results, read_all
from dynamarks_tf.audit.scenario import Scenario
from dynamarks_tf.audit.tables import Table
from dynamarks_tf.report import style
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.verification.provenance import package_versions

DATA = {"fashion-mnist": (0, 300, 3000), "digits-mixed": (0, 300, 1800)}  # and numbers of true labels
EPOCHS = (1, 2, 5, 10, 20)  # of fine-tuning
DETECTED = -6
CHEAPEST = 3  # families that are named
QUERIES = {"100 fresh": "100 fresh queries", "any": "fresh and logged queries"}

Sweep = Iterator[tuple[float, Any]]


class Attack:
    """What an attacker has: a surrogate, unlabeled inputs, a few true labels.

    Args:
        model: the surrogate.
        transfer_set: what it was trained on.
        attacker: the attacker, with as many true labels as there are.
        made: models that cost time and need no true labels, by name; attacks share them.
    """

    def __init__(
        self, model: keras.Model, transfer_set: TransferSet, attacker: Attacker, made: dict[str, keras.Model]
    ) -> None:
        self.model, self.inputs, self.answers = model, transfer_set.inputs, transfer_set.targets
        self.attacker, self.batch_size = attacker, attacker.batch_size
        self.num_labels = len(attacker.labeled[0])
        self._transfer_set, self._made = transfer_set, made

    @functools.cached_property
    def own(self) -> keras.Model:
        """A model that is trained on the true labels alone; the surrogate began with its weights."""
        return own_model(self._transfer_set, self.attacker, self.model.name, self.answers.shape[1])

    def tuned(self, model: keras.Model, epochs: int = 5, **options: Any) -> keras.Model:
        """A model, fine-tuned in place on the true labels; unchanged without any."""
        if not self.num_labels:
            return model
        return removal.fine_tune(model, *self.attacker.labeled, epochs=epochs, batch_size=self.batch_size, **options)

    def taught(self, architecture: str, name: str, targets: Array) -> keras.Model:
        """A copy of another surrogate, trained on targets for all inputs; `name` says which."""
        if name not in self._made:
            keras.utils.set_random_seed(self.attacker.seed)
            model = new_model(architecture, self.inputs, targets.shape[1])
            epochs = self.attacker.epochs
            train_classifier(model, self.inputs, targets, epochs=epochs, batch_size=self.batch_size)
            self._made[name] = model
        return removal.copied(self._made[name])


def _further(attack: Attack, layers: str, model: keras.Model) -> Sweep:
    """Fine-tuning that goes on: a suspect after each number of epochs."""
    done = 0
    for epochs in EPOCHS:
        attack.tuned(model, epochs - done, layers=layers)
        done = epochs
        yield epochs, model


def _new_head(attack: Attack) -> Sweep:
    model = removal.copied(attack.model)
    inputs, labels = attack.attacker.labeled
    removal.replace_head(model, inputs, labels, epochs=1, batch_size=attack.batch_size)
    yield 1, model
    yield 5, attack.tuned(model, 4, layers="last")
    yield 20, attack.tuned(model, 15, layers="last")


def _pruned(attack: Attack) -> Sweep:
    for share in (0.3, 0.5, 0.6, 0.7, 0.8):
        yield share, attack.tuned(removal.prune(removal.copied(attack.model), share))


def _noised(attack: Attack) -> Sweep:
    for strength in (0.1, 0.2, 0.3, 0.5):
        yield strength, attack.tuned(removal.add_weight_noise(removal.copied(attack.model), strength))


def _hard(attack: Attack) -> Sweep:
    answers = predicted(attack.model, attack.inputs)
    hard = np.eye(answers.shape[1], dtype=answers.dtype)[answers.argmax(axis=1)]
    for share in (0.0, 0.5, 0.9, 1.0):
        student = attack.taught(SECOND["images"], f"hard {share}", (1 - share) * answers + share * hard)
        yield share, attack.tuned(student)


def _smoothed(attack: Attack) -> Sweep:
    for amount in (0.05, 0.1, 0.2, 0.4):
        targets = post_processing.smoothed(attack.answers, amount)
        yield amount, attack.tuned(attack.taught(attack.model.name, f"smoothed {amount}", targets))


def _mixed(attack: Attack) -> Sweep:
    for share in (0.25, 0.5, 0.75, 0.9):
        yield share, _answering(functools.partial(_mean, share=share), attack.model, attack.own)


def _merged(attack: Attack) -> Sweep:
    for share in (0.1, 0.25, 0.5, 0.75):
        yield share, removal.average_weights(removal.copied(attack.model), attack.own, attack.inputs, share)


def _contrasted(attack: Attack) -> Sweep:
    weaker = attack.tuned(removal.copied(attack.model))
    for amount in (0.25, 0.5, 1.0, 2.0):
        yield amount, _answering(functools.partial(post_processing.contrasted, amount=amount), attack.model, weaker)


def _sharpened(attack: Attack) -> Sweep:
    for temperature in (0.7, 0.5, 0.3, 0.1):
        sharpened = functools.partial(post_processing.sharpened, temperature=temperature)
        yield 1 / temperature, _answering(sharpened, attack.model)


def _flattened(attack: Attack) -> Sweep:
    for share in (0.5, 0.9, 0.99, 1.0):
        yield share, _answering(functools.partial(_with_even_tail, share=share), attack.model)


def _mean(answers: Array, others: Array, share: float) -> Array:
    return (1 - share) * answers + share * others


def _with_even_tail(answers: Array, share: float) -> Array:
    return _mean(answers, post_processing.flatten_tails(answers), share)


def _answering(change: Callable[..., Array], *models: keras.Model) -> Any:
    """A suspect that answers with what it makes of the answers of models."""
    return lambda inputs: change(*(np.asarray(model(inputs)) for model in models))


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of removal attacks.

    Attributes:
        sweep: makes a suspect for each strength, the mildest first.
        strength: what the strength is.
        labels: which of the three numbers of true labels it makes sense with.
    """

    sweep: Callable[[Attack], Sweep]
    strength: str
    labels: tuple[int, ...] = (0, 1, 2)


_NONE, _SOME = (0,), (1, 2)
FAMILIES = {
    "fine-tune all": Family(lambda a: _further(a, "all", removal.copied(a.model)), "epochs", _SOME),
    "fine-tune last": Family(lambda a: _further(a, "last", removal.copied(a.model)), "epochs", _SOME),
    "new head": Family(_new_head, "epochs", _SOME),
    "contrast": Family(_contrasted, "how far past the fine-tuned surrogate", _SOME),
    "mean with own model": Family(_mixed, "share of the model of true labels", _SOME),
    "weights averaged with own model": Family(_merged, "share of the model of true labels", _SOME),
    "prune": Family(_pruned, "share of each kernel; then fine-tuned"),
    "weight noise": Family(_noised, "in units of each kernel's deviation; then fine-tuned"),
    "sharpen the answers": Family(_sharpened, "inverse temperature", _NONE),
    "flatten the tails of the answers": Family(_flattened, "share of the even tail", _NONE),
    "distil": Family(_hard, "share of hard labels; then fine-tuned"),
    "smooth before training": Family(_smoothed, "amount; then fine-tuned"),
}


def study(data: str, seed: int, out: Path, *, verbose: bool, models: Path | None = None) -> None:
    """Sweeps all families for one owner model."""
    attacks, settings = robustness.runner(data, seed, set(), verbose=verbose, models=models)
    results = Results(out / f"frontier-{data}-seed{seed}.json", {**settings, "labels": DATA[data]})
    scenario = Scenario("full", robustness.MAIN)
    model, transfer_set = attacks.stolen(scenario)
    examine, attacker = _examining(attacks, scenario, transfer_set)
    if not results.has(family="none"):
        results.add({"family": "none", "labels": 0, "strength": 0, **examine(model)}, package_versions())
    made: dict[str, keras.Model] = {}
    mine: dict[int, Attack] = {}
    inputs, true = attacker.labeled
    for labels in DATA[data]:
        few = dataclasses.replace(attacker, labeled=(inputs[:labels], true[:labels]))
        mine[labels] = Attack(model, transfer_set, few, made)
        if labels and not results.has(family="own model", labels=labels):
            found = {"family": "own model", "labels": labels, "strength": 0, **examine(mine[labels].own)}
            results.add(found, package_versions())
    for name, family in FAMILIES.items():
        for labels in [DATA[data][which] for which in family.labels]:
            if results.has(family=name, labels=labels):
                continue
            keras.utils.set_random_seed(seed)
            swept = [
                {"family": name, "labels": labels, "strength": strength, **examine(suspect)}
                for strength, suspect in family.sweep(mine[labels])
            ]
            for row in swept:
                results.add(row, package_versions())
            if verbose:
                print(name, labels, [(row["strength"], row["accuracy"], row["log10_p"]) for row in swept], flush=True)


def _examining(
    attacks: AttackRunner, scenario: Scenario, transfer_set: TransferSet
) -> tuple[Callable[[Any], dict[str, Any]], Attacker]:
    examiner, attacker = attacks.sides(scenario.params)

    def examine(suspect: Any) -> dict[str, Any]:
        predict = as_suspect(suspect).predict

        def in_batches(inputs: Array) -> Array:
            return np.concatenate([predict(inputs[start : start + 500]) for start in range(0, len(inputs), 500)])

        found = examiner.examine(in_batches, transfer_set.sent)
        log10_p = {name: finding["log10_p"] for name, finding in found["findings"].items()}
        return {"accuracy": found["accuracy"], "log10_p": log10_p}

    return examine, attacker


def read_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of all seeds, by the name of the data."""
    found = {data: list(read_all(sorted(folder.glob(f"frontier-{data}-seed*.json")))) for data in DATA}
    return {data: rows for data, rows in found.items() if rows}


def least_lost(rows: list[dict[str, Any]], family: str, labels: int, queries: str) -> tuple[float, float] | None:
    """The least accuracy lost at which the mark is not detected, over all strengths and seeds.

    Returns:
        Points of accuracy lost against the untouched surrogate of the same seed, and the strength; `None` if every
        strength was detected.
    """
    plain = {row["seed"]: row["accuracy"] for row in rows if row["family"] == "none"}
    found = [
        (round(100 * (plain[row["seed"]] - row["accuracy"]), 1) + 0.0, row["strength"])  # no -0.0
        for row in rows
        if (row["family"], row["labels"]) == (family, labels) and _log10_p(row, queries) > DETECTED
    ]
    return min(found) if found else None


def _log10_p(row: dict[str, Any], queries: str) -> float:
    """log10 p by one kind of queries, or by the strongest kind."""
    found: dict[str, float] = row["log10_p"]
    return min(found.values()) if queries == "any" else found[queries]


def table(rows: list[dict[str, Any]]) -> Table:
    """One line for each family and number of true labels."""
    lines = []
    for family, labels in dict.fromkeys((row["family"], row["labels"]) for row in rows):
        if family not in FAMILIES:
            continue
        same = [row for row in rows if (row["family"], row["labels"]) == (family, labels)]
        cells = []
        for queries in QUERIES:
            found = least_lost(rows, family, labels, queries)
            cells.append("not reached" if found is None else f"{found[0]:.1f} (at {found[1]:g})")
        strengths = sorted({row["strength"] for row in same})
        swept = f"{strengths[0]:g} to {strengths[-1]:g}"
        seeds = len({row["seed"] for row in same})
        lines.append((family, f"{labels:,}", FAMILIES[family].strength, swept, str(seeds), *cells))
    header = (
        "family",
        "true labels",
        "strength",
        "swept",
        "seeds",
        *(f"points lost: {name}" for name in QUERIES.values()),
    )
    return Table(header, tuple(lines), (0, 2))


def cheapest(data: str, rows: list[dict[str, Any]]) -> Table:
    """One line for each number of true labels: the cheapest families that remove the mark, and those that never do."""
    lines = []
    for labels in DATA[data]:
        swept = [family for family in FAMILIES if any((r["family"], r["labels"]) == (family, labels) for r in rows)]
        found = {family: least_lost(rows, family, labels, "any") for family in swept}
        costs = sorted((cost[0], family) for family, cost in found.items() if cost)
        own = [row["accuracy"] for row in rows if (row["family"], row["labels"]) == ("own model", labels)]
        lines.append(
            (
                f"{labels:,}",
                f"{sum(own) / len(own):.3f}" if own else "-",
                "; ".join(f"{family} {lost:.1f}" for lost, family in costs[:CHEAPEST]),
                "; ".join(family for family, cost in found.items() if cost is None) or "-",
            )
        )
    header = ("true labels", "a model of these alone", "points lost by the cheapest families", "always detected")
    return Table(header, tuple(lines), (2, 3))


def figure(data: str, rows: list[dict[str, Any]]) -> style.Figure:
    """Points of accuracy lost until the mark is gone, of each family and number of labels."""
    known = set(dict.fromkeys((row["family"], row["labels"]) for row in rows))
    shown = [family for family in FAMILIES if any((family, labels) in known for labels in DATA[data])]
    colors = dict(zip(DATA[data], ("muted", "against", "key"), strict=True))
    found = {
        (family, labels, queries): least_lost(rows, family, labels, queries)
        for family in shown
        for labels in DATA[data]
        if (family, labels) in known
        for queries in QUERIES
    }
    losses = [value[0] for value in found.values() if value]
    edge = max(5.0, *losses) * 1.12 if losses else 5.0
    said = "; ".join(
        f"{family}, {labels:,} labels: {'not reached' if value is None else f'{value[0]:.1f}'}"
        for (family, labels, queries), value in found.items()
        if queries == "any"
    )
    alt = f"Points of accuracy lost until neither fresh nor logged queries detect the surrogate. {said}."

    def draw(width: int) -> Any:
        drawing, axes = style.canvas(width, 90 + 34 * len(shown))
        for (family, labels, queries), value in found.items():
            place = shown.index(family) + 0.22 * (DATA[data].index(labels) - 1)
            color = style.LIGHT[colors[labels]]
            if value is None:
                axes.plot(edge, place, ">" if queries == "any" else "", color=color, markersize=7)
            else:
                filled = color if queries == "any" else "none"
                axes.plot(value[0], place, "o", markeredgecolor=color, markerfacecolor=filled, markersize=7)
        for labels in DATA[data]:
            axes.plot([], [], "o", color=style.LIGHT[colors[labels]], label=f"{labels:,} true labels")
        ink = style.LIGHT["ink"]
        axes.plot([], [], "o", markeredgecolor=ink, markerfacecolor="none", label="100 fresh queries")
        axes.plot([], [], "o", color=ink, label="fresh and logged")
        axes.plot([], [], ">", color=ink, label="never, in this sweep")
        axes.axvline(0, color=style.LIGHT["line"], linewidth=1)
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("Points of accuracy lost until p > 10⁻⁶")
        axes.grid(axis="x", color=style.LIGHT["line"], linewidth=0.7)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, ncols=3, fontsize=11, loc="lower center", bbox_to_anchor=(0.35, 1.0))
        style.bare(axes)
        return drawing

    return style.Figure(f"frontier-{data}", alt, draw)


def report(rows_by_data: dict[str, list[dict[str, Any]]]) -> str:
    """The page."""
    lines = [
        "# What removing the mark costs",
        "",
        "Written by `python benchmarks/studies/frontier.py --report` from its results. The head of",
        "[frontier.py](../benchmarks/studies/frontier.py) states how they were made.",
        "",
        "Each family of removal attacks on a surrogate of all probabilities (separable CNN) is swept over strengths.",
        "Figures are the least accuracy lost at which p rises above 10^-6, over all strengths and seeds: this is what",
        "attackers pay who know the best strength. *Not reached*: all were detected. Where",
        "the best strength is the last one that was swept, a stronger one may cost less.",
        "",
        "Losses are against the surrogate, so true labels may give gains. The small table shows what these labels give",
        "without any theft.",
        "",
        "Accuracy does not count what a product loses besides. Even tails and sharp answers cost no accuracy, but they",
        "are no probabilities any more. An attacker who knows the scheme needs none of these, as",
        "[robustness](robustness.md) shows.",
    ]
    for data, rows in rows_by_data.items():
        lines += _section(data, rows)
    return "\n".join([*lines, ""])


def _section(data: str, rows: list[dict[str, Any]]) -> list[str]:
    seeds = sorted({row["seed"] for row in rows})
    plain = [row["accuracy"] for row in rows if row["family"] == "none"]
    planned = sum(len(family.labels) for family in FAMILIES.values())
    done = {seed: {(r["family"], r["labels"]) for r in rows if r["seed"] == seed} for seed in (0, 1, 2)}
    count = {seed: sum(family in FAMILIES for family, _ in found) for seed, found in done.items()}
    missing = [f"seed {seed}: {found} of {planned} sweeps" for seed, found in count.items() if found < planned]
    own = [
        f"| {labels:,} | {sum(same) / len(same):.3f} |"
        for labels in DATA[data]
        if (same := [row["accuracy"] for row in rows if (row["family"], row["labels"]) == ("own model", labels)])
    ]
    return [
        "",
        f"## {data}",
        "",
        f"Accuracy of the surrogate: {sum(plain) / len(plain):.3f}. Seeds: {', '.join(map(str, seeds))}.",
        *(["", f"**The study is not finished** ({'; '.join(missing)})."] if missing else []),
        "",
        f"![Points of accuracy lost until the mark is gone](frontier-{data}.svg)",
        "",
        "What the true labels give without any theft, as a model of the surrogate's architecture:",
        "",
        "| true labels | accuracy |",
        "|---|---|",
        *own,
        "",
        table(rows).markdown(),
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=DATA, default="fashion-mnist")
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/frontier.md and its pictures")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--models", type=Path, help="folder that keeps models between runs")
    parser.add_argument("--out", type=Path, default=robustness.RESULTS, help="folder of the results")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    fused_normalization.install()
    for seed in options.seed:
        study(options.data, seed, options.out, verbose=True, models=options.models)
    if options.report:
        for path in options.out.glob("frontier-*-seed*.json"):
            robustness.compact(path)
        rows = read_rows(options.out)
        files.write_atomically(robustness.DOCS / "frontier.md", report(rows).encode())
        for data, found in rows.items():
            picture.save_svg(figure(data, found), robustness.DOCS)


if __name__ == "__main__":
    main()
