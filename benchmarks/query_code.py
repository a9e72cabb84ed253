"""What the class-choice channel adds: a study of its own, with owner models, keys and surrogates that it was not chosen on.

    python benchmarks/query_code.py --seed 0 --seed 1 --seed 2    # Fashion-MNIST; about 15 minutes a seed on one core
    python benchmarks/query_code.py --report                      # writes docs/class-choice.md from the results

Owner model, data and attacker are those of robustness.py. The code, its regression and its clip were tried on seed 100
only.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import robustness
import tensorflow as tf

from dynamarks_tf.audit.results import read_all
from dynamarks_tf.audit.scenario import crossed
from dynamarks_tf.audit.tables import Table
from dynamarks_tf.evidence.bounds import combined_log10_p

REPORT = robustness.DOCS / "class-choice.md"
CHANNELS = ("class", "amplitude", "class-choice", "tie")
SCENARIOS = [
    *crossed(["full"], robustness.TUNED, ["mlp", "pooled_cnn"]),
    *crossed(["unmarked API"], robustness.TUNED, ["mlp"]),
    *crossed(["smoothed"], robustness.TUNED, ["pooled_cnn"]),
    *crossed(["full"], robustness.TUNED, ["separable_cnn"]),
]
INTRODUCTION = (
    "# What the class-choice channel adds",
    "",
    "Written by `python benchmarks/query_code.py --report` from its results; what was done stands at the top of",
    "[query_code.py](../benchmarks/query_code.py). 30,000 logged queries, log10 p of each channel and combined, the",
    "*worst* of the seeds each; *without* is what is combined if the class-choice channel is left out.",
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
        without = [combined_log10_p([p for channel, p in each.items() if channel != "class-choice"]) for each in found]
        combined = [combined_log10_p([*each.values()]) for each in found]
        worst = [max(each[channel] for each in found) for channel in CHANNELS]
        figures = [f"{log10_p:.1f}" for log10_p in (*worst, max(without), max(combined))]
        lines.append((*name, str(len(found)), *figures))
    header = ("extraction", "architecture", "removal", "seeds", *CHANNELS, "without", "combined")
    return Table(header, tuple(lines), (0, 1, 2))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/class-choice.md from the results")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0 takes all cores")
    parser.add_argument("--out", type=Path, default=robustness.RESULTS, help="folder of the results")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    for seed in options.seed:
        robustness.run("fashion-mnist", seed, SCENARIOS, options.out / f"query-code-seed{seed}.json", verbose=True)
    if options.report:
        rows = list(read_all(sorted(options.out.glob("query-code-seed*.json"))))
        REPORT.write_text("\n".join([*INTRODUCTION, table(rows).markdown(), ""]))
        print(REPORT.read_text())


if __name__ == "__main__":
    main()
