"""What the class-choice channel adds, on owner models, keys and surrogates that had no part in choosing it.

    python benchmarks/studies/class_choice.py --seed 0 --seed 1 --seed 2    # minutes a seed on one core
    python benchmarks/studies/class_choice.py --report                      # writes docs/class-choice.md

Owner model, data (Fashion-MNIST) and attacker are those of robustness.py; with its folder of `--models`, few are
trained anew. The channel, its regression and its clip were tried on seed 100 only.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.studies import robustness
from dynamarks_tf.audit.results import read_all
from dynamarks_tf.audit.scenario import crossed
from dynamarks_tf.audit.tables import Table

REPORT = robustness.DOCS / "class-choice.md"
CHANNELS = ("amplitude", "class-choice", "tie")
SCENARIOS = [
    *crossed(["full"], robustness.TUNED, ["mlp", "pooled_cnn"]),
    *crossed(["unmarked API"], robustness.TUNED, ["mlp"]),
    *crossed(["smoothed"], robustness.TUNED, ["pooled_cnn"]),
    *crossed(["full"], robustness.TUNED, ["separable_cnn"]),
]
INTRODUCTION = (
    "# What the class-choice channel adds",
    "",
    "Written by `python benchmarks/studies/class_choice.py --report` from its results. The head of",
    "[class_choice.py](../benchmarks/studies/class_choice.py) states how they were made.",
    "",
    "30,000 logged queries, and up to four fresh ones for each class. Figures are log10 p of each channel, each the",
    "*worst* of the seeds: the smallest for the unmarked API.",
    "",
)


def table(rows: list[dict[str, Any]]) -> Table:
    """One line for each suspect: the channels on logged queries, the worst of the seeds."""
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for row in rows:
        if row["kind"] != "cost":
            name = row["extraction"], row["architecture"], row["removal"]
            groups.setdefault(name, []).append(row["findings"]["logged"]["channels"])
    lines = []
    for name, found in groups.items():
        choose = min if name[0] == "unmarked API" else max
        worst = [choose(each[channel] for each in found) for channel in CHANNELS]
        figures = [f"{log10_p:.1f}" for log10_p in worst]
        lines.append((*name, str(len(found)), *figures))
    header = ("extraction", "architecture", "removal", "seeds", *CHANNELS)
    return Table(header, tuple(lines), (0, 1, 2))


def report(folder: Path) -> str:
    """The page."""
    rows = list(read_all(sorted(folder.glob("class-choice-seed*.json"))))
    return "\n".join([*INTRODUCTION, table(rows).markdown(), ""])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/class-choice.md from the results")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--models", type=Path, help="folder that keeps models between runs")
    parser.add_argument("--out", type=Path, default=robustness.RESULTS, help="folder of the results")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    for seed in options.seed:
        path = options.out / f"class-choice-seed{seed}.json"
        robustness.run("fashion-mnist", seed, SCENARIOS, path, verbose=True, models=options.models)
        robustness.compact(path, findings=["logged"], channels=True)
    if options.report:
        REPORT.write_text(report(options.out))
        print(report(options.out))


if __name__ == "__main__":
    main()
