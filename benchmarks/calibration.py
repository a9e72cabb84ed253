"""Are the p-values of innocents what they should be? The share of keys with p <= a must be at most a.

    python benchmarks/calibration.py            # 24 innocents, 1,000 keys on each; about an hour on one core
    python benchmarks/calibration.py --report   # writes docs/calibration.md and .png from the results

Innocents are six architectures times four ways of being innocent: trained on true labels; on the answers of the
unmarked owner model; on answers marked with another key, and on the labels of those. Each is asked 1,000 fresh queries
for the class channel, 5,000 logged ones for amplitude and class-choice channels, and of all 30,000 the ties for the tie channel, once
for probabilities and once for labels. Nothing is asked again for another key: keys differ in tables only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "calibration.json"
REPORT = HERE.parent / "docs" / "calibration.md"
PICTURE = REPORT.with_suffix(".png")
SEED = 7
NUM_KEYS = 1000
EPOCHS = 6
BUDGET, TIE_MARGIN = 0.05, 0.5
FRESH, LOGGED = 1000, 5000
LEVELS = (0.1, 0.01, 0.001)
WAYS = ("true labels", "unmarked answers", "another key's answers", "another key's labels")
ARCHITECTURES = ("pooled_cnn", "separable_cnn", "mlp", "resnet", "patch_mixer", "vit")
CHANNELS = ("class", "amplitude", "class-choice", "tie", "tie, labels only", "combined")


def study(threads: int, out: Path) -> None:
    """Trains the innocents and tries all keys on them."""
    import fashion_mnist
    import keras
    import tensorflow as tf

    import dynamarks_tf as dm
    from dynamarks_tf.attacks import architectures
    from dynamarks_tf.attacks.extraction import train_classifier
    from dynamarks_tf.evidence.residual_accumulator import TRANSFORMS
    from dynamarks_tf.suspects.queries import confident_balanced_choice
    from dynamarks_tf.verification.provenance import package_versions
    from dynamarks_tf.watermark.layer import SCHEME

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    images = fashion_mnist.load()
    order = np.random.default_rng(SEED).permutation(len(images.x_train))
    x, y = images.x_train[order], images.y_train[order]
    half = len(x) // 2
    keras.utils.set_random_seed(SEED)
    shape = x.shape[1:]
    owner = architectures.ARCHITECTURES["pooled_cnn"](shape, images.num_classes)
    train_classifier(owner, x[:half], y[:half], epochs=EPOCHS)
    marked = dm.mark(owner, numbered_key(-1), BUDGET, tie_margin=TIE_MARGIN)
    stolen = x[half:]
    clean, released, test = (
        model.predict(inputs, batch_size=256, verbose=0)
        for model, inputs in ((owner, stolen), (marked, stolen), (owner, images.x_test))
    )
    chosen = confident_balanced_choice(test.argmax(axis=1), test.max(axis=1), FRESH, seed=0)
    targets = dict(zip(WAYS, (y[half:], clean, released, released.argmax(axis=1)), strict=True))
    settings = {"scheme": SCHEME, "transforms": TRANSFORMS, "budget": BUDGET, "tie_margin": TIE_MARGIN}
    settings |= {"keys": NUM_KEYS, "seed": SEED, "epochs": EPOCHS}
    content: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"independent": {}, "settings": settings}
    if content["settings"] != settings:
        sys.exit(f"{out} is of other settings: {content['settings']}. Move it away, or give another --out.")
    for way in WAYS:
        for architecture in ARCHITECTURES:
            name = f"{architecture}, {way}"
            if name in content["independent"]:
                continue
            start = time.monotonic()
            keras.utils.set_random_seed(SEED)
            innocent = architectures.ARCHITECTURES[architecture](shape, images.num_classes)
            train_classifier(innocent, stolen, targets[way], epochs=EPOCHS)
            answers = [innocent.predict(i, batch_size=256, verbose=0) for i in (stolen, images.x_test[chosen])]
            p = p_values(clean, answers[0], test[chosen], answers[1])
            content["independent"][name] = {channel: [round(v, 4) for v in values] for channel, values in p.items()}
            content |= {"format": "dynamarks-calibration", "version": 1, "settings": settings}
            content["versions"] = package_versions()
            out.parent.mkdir(exist_ok=True)
            out.write_text(json.dumps(content) + "\n")
            shares = {c: [float((np.array(v) <= np.log10(a)).mean()) for a in LEVELS] for c, v in p.items()}
            print(f"{name}: {shares}, {time.monotonic() - start:.0f} s", flush=True)


def p_values(clean: Any, suspect: Any, clean_fresh: Any, suspect_fresh: Any) -> dict[str, list[float]]:
    """log10 p of one innocent, for each channel and all keys."""
    from dynamarks_tf.evidence import amplitude_channel, class_choice_channel
    from dynamarks_tf.evidence.batch import Batch
    from dynamarks_tf.evidence.bounds import combined_log10_p
    from dynamarks_tf.evidence.channels import channel_evidence
    from dynamarks_tf.evidence.class_channel import ClassChannelTable
    from dynamarks_tf.evidence.first_answers import FirstAnswers
    from dynamarks_tf.evidence.tie_channel import TieTable, ties
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
        first = FirstAnswers(book.keyed_hash, every_class=True)
        first.add(Batch(clean[:LOGGED], suspect[:LOGGED]))
        fresh = ClassChannelTable(book.keyed_hash, book.class_signs.shape, BUDGET)
        fresh.add(Batch(clean_fresh, suspect_fresh))
        ties_of_probabilities, ties_of_labels = (TieTable(book.keyed_hash, TIE_MARGIN, BUDGET) for _ in range(2))
        ties_of_probabilities.add(Batch(clean[near], suspect[near]))
        ties_of_labels.add(Batch(clean[near], labels))
        residuals = {
            "class": fresh.residuals(),
            "amplitude": amplitude_channel.residuals(first),
            "class-choice": class_choice_channel.residuals(first, pairs),
            "tie": ties_of_probabilities.residuals(),
            "tie, labels only": ties_of_labels.residuals(),
        }
        log10_p = {
            channel: channel_evidence(channel, book.signs(channel.split(",")[0]), of_channel).log10_p
            for channel, of_channel in residuals.items()
        }
        log10_p["combined"] = combined_log10_p(
            [log10_p[channel] for channel in ("class", "amplitude", "class-choice", "tie")]
        )
        for channel, value in log10_p.items():
            found[channel].append(value)
    return found


def numbered_key(number: int) -> Any:
    """Keys that anybody can make again, so that the study can be repeated; real keys are random."""
    from dynamarks_tf.keys.key import MarkKey

    return MarkKey(hashlib.sha256(f"dynamarks calibration, key {number}".encode()).digest(), "Calibration")


def report(results: Path) -> None:
    """Writes table and picture."""
    content = json.loads(results.read_text())
    innocents = content["independent"]
    found = [channel for channel in CHANNELS if all(channel in p for p in innocents.values())]
    pooled = {c: np.concatenate([innocents[name][c] for name in innocents]) for c in found}
    REPORT.write_text(_table(content, pooled))
    print(_table(content, pooled))
    _picture(pooled, f"{len(innocents)} innocents x {content['settings']['keys']} keys")


def _table(content: dict[str, Any], pooled: dict[str, Any]) -> str:
    innocents = content["independent"]
    channels = [channel for channel in CHANNELS if channel in pooled]
    lines = [
        "# Calibration: p-values of innocents",
        "",
        "Written by `python benchmarks/calibration.py --report` from its results; what was done stands at the top of",
        "[benchmarks/calibration.py](../benchmarks/calibration.py).",
        "",
        f"{len(innocents)} innocent models times {content['settings']['keys']:,} keys: the share of p-values that are",
        "at most a. Valid p-values have a share of at most a, but for chance. Chernoff's bound is conservative, so the",
        "shares lie well below.",
        "",
        f"| channel | {' | '.join(f'a = {a}' for a in LEVELS)} | worst innocent at 0.1; 0.01 | smallest log10 p |",
        "|---|---|---|---|---|---|",
    ]
    for channel in channels:
        shares = " | ".join(f"{(pooled[channel] <= np.log10(a)).mean():.5f}" for a in LEVELS)
        each = [np.array(p[channel]) for p in innocents.values()]
        worst = "; ".join(f"{max((p <= np.log10(a)).mean() for p in each):.3f}" for a in LEVELS[:2])
        lines.append(f"| {channel} | {shares} | {worst} | {pooled[channel].min():.2f} |")
    if len(channels) < len(CHANNELS):
        lines += [
            "",
            "Made with an earlier scheme, which had no class-choice channel; the study tests it now, and has not run since.",
        ]
    lines += ["", f"Innocents: {'; '.join(innocents)}.", "", f"![Share of p-values at most a]({PICTURE.name})", ""]
    return "\n".join(lines)


def _picture(pooled: dict[str, Any], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 4.5))
    for channel, log10_p in pooled.items():
        values = np.sort(10.0**log10_p)
        axes.step(values, np.arange(1, len(values) + 1) / len(values), label=channel)
    axes.plot([1e-5, 1], [1e-5, 1], "k--", linewidth=1, label="share = a: the most that is allowed")
    axes.set(xscale="log", yscale="log", xlim=(1e-5, 1), ylim=(1e-5, 1), title=title)
    axes.set(xlabel="a", ylabel="share of p-values at most a")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="write docs/calibration.md and .png from the results")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0 takes all cores")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.report:
        report(options.out)
    else:
        study(options.threads, options.out)


if __name__ == "__main__":
    main()
