"""How strong is the evidence? Theft by theft, architecture by architecture, before and after fine-tuning.

    python benchmarks/theft_study.py --seed 0 --seed 1 --seed 2    # about half an hour a seed on 2 cores
    python benchmarks/theft_study.py --report                      # writes docs/theft-study.md from the results

For each seed: a new owner model on one half of the training images, a new key, surrogates trained on the marked API's
answers to the other half, and `dynamarks_tf.verify` on each of them. Fine-tuning uses 3,000 test images with their true
labels, fresh queries come from the other 7,000. The constants of marks and residuals were chosen with seed 100 and
other keys, and surrogates trained for 6 epochs; here they train for 10. Rows are appended to the results file as they
come, and rows that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fashion_mnist
import keras
import numpy as np
import tensorflow as tf

import dynamarks_tf as dm
from dynamarks_tf import metrics
from dynamarks_tf.attacks import laundering, removal
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.verification import package_versions

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "theft_study.json"
REPORT = HERE.parent / "docs" / "theft-study.md"
BUDGET, TIE_MARGIN = 0.05, 0.5
OWNER_EPOCHS, EPOCHS = 6, 10
FINE_TUNED = 3000
THEFTS = {
    "soft": lambda answers: answers,
    "labels": laundering.labels_only,
    "floor subtracted": laundering.subtract_class_floor,
    "tails whitened": laundering.whiten_tails,
    "tails flattened": laundering.flatten_tails,
}
STUDIED = ("pooled_cnn", "separable_cnn", "mlp", "resnet")


def key_of(seed: int) -> dm.MarkKey:
    """A key that anybody can make again, so that the study can be repeated; real keys are random."""
    return dm.MarkKey(hashlib.sha256(f"dynamarks theft study, seed {seed}".encode()).digest(), "Theft Study")


class Rows:
    """The results file: rows by name, written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = {"format": "dynamarks-study", "version": 1, "rows": []}
        if path.exists():
            self.content = json.loads(path.read_text())

    def __contains__(self, name: str) -> bool:
        return any(row["name"] == name for row in self.content["rows"])

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Appends a row and prints it."""
        self.content["rows"].append({"name": name, **row})
        self.content |= {
            "settings": {"budget": BUDGET, "tie_margin": TIE_MARGIN, "owner_epochs": OWNER_EPOCHS, "epochs": EPOCHS},
            "versions": package_versions(),
        }
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(self.content, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)


def run_seed(seed: int, rows: Rows, thefts: list[str], architectures: list[str]) -> None:
    """All thefts of one owner model."""
    images = fashion_mnist.load()
    order = np.random.default_rng(seed).permutation(len(images.x_train))
    x, y = images.x_train[order], images.y_train[order]
    half = len(x) // 2
    keras.utils.set_random_seed(seed)
    shape = x.shape[1:]
    owner = ARCHITECTURES["pooled_cnn"](shape, images.num_classes)
    train_classifier(owner, x[:half], y[:half], epochs=OWNER_EPOCHS)
    key = key_of(seed)
    marked = dm.mark(owner, key, BUDGET, tie_margin=TIE_MARGIN)
    stolen = x[half:]
    answers = marked.predict(stolen, batch_size=256, verbose=0)
    if f"{seed}/owner" not in rows:
        cost = {}
        for name, inputs, labels in (("test", images.x_test, images.y_test), ("thief", stolen, y[half:])):
            clean, released = (m.predict(inputs, batch_size=256, verbose=0) for m in (owner, marked))
            cost[name] = metrics.mark_cost(clean, released, labels).to_dict()
        rows.add(f"{seed}/owner", {"seed": seed, "cost": cost})
    tuning = images.x_test[:FINE_TUNED], images.y_test[:FINE_TUNED]
    fresh = images.x_test[FINE_TUNED:], images.y_test[FINE_TUNED:]
    for theft in thefts:
        for architecture in architectures:
            name = f"{seed}/{theft}/{architecture}"
            if name in rows:
                continue
            start = time.monotonic()
            keras.utils.set_random_seed(seed)
            surrogate = ARCHITECTURES[architecture](shape, images.num_classes)
            targets = THEFTS[theft](answers)
            train_classifier(surrogate, stolen, targets, epochs=EPOCHS)
            row = {"seed": seed, "theft": theft, "architecture": architecture}
            row["untouched"] = measure(surrogate, owner, key, marked, stolen, fresh)
            removal.fine_tune(surrogate, *tuning)
            row["fine-tuned"] = measure(surrogate, owner, key, marked, stolen, fresh)
            rows.add(name, {**row, "seconds": round(time.monotonic() - start)})


def measure(surrogate: Any, owner: Any, key: Any, marked: Any, stolen: Any, fresh: Any) -> dict[str, Any]:
    """log10 p of a suspect that answers probabilities, and of one that answers labels, on fresh and logged queries."""
    result: dict[str, Any] = {}
    predicted = surrogate.predict(fresh[0], batch_size=256, verbose=0)
    result["accuracy"] = metrics.accuracy(predicted, fresh[1])
    for count in (10, 100, 1000):
        evidence = dm.verify(surrogate, owner=marked, key=key, queries=fresh[0], max_queries=count)
        result[f"fresh {count}"] = round(evidence.log10_p, 2)
    logged = dm.verify(surrogate, owner=marked, key=key, queries=stolen, logged=True, batch_size=1000)
    result["logged"] = round(logged.log10_p, 2)
    result["logged channels"] = {channel.channel: round(channel.log10_p, 2) for channel in logged.channels}
    result["logged queries needed"] = logged.queries_needed()
    labels = dm.verify(
        lambda batch: np.asarray(surrogate(batch, training=False)).argmax(axis=1),
        owner=marked,
        key=key,
        queries=stolen,
        logged=True,
        batch_size=1000,
        suspect_labels=True,
    )
    result["logged, labels only"] = round(labels.log10_p, 2)
    result["fidelity"] = round(labels.fidelity, 4)
    return result


COLUMNS = ("fresh 10", "fresh 100", "fresh 1000", "logged", "logged, labels only")


def report(content: dict[str, Any]) -> str:
    """The document: for each theft and architecture, the worst of the seeds."""
    owners = [row for row in content["rows"] if row["name"].endswith("/owner")]
    runs = [row for row in content["rows"] if "theft" in row]
    settings = content["settings"]
    lines = [
        "# Theft study: how strong the evidence is",
        "",
        "Written by `python benchmarks/theft_study.py --report` from its results; what was done stands at the top of",
        "[benchmarks/theft_study.py](../benchmarks/theft_study.py). Fashion-MNIST, "
        f"budget {settings['budget']}, tie margin {settings['tie_margin']}.",
        "",
        "log10 p, the worst of the seeds. *Fresh*: so many unlabelled test images, chosen by `--max-queries`.",
        "*Logged*: the 30,000 inputs that the thief sent, all channels combined; *labels only*: the same for a suspect",
        "that answers labels.",
        "",
        "| seed | accuracy of the API, clean and marked: test images; the thief's | top-1 changed | mean, largest TV |",
        "|---|---|---|---|",
    ]
    for row in owners:
        test, thief = row["cost"]["test"], row["cost"]["thief"]
        lines.append(
            f"| {row['seed']} | {test['clean_accuracy']:.4f}, {test['marked_accuracy']:.4f}; "
            f"{thief['clean_accuracy']:.4f}, {thief['marked_accuracy']:.4f} | {1 - test['top1_agreement']:.2%} "
            f"| {test['mean_total_variation']:.4f}, {test['max_total_variation']:.4f} |"
        )
    for state in ("untouched", "fine-tuned"):
        after = "" if state == "untouched" else f", every layer, {FINE_TUNED:,} true labels, 5 epochs, full rate"
        lines += [
            "",
            f"## {state.capitalize()}{after}",
            "",
            "| theft | surrogate | accuracy | " + " | ".join(COLUMNS) + " |",
        ]
        lines.append("|---" * (len(COLUMNS) + 3) + "|")
        for theft in THEFTS:
            for architecture in STUDIED:
                chosen = [r[state] for r in runs if (r["theft"], r["architecture"]) == (theft, architecture)]
                if chosen:
                    worst = " | ".join(f"{max(r[c] for r in chosen):.1f}" for c in COLUMNS)
                    accuracy = np.mean([r["accuracy"] for r in chosen])
                    lines.append(f"| {theft} | {architecture} ({len(chosen)}) | {accuracy:.3f} | {worst} |")
    lines += [
        "",
        "In brackets: how many seeds. Whoever trained on probabilities learned that a tie is a tie, so his labels",
        "alone say little; whoever trained on labels carries no class code. The channels are tested together.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/theft-study.md from the results")
    parser.add_argument("--theft", choices=THEFTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append", help="only this one")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0 takes all cores")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    rows = Rows(options.out)
    if options.report:
        REPORT.write_text(report(rows.content))
        print(report(rows.content))
    for seed in options.seed:
        run_seed(seed, rows, options.theft or [*THEFTS], options.architecture or [*STUDIED])


if __name__ == "__main__":
    main()
