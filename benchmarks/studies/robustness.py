"""The robustness matrix: every extraction with every removal attack, on owner models and keys that are held out.

    python benchmarks/studies/robustness.py fashion-mnist --seed 0 --seed 1 --seed 2    # an hour a seed on one core
    python benchmarks/studies/robustness.py glyphs-1000 --seed 0 --seed 1 --seed 2
    python benchmarks/studies/robustness.py --report       # writes docs/robustness.md and its pictures from the results

For each seed: a new owner model on one half of the training images, a new key, and an attacker who has the other half.
The attacker fine-tunes on 3,000 test images with their true labels. Fresh queries come from the other test images. The
engine is that of `dynamarks audit`. The constants of mark and evidence were chosen with seed 100 and other keys.

Rows are written to the folder of results as they come; rows that are there already are not computed again. At the end
of a seed, its file is reduced to what the page is made from.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import result_file
from benchmarks.studies import glyphs, picture
from dynamarks_tf import datasets
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS, applicable
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.query_sets import adapted
from dynamarks_tf.audit import plots, tables
from dynamarks_tf.audit.attack_runner import AttackRunner
from dynamarks_tf.audit.recommendation import summarize
from dynamarks_tf.audit.results import Results, read, read_all
from dynamarks_tf.audit.scenario import INDEPENDENT_SOURCES, Scenario, crossed
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import DatasetError
from dynamarks_tf.watermark.layer import SCHEME
from dynamarks_tf.watermark.params import MarkParams

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parents[1] / "docs"
FINE_TUNED = 3000
OTHER_DOMAIN = 30_000
MAIN = "separable_cnn"
# Post-processing by attackers who know the mark, and extraction from a mark without a tie channel.
KNOWING = ("floor subtracted", "tails whitened", "top 1", "top 2", "1 decimal")
WITHOUT_TIES = ("top 1, no ties", "1 decimal, no ties", "labels, no ties", "top 2, no ties")
TUNED = ["none", "fine-tune all"]
WEIGHTS = ["prune 30 %", "prune 60 %", "int8", "float16", "noise 10 %", "distil, probabilities", "mean with rival"]
BUDGETS = (0.01, 0.02, 0.1)

# Targets, set before the study ran: extractions, removal attacks, queries, largest log10 p.
TARGETS: list[tuple[list[str], list[str], str, float]] = [
    (["full"], ["none"], "10 fresh", -9),
    (["full", "2 decimals"], ["none", *(name for name in WEIGHTS if name != "prune 60 %")], "100 fresh", -9),
    (["full", "2 decimals"], ["prune 60 %"], "100 fresh", -9),
    (["two APIs averaged"], ["none"], "100 fresh", -9),
    (["full"], ["fine-tune all"], "100 fresh", -7),
    (["full"], ["fine-tune all"], "1000 fresh", -10),
    (["top 3"], ["none"], "100 fresh", -7),
    (["top 2"], ["none"], "logged", -7),
    (["labels"], ["none", "prune 30 %", "int8"], "logged, labels", -10),
    (["labels"], ["prune 60 %"], "logged, labels", -10),
    (["labels"], ["fine-tune all", "distil, labels"], "logged, labels", -4),
    ([*KNOWING], ["none"], "logged", -10),
    ([*KNOWING], ["fine-tune all"], "logged", -4),
    (["5 copies averaged"], ["none"], "100 fresh", -9),
]
GLYPH_TARGETS: list[tuple[list[str], list[str], str, float]] = [
    (["full"], ["none"], "100 fresh", -20),
    (["full"], ["fine-tune all"], "100 fresh", -6),
]

# Why some lines of the tables are weak. Figures are in the tables; these are reasons.
WEAKNESSES = (
    "- **prune 60 %**: it costs this small network 13 to 33 points of accuracy, and 80 % cost nearly all. After",
    "  fine-tuning, the network pruned by 60 % is usable and detected again. (An earlier version pruned depthwise",
    "  kernels as well: accuracy 0.45, log10 p -2.2 with 100 fresh queries after pruning 60 %, -5.2 fine-tuned. No",
    "  command reproduces this.)",
    "- **new head**: all channels live in what the last layer makes of its inputs. An attacker who trains that layer",
    "  anew on 3,000 true labels removes them, at 2 to 3 points of accuracy. The features hold no evidence that",
    "  queries could show.",
    "- **distil, labels** of a surrogate of probabilities: the surrogate learned that a tie is a tie, so its labels",
    "  pass no secret sign on. Labels hold no class channel either. A surrogate of labels does pass its flipped ties",
    "  on.",
    "- **smoothed** by 0.1 before training, then fine-tuned: fresh queries show nothing, at no loss of accuracy.",
    "  Smoothing lifts every small probability to 0.01, so the mark moves its logarithm less. True labels outweigh",
    "  the rest. Logged queries detect the surrogate through the class-choice channel. **Sharpened** probabilities",
    "  hold less of the mark than plain ones.",
    "- **other domain**: an attacker who asks about rendered characters learns the mark on such inputs only. Fresh",
    "  images of clothes show nothing. Logged queries detect the surrogate until it is fine-tuned on 3,000 true",
    "  labels.",
    "- **labels, no ties**: no marked answer was released. Only wrong answers on confident inputs could have an",
    "  effect.",
    "- **top 1**, fresh queries: flattened tails hold no class channel. The queries that were sent must be asked",
    "  again (*logged*).",
    "- **labels**: labels hold no class channel, so fresh queries show nothing. The tie channel needs what was sent.",
    "- **1,000 and 5,000 queries**, fine-tuned: few answers teach the mark weakly, and 3,000 true labels outweigh",
    "  them.",
)
USELESS = 0.7  # a suspect's accuracy is stated below this

# Per data set: how it is loaded, the owner's architecture and epochs, the attacker's epochs.
SETS: dict[str, tuple[Any, str, int, int]] = {
    "fashion-mnist": (datasets.load_fashion_mnist, "pooled_cnn", 6, 10),
    "cifar10": (datasets.load_cifar10, "resnet", 10, 15),
    "glyphs-1000": (glyphs.load, "glyph_cnn", 10, 10),
}


def scenarios(data: str) -> list[Scenario]:
    """What is rehearsed; the scenarios that the targets are about come first."""
    if data == "glyphs-1000":
        return [
            *crossed(["full"], TUNED, ["glyph_cnn"]),
            *crossed(["true labels"], TUNED, ["glyph_cnn"]),
            *crossed(["labels", "top 3"], TUNED, ["glyph_cnn"]),
            *crossed(["unmarked API"], TUNED, ["glyph_cnn"]),
        ]
    first = [
        *crossed(["full", "labels"], REMOVALS, [MAIN]),
        *crossed(["2 decimals"], [*TUNED, *WEIGHTS], [MAIN]),
        *crossed(["2 decimals", "top 3", *KNOWING, *WITHOUT_TIES, "5 copies averaged"], TUNED, [MAIN]),
        *crossed(INDEPENDENT_SOURCES, TUNED, [MAIN, "mlp"]),
        *crossed(["full", "labels", *KNOWING], TUNED, ["mlp"]),
        *crossed(["full", "labels"], TUNED, ["mlp"], [MarkParams(budget) for budget in BUDGETS]),
        *crossed(["full", "true labels"], TUNED, ["patch_mixer", "resnet", "vit", "pooled_cnn"]),
        *crossed(["1,000 queries", "5,000 queries", "5,000 uncertain", "other domain"], TUNED, [MAIN]),
        *crossed(["two APIs averaged", "sharpened", "smoothed"], TUNED, [MAIN]),
        *crossed(["labels"], TUNED, ["resnet", "vit", "pooled_cnn"]),
        *crossed(["early stopping"], TUNED, ["pooled_cnn"]),
    ]
    assert {scenario.extraction for scenario in first} >= set(applicable(EXTRACTIONS, "images"))
    return list(dict.fromkeys(first))


def run(data: str, seed: int, chosen: list[Scenario], path: Path, *, verbose: bool) -> None:
    """Rehearses some scenarios for one owner model.

    Args:
        data: name of the data set.
        seed: seed of owner model, key and surrogates.
        chosen: the scenarios; those that the data set has no means for are left out.
        path: file of the results.
        verbose: whether to show progress.
    """
    load, architecture, owner_epochs, epochs = SETS[data]
    images: ImageData = load()
    order = np.random.default_rng(seed).permutation(len(images.x_train))
    x, y = images.x_train[order], images.y_train[order]
    half = len(x) // 2
    shape = x.shape[1:]

    def owner_model(name: str, seed: int, count: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return train_classifier(ARCHITECTURES[name](shape, images.num_classes), x[:half], y[:half], epochs=count)

    settings = {
        "scheme": SCHEME,
        "data": data,
        "source": images.describe().rpartition(", from ")[0],
        "seed": seed,
        "owner": architecture,
        "owner_epochs": owner_epochs,
        "epochs": epochs,
        "fine_tuned": FINE_TUNED,
        "pool": half,
    }
    needed = {need for scenario in chosen for need in scenario.needs}
    has_rival = "rival" in needed and data != "glyphs-1000"
    rehearsal = AttackRunner(
        owner_model(architecture, seed, owner_epochs),
        pool=x[half:],
        pool_labels=y[half:],
        labeled=(images.x_test[:FINE_TUNED], images.y_test[:FINE_TUNED]),
        fresh=(images.x_test[FINE_TUNED:], images.y_test[FINE_TUNED:]),
        other_domain=_other_domain(data, shape) if "other_domain" in needed else None,
        rival=owner_model(MAIN, seed + 1000, owner_epochs) if has_rival else None,
        seed=seed,
        epochs=epochs,
        verbose=verbose,
    )
    possible = [scenario for scenario in chosen if set(scenario.needs) <= set(rehearsal.available)]
    rehearsal.run(possible, Results(path, settings))


def _other_domain(data: str, shape: tuple[int, ...]) -> Any:
    """Rendered characters, for an attacker who has no images of clothes; `None` where there are none."""
    if data == "glyphs-1000":
        return None
    try:
        return adapted(glyphs.load().x_train[:OTHER_DOMAIN], shape)
    except DatasetError as error:
        print(f"Extraction with images of another domain is left out: {error}", file=sys.stderr)
        return None


def compact(path: Path, *, findings: Sequence[str] | None = None, channels: bool = False) -> None:
    """Reduces a file of results to what a page is made from. `dynamarks_tf.audit.results` reads it as before.

    Args:
        path: the file.
        findings: which findings stay; all if `None`.
        channels: whether the log10 p of each channel stays. How long a scenario took never does.
    """
    content = read(path)
    rows = []
    for row in content["rows"]:
        kept = {name: value for name, value in row.items() if name not in ("findings", "seconds")}
        if "findings" in row:
            kept["findings"] = {
                queries: {name: value for name, value in finding.items() if channels or name != "channels"}
                for queries, finding in row["findings"].items()
                if findings is None or queries in findings
            }
        rows.append(kept)
    result_file.write(path, {**content, "rows": rows})


def report(folder: Path, docs: Path) -> str:
    """The page; its pictures are written to `docs`."""
    parts = [
        "# Robustness: every extraction with every removal attack",
        "",
        "Written by `python benchmarks/studies/robustness.py --report` from",
        "[its results](../benchmarks/studies/results). The head of",
        "[robustness.py](../benchmarks/studies/robustness.py) states how they were made.",
        "",
        "Figures are log10 p, the *worst* of the seeds. Each seed has an owner model, a key and surrogates that had no",
        "part in choosing the method.",
        "",
        "- *Fresh*: this number of unlabeled test images, chosen by `--max-queries`.",
        "- *Logged*: all queries that the attacker sent, all channels combined.",
        "- *Labels*: the same for a suspect that answers labels only.",
        "- *Queries needed*: for p <= 1e-6, by the worst of the seeds.",
        "",
        "Other watermarks: [baselines.md](baselines.md). `dynamarks audit --list` describes the attacks.",
    ]
    parts += ["", "## Where it is weak, and why", "", *WEAKNESSES]
    for data in SETS:
        parts += _section(data, sorted(folder.glob(f"robustness-{data}-seed*.json")), docs)
    return "\n".join([*parts, ""])


def _section(data: str, paths: list[Path], docs: Path) -> list[str]:
    """What is known of a data set; nothing if there are no results."""
    if not paths:
        return []
    rows = sorted(read_all(paths), key=_place)
    facts = read(paths[0])["settings"]
    default = MarkParams()
    usual = [row for row in rows if (row["budget"], row["tie_margin"]) == (default.budget, default.tie_margin)]
    stolen = [row for row in usual if row["kind"] == "theft"]
    independent = [row for row in usual if row["kind"] == "independent"]
    lines = [
        "",
        f"## {data}",
        "",
        f"{facts['source']}. Owner: {facts['owner']}, {facts['owner_epochs']} epochs on one half. The attacker sends "
        f"the other {facts['pool']:,} and trains for {facts['epochs']} epochs. Budget {default.budget} and tie margin "
        f"{default.tie_margin}, the defaults, unless stated otherwise. {len(paths)} seeds.",
        *_about_scheme(facts),
        "",
        tables.costs(row for row in usual if row["kind"] == "cost").markdown(),
        "",
        "### Targets and results",
        "",
        f"The weakest of the extractions and removal attacks named, with a {_main(data)} as the surrogate.",
        "",
        *_targets(GLYPH_TARGETS if data == "glyphs-1000" else TARGETS, stolen, data),
        "",
        f"Independent models: {len(independent)} suspects, smallest log10 p {_smallest(independent)} (target: none "
        "below -3).",
        "",
        "### Stolen models",
        "",
        tables.suspects(stolen).markdown(),
        "",
        "### Independent models",
        "",
        tables.suspects(independent).markdown(),
    ]
    matrix = plots.matrix([row for row in stolen if row["architecture"] == _main(data)], f"robustness-{data}")
    picture.save_svg(matrix, docs)
    lines += ["", f"![log10 p of every extraction and removal attack, {_main(data)}](robustness-{data}.svg)"]
    summaries = [s for s in summarize(row for row in rows if _is_plain(row)) if s.tie_margin == default.tie_margin]
    if len(summaries) > 1:
        picture.save_svg(plots.trade_off(summaries, f"trade-off-{data}"), docs)
        lines += [
            "",
            "### Strength against budget",
            "",
            "The weaker of two surrogates, of probabilities and of labels, with the weakest architecture, mlp, and no "
            "removal attack.",
            "",
            tables.settings(summaries).markdown(),
            "",
            f"![log10 p of the weaker surrogate by budget](trade-off-{data}.svg)",
        ]
    return lines


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """The order of the catalogue: extraction, architecture, removal attack, seed."""
    extractions, removals, built = (
        [*applicable(EXTRACTIONS, "images"), *INDEPENDENT_SOURCES],
        [*REMOVALS],
        [*ARCHITECTURES],
    )
    if row["kind"] == "cost":
        return (-1, 0, 0, row["seed"])
    return (
        extractions.index(row["extraction"]),
        built.index(row["architecture"]),
        removals.index(row["removal"]),
        row["seed"],
    )


def _main(data: str) -> str:
    return "glyph_cnn" if data == "glyphs-1000" else MAIN


def _is_plain(row: dict[str, Any]) -> bool:
    """Rows of the trade-off: the cost of a setting, and untouched MLPs, which were studied with every setting."""
    is_theft = row["kind"] == "theft" and row["architecture"] == "mlp" and row["removal"] == "none"
    return row["kind"] == "cost" or (is_theft and row["extraction"] in ("full", "labels"))


def _about_scheme(facts: dict[str, Any]) -> list[str]:
    """What has changed in the mark since these results were made."""
    if facts["scheme"] == SCHEME:
        return []
    return [
        "",
        f"Made with scheme {facts['scheme']}, before the key was bound to the clean model: "
        "secret signs are others today.",
    ]


def _targets(
    targets: list[tuple[list[str], list[str], str, float]], stolen: list[dict[str, Any]], data: str
) -> list[str]:
    lines = ["| extraction | removal | queries | target | measured | seeds | |", "|---|---|---|---|---|---|---|"]
    for extractions, removals, column, limit in targets:
        same = [
            row
            for row in stolen
            if row["extraction"] in extractions and row["removal"] in removals and row["architecture"] == _main(data)
        ]
        if not same:
            continue
        worst = max(same, key=lambda row: row["findings"][column]["log10_p"])
        found = worst["findings"][column]["log10_p"]
        seeds = len({row["seed"] for row in same})
        where = "" if len(extractions) * len(removals) == 1 else f" ({worst['extraction']}, {worst['removal']})"
        where += f", a model of accuracy {worst['accuracy']:.2f}" if worst["accuracy"] < USELESS else ""
        outcome = "reached" if found <= limit else "**missed**"
        lines.append(
            f"| {'; '.join(extractions)} | {'; '.join(removals)} | {column} | <= {limit:g} | {found:.1f}{where} "
            f"| {seeds} | {outcome} |"
        )
    return lines


def _smallest(rows: list[dict[str, Any]]) -> str:
    found = [finding["log10_p"] for row in rows for finding in row["findings"].values()]
    return f"{min(found):.2f}" if found else "-"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=SETS, default="fashion-mnist")
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--extraction", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/robustness.md from the results")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    if options.report:
        text = report(options.out, DOCS)
        (DOCS / "robustness.md").write_text(text)
        print(text)
    for seed in options.seed:
        chosen = [s for s in scenarios(options.data) if not options.extraction or s.extraction in options.extraction]
        path = options.out / f"robustness-{options.data}-seed{seed}.json"
        run(options.data, seed, chosen, path, verbose=not options.quiet)
        compact(path)


if __name__ == "__main__":
    main()
