"""Are the p-values of independent models what they should be? The share of keys with p <= a must be at most a.

    python benchmarks/studies/calibration.py            # 24 models, 1,000 keys on each; about two hours on one core
    python benchmarks/studies/calibration.py --report   # writes docs/calibration.md and .svg from the results

The independent models are six architectures times four kinds of training: on true labels; on the answers of the
unmarked owner model; on answers marked with another key; on the labels of those (`independent_models.py`; `--models`
keeps them). Each answers 1,000 fresh queries for the class channel, 5,000 logged ones for amplitude and class-choice
channels, and of all 30,000 the ties for the tie channel. The ties are tested once with probabilities and once with
labels. No model is asked again for another key: keys differ in tables only. The class channel is tested by its exact
tail after all queries, and as in a sequential test, by looks after 10, 20, 50 ... 1,000. All others are e-processes, of
which the largest value counts, whenever it was reached; *combined* is the largest product of these and of the looks.
Slower rules follow, with 100 keys: aligned classes, reference models, and traces (`calibration_rules.py`).

The results keep, for each model and channel, the smallest p-value and how many are at or below each step of 0.05 of
log10 p. Table and picture are made from these counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import result_file
from benchmarks.studies import calibration_rules, fashion_mnist, picture
from benchmarks.studies.calibration_rules import RULES
from benchmarks.studies.independent_models import (
    ARCHITECTURES,
    BUDGET,
    EPOCHS,
    SEED,
    TIE_MARGIN,
    WAYS,
    IndependentModels,
    numbered_key,
)
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.report import style

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "calibration.json"
REPORT = HERE.parents[1] / "docs" / "calibration.md"
NUM_KEYS, RULE_KEYS = 1000, 100
FRESH, LOGGED = 1000, 5000
LEVELS = (0.1, 0.01, 0.001)
STEPS = 20  # counts for each power of ten of p
TAILS = {
    None: (
        "These were computed with Chernoff's\nbound, as releases before the exact tail did. It is conservative, so the "
        "shares lie well below."
    ),
    "exact-on-lattice/1": (
        "The\nclass channel's are exact tails, so its shares lie close to a. The others bound every moment of a test, "
        "and lie below."
    ),
}
CHANNELS = ("class", "class, looks", "amplitude", "class-choice", "tie", "tie, labels only", "combined")


def study(threads: int, out: Path, folder: Path | None) -> None:
    """Trains the independent models and tries all keys on them."""
    import tensorflow as tf

    from dynamarks_tf.evidence.exact_tail import TAIL_RULE
    from dynamarks_tf.evidence.residual_accumulator import TRANSFORMS
    from dynamarks_tf.suspects.queries import confident_balanced_choice
    from dynamarks_tf.verification.provenance import package_versions
    from dynamarks_tf.watermark.layer import SCHEME
    from dynamarks_tf.watermark.params import MarkParams

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    images, models = fashion_mnist.load(), IndependentModels(folder)
    clean, test = (models.owner.predict(inputs, batch_size=256, verbose=0) for inputs in (models.stolen, images.x_test))
    chosen = confident_balanced_choice(test.argmax(axis=1), test.max(axis=1), FRESH, seed=0)
    transforms = {channel: words.partition(":")[0] for channel, words in TRANSFORMS.items()}
    settings = {"scheme": SCHEME, "transforms": transforms, "budget": BUDGET, "tie_margin": TIE_MARGIN}
    settings |= {"tail": TAIL_RULE, "keys": NUM_KEYS, "seed": SEED, "epochs": EPOCHS}
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"settings": settings, "rows": []}
    if content["settings"] != settings:
        sys.exit(f"{out} is of other settings: {content['settings']}. Move it away, or give another --out.")

    def answers(model: Any) -> tuple[Any, Any]:
        fresh, logged = (predicted(model, i, batch_size=256) for i in (images.x_test[chosen], models.stolen))
        return fresh, logged

    def p_of(channels: tuple[str, ...], model: Any) -> dict[str, list[float]]:
        fresh, logged = answers(model)
        if channels == CHANNELS:
            return p_values(clean, logged, test[chosen], fresh)
        references = (np.stack(each, axis=1) for each in zip(*map(answers, models.references()), strict=True))
        beside_fresh, beside_logged = references
        return calibration_rules.p_values(
            calibration_rules.Answers(test[chosen], fresh, beside_fresh),
            calibration_rules.Answers(clean[:LOGGED], logged[:LOGGED], beside_logged[:LOGGED]),
            map(numbered_key, range(RULE_KEYS)),
            MarkParams(BUDGET, tie_margin=TIE_MARGIN),
        )

    for channels, way, architecture in itertools.product((CHANNELS, RULES), WAYS, ARCHITECTURES):
        name = f"{architecture}, {way}"
        if any((row["model"], row["channel"]) == (name, channels[0]) for row in content["rows"]):
            continue
        start = time.monotonic()
        p = p_of(channels, models.model(architecture, way))
        rows = content["rows"] + [{"model": name, "channel": channel, **counts(p[channel])} for channel in channels]
        content = {"format": "dynamarks-calibration", "version": 2, "settings": settings}
        content |= {"versions": package_versions(), "rows": rows}
        result_file.write(out, content)
        shares = {c: [float((np.array(v) <= np.log10(a)).mean()) for a in LEVELS] for c, v in p.items()}
        print(f"{name}: {shares}, {time.monotonic() - start:.0f} s", flush=True)


def counts(log10_p: list[float]) -> dict[str, Any]:
    """What the results keep of many p-values.

    Returns:
        `smallest`: the smallest log10 p. `at_most`: how many values are at most 0, -1 / STEPS, -2 / STEPS ..., up to
        the last step that any value reaches.
    """
    ten_thousandths = np.round(-1e4 * np.array(log10_p))  # whole numbers, so that a value on a step counts there
    reached = (ten_thousandths // (1e4 / STEPS)).astype(int)
    return {"smallest": round(min(log10_p), 4), "at_most": np.bincount(reached)[::-1].cumsum()[::-1].tolist()}


def share(rows: list[dict[str, Any]], log10_a: float) -> float:
    """The share of p-values in some rows that are at most a, where log10 a is one of the steps."""
    step = round(-STEPS * log10_a)
    every = sum(row["at_most"][0] for row in rows)
    return sum(row["at_most"][step] for row in rows if step < len(row["at_most"])) / every


def p_values(clean: Any, suspect: Any, clean_fresh: Any, suspect_fresh: Any) -> dict[str, list[float]]:
    """log10 p of one independent model, for each channel and all keys."""
    from dynamarks_tf.case.plan import looks_of
    from dynamarks_tf.evidence import amplitude_channel, anytime, class_choice_channel
    from dynamarks_tf.evidence.batch import Batch
    from dynamarks_tf.evidence.channels import channel_evidence
    from dynamarks_tf.evidence.class_channel import ClassChannelTable
    from dynamarks_tf.evidence.first_answers import FirstAnswers
    from dynamarks_tf.evidence.meetings import ties
    from dynamarks_tf.evidence.tie_channel import TieTable
    from dynamarks_tf.watermark import codebook
    from dynamarks_tf.watermark.params import MarkParams

    params = MarkParams(BUDGET, tie_margin=TIE_MARGIN)
    _, _, near = ties(Batch(clean, suspect), TIE_MARGIN, BUDGET)
    labels = suspect[near].argmax(axis=1)
    found: dict[str, list[float]] = {channel: [] for channel in CHANNELS}
    for number in range(NUM_KEYS):
        book = codebook.expand(numbered_key(number), clean.shape[1], params)
        pairs = book.contrasts()
        assert pairs is not None
        first = FirstAnswers(book.keyed_hash, params, every_class=True)
        first.add(Batch(clean[:LOGGED], suspect[:LOGGED]))
        fresh = ClassChannelTable(book.keyed_hash, book.class_signs.shape, BUDGET)
        looks = []
        for start, stop in itertools.pairwise((0, *looks_of(FRESH))):
            fresh.add(Batch(clean_fresh[start:stop], suspect_fresh[start:stop]))
            looks.append(fresh.residuals())
        ties_of_probabilities, ties_of_labels = (TieTable(book.keyed_hash, TIE_MARGIN, BUDGET) for _ in range(2))
        ties_of_probabilities.add(Batch(clean[near], suspect[near]))
        ties_of_labels.add(Batch(clean[near], labels))
        residuals = {
            "class": looks[-1],
            "amplitude": amplitude_channel.residuals(first),
            "class-choice": class_choice_channel.residuals(first, pairs),
            "tie": ties_of_probabilities.residuals(),
        }
        channels, log10_e = anytime.evidence(residuals, book.signs, looks)
        labels_only, _ = anytime.evidence({"tie": ties_of_labels.residuals()}, book.signs)
        log10_p = {each.channel: each.log10_p for each in channels}
        log10_p["class, looks"] = log10_p["class"]
        log10_p["class"] = channel_evidence("class", book.class_signs, looks[-1]).log10_p
        log10_p |= {"tie, labels only": labels_only[0].log10_p, "combined": min(-log10_e, 0.0)}
        for channel, value in log10_p.items():
            found[channel].append(value)
    return found


def _unfinished(count: int) -> list[str]:
    """Words about the models that are still to be asked."""
    planned = len(WAYS) * len(ARCHITECTURES)
    if count >= planned:
        return []
    return [
        f"**Not finished**: the last rules (aligned classes, references, traces) lack {planned - count} of {planned} "
        "models. The same command goes on.",
        "",
    ]


def report(content: dict[str, Any]) -> str:
    """The page."""
    rows, keys, tail = content["rows"], content["settings"]["keys"], content["settings"].get("tail")
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        "# Calibration: p-values of independent models",
        "",
        "Written by `python benchmarks/studies/calibration.py --report` from its results. The head of",
        "[calibration.py](../benchmarks/studies/calibration.py) states how they were made.",
        "",
        f"{len(models)} independent models times {keys:,} keys ({RULE_KEYS} for the last rules): the share of p-values",
        f"that are at most a. Valid p-values have a share of at most a, up to chance. {TAILS[tail]}",
        "",
        *_unfinished(sum(row["channel"] == RULES[0] for row in rows)),
        f"| channel or rule | {' | '.join(f'a = {a}' for a in LEVELS)} | worst model at 0.1; 0.01 | smallest log10 p "
        "| p-values |",
        "|---|---|---|---|---|---|---|",
    ]
    for channel in dict.fromkeys(row["channel"] for row in rows):
        same = [row for row in rows if row["channel"] == channel]
        shares = " | ".join(f"{share(same, np.log10(a)):.5f}" for a in LEVELS)
        worst = "; ".join(f"{max(share([row], np.log10(a)) for row in same):.3f}" for a in LEVELS[:2])
        lines.append(
            f"| {channel} | {shares} | {worst} | {min(row['smallest'] for row in same):.2f} "
            f"| {sum(row['at_most'][0] for row in same):,} |"
        )
    lines += ["", f"Models: {'; '.join(models)}.", "", "![Share of p-values at most a](calibration.svg)", ""]
    return "\n".join(lines)


def figure(content: dict[str, Any]) -> style.Figure:
    """The share of p-values at most a, for every a, of each channel."""
    rows = content["rows"]
    smallest = 10.0**-5

    def draw(width: int) -> Any:
        drawing, axes = style.canvas(width, 420)
        for channel in dict.fromkeys(row["channel"] for row in rows):
            same = [row for row in rows if row["channel"] == channel]
            steps = -np.arange(max(len(row["at_most"]) for row in same)) / STEPS
            axes.plot(10.0**steps, [share(same, step) for step in steps], label=channel)
        limit = "share = a: the most that is allowed"
        axes.plot([smallest, 1], [smallest, 1], "--", color=style.LIGHT["ink"], linewidth=1, label=limit)
        axes.set(xscale="log", yscale="log", xlim=(smallest, 1), ylim=(smallest, 1))
        axes.set(xlabel="a", ylabel="share of p-values at most a")
        axes.legend(frameon=False)
        axes.grid(color=style.LIGHT["line"], linewidth=0.7)
        axes.set_axisbelow(True)
        style.bare(axes)
        return drawing

    alt = "Share of p-values of independent models at most a, by channel. Every curve lies below the line share = a."
    return style.Figure(REPORT.stem, alt, draw)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="write docs/calibration.md and .svg from the results")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--models", type=Path, help="folder that keeps the independent models' weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    options = parser.parse_args()
    if options.report:
        content = json.loads(options.out.read_text())
        REPORT.write_text(report(content))
        picture.save_svg(figure(content), REPORT.parent)
        print(report(content))
    else:
        study(options.threads, options.out, options.models)


if __name__ == "__main__":
    main()
