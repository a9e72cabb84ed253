"""The robustness matrix: every way to steal times every way to launder, on held-out owner models and keys.

    python benchmarks/robustness.py fashion-mnist --seed 0 --seed 1 --seed 2    # about an hour a seed on one core
    python benchmarks/robustness.py glyphs-1000 --seed 0 --seed 1 --seed 2
    python benchmarks/robustness.py --report       # writes docs/robustness.md and its plots from the results

For each seed: a new owner model on one half of the training images, a new key, and a thief who has the other half. He
fine-tunes on 3,000 test images with their true labels; fresh queries come from the other test images. The engine is
that of `dynamarks audit`. The constants of mark and evidence were chosen with seed 100 and other keys. Rows are written
to benchmarks/results as they come; those that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import glyphs
import keras
import numpy as np
import tensorflow as tf

from dynamarks_tf import datasets
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.query_sets import adapted
from dynamarks_tf.audit.rehearsal import Rehearsal
from dynamarks_tf.audit.results import Results
from dynamarks_tf.audit.scenario import Scenario, crossed
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import DatasetError
from dynamarks_tf.params import MarkParams

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FINE_TUNED = 3000
OTHER_DOMAIN = 30_000
MAIN = "separable_cnn"
KNOWING = ("floor subtracted", "tails whitened", "top 1", "top 2", "1 decimal")
WITHOUT_TIES = ("top 1, no ties", "top 2, no ties", "1 decimal, no ties", "labels, no ties")
TUNED = ["none", "fine-tune all"]
BUDGETS = (0.01, 0.02, 0.1)

# Per data set: how it is loaded, the owner's architecture and epochs, the thief's epochs.
SETS: dict[str, tuple[Any, str, int, int]] = {
    "fashion-mnist": (datasets.load_fashion_mnist, "pooled_cnn", 6, 10),
    "cifar10": (datasets.load_cifar10, "resnet", 10, 15),
    "glyphs-1000": (glyphs.load, "glyph_cnn", 14, 15),
}


def scenarios(data: str) -> list[Scenario]:
    """What is rehearsed, the cells that the targets are about first."""
    if data == "glyphs-1000":
        return [
            *crossed(["full"], TUNED, ["glyph_cnn", MAIN]),
            *crossed(["labels"], TUNED, ["glyph_cnn"]),
            *crossed(["true labels", "unmarked API"], ["none"], ["glyph_cnn"]),
        ]
    first = [
        *crossed(["full", "labels"], REMOVALS, [MAIN]),
        *crossed(["2 decimals", "top 3", *KNOWING, *WITHOUT_TIES], TUNED, [MAIN]),
        *crossed(["5 copies averaged", "two APIs averaged"], TUNED, [MAIN]),
        *crossed(["full"], TUNED, ["mlp", "vit", "resnet", "patch_mixer", "pooled_cnn"]),
        *crossed(["labels"], TUNED, ["mlp", "vit", "resnet"]),
        *crossed(["true labels"], TUNED, [MAIN, "mlp", "vit", "patch_mixer"]),
        *crossed(["unmarked API", "another key"], TUNED, [MAIN, "mlp"]),
        *crossed(["1,000 queries", "5,000 queries", "5,000 uncertain", "other domain"], TUNED, [MAIN]),
        *crossed(["sharpened", "smoothed"], TUNED, [MAIN]),
        *crossed(["early stopping"], TUNED, ["pooled_cnn"]),
        *crossed(["full", "labels"], TUNED, ["mlp"], [MarkParams(budget) for budget in BUDGETS]),
        *crossed(KNOWING, TUNED, ["mlp"]),
    ]
    assert {scenario.extraction for scenario in first} >= set(EXTRACTIONS)
    return list(dict.fromkeys(first))


def run(data: str, seed: int, *, folder: Path, only: list[str], verbose: bool) -> None:
    """Rehearses everything for one owner model."""
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
        "data": data,
        "source": images.describe(),
        "seed": seed,
        "owner": architecture,
        "owner_epochs": owner_epochs,
        "epochs": epochs,
        "fine_tuned": FINE_TUNED,
        "pool": half,
    }
    rehearsal = Rehearsal(
        owner_model(architecture, seed, owner_epochs),
        pool=x[half:],
        pool_labels=y[half:],
        labelled=(images.x_test[:FINE_TUNED], images.y_test[:FINE_TUNED]),
        fresh=(images.x_test[FINE_TUNED:], images.y_test[FINE_TUNED:]),
        other_domain=_other_domain(data, shape),
        rival=None if data == "glyphs-1000" else owner_model(MAIN, seed + 1000, owner_epochs),
        seed=seed,
        epochs=epochs,
        verbose=verbose,
    )
    chosen = [
        s for s in scenarios(data) if (not only or s.extraction in only) and set(s.needs) <= set(rehearsal.available)
    ]
    rehearsal.run(chosen, Results(folder / f"robustness-{data}-seed{seed}.json", settings))


def _other_domain(data: str, shape: tuple[int, ...]) -> Any:
    """Rendered characters, for a thief who has no images of clothes; `None` where there are none."""
    if data == "glyphs-1000":
        return None
    try:
        return adapted(glyphs.load().x_train[:OTHER_DOMAIN], shape)
    except DatasetError as error:
        print(f"The theft with images of another domain is left out: {error}", file=sys.stderr)
        return None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=SETS, default="fashion-mnist")
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--extraction", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/robustness.md from the results")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0 takes all cores")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    for seed in options.seed:
        run(options.data, seed, folder=options.out, only=options.extraction, verbose=not options.quiet)


if __name__ == "__main__":
    main()
