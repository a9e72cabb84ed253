"""The robustness matrix: every extraction with every removal attack, on owner models and keys that are held out.

    python benchmarks/studies/robustness.py fashion-mnist --seed 0 --seed 1 --seed 2
    python benchmarks/studies/robustness.py glyphs-1000 --seed 0 --seed 1 --seed 2
    python benchmarks/studies/robustness.py digits-mixed --seed 0 --seed 1 --seed 2
    python benchmarks/studies/robustness.py photos-100 --seed 0 --seed 1 --seed 2    # budgets; and fashion-mnist-2, -10
    python benchmarks/studies/robustness.py --report       # writes docs/robustness.md and its pictures
    python benchmarks/studies/robustness.py --released     # keeps the present figures, for comparison with later ones

For each seed: a new owner model on one half of the training images, a new key, and an attacker who has the other half.
The attacker fine-tunes on 3,000 test images with their true labels. Fresh queries come from the other test images. The
engine is that of `dynamarks audit`. The constants of mark and evidence were chosen with seed 100 and other keys.

Rows are written to the folder of results as they come; rows that are there already are not computed again, so a run may
be ended at any time. At the end of a seed, its file is reduced to what the page is made from. `--jobs N` trains
surrogates in N processes of one thread each. A seed of digits-mixed takes about 15 CPU minutes: 7 CPU seconds a row
were measured. One of Fashion-MNIST takes about 50.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import fused_normalization, result_file
from benchmarks.studies import glyphs, photos
from dynamarks_tf import datasets
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.attacker import TransferSet
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS, applicable
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.query_sets import adapted
from dynamarks_tf.audit.attack_runner import AttackRunner
from dynamarks_tf.audit.parallel import Processes
from dynamarks_tf.audit.results import Results, read
from dynamarks_tf.audit.scenario import INDEPENDENT_SOURCES, Scenario, crossed
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import DatasetError
from dynamarks_tf.watermark.layer import SCHEME
from dynamarks_tf.watermark.model_digest import model_sha256
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
SIGNS = ("signs subtracted", "signs subtracted, no ties")
POOLED = ("two clients averaged", "two clients, half each", "two clients, smallest")
OTHER_QUERIES = (
    *("1,000 queries", "5,000 queries", "5,000 uncertain", "5,000 k-center"),
    *("other domain", "random inputs", "generated inputs", "1,000 among true labels"),
)
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


def _two_classes() -> ImageData:
    """T-shirts and shirts of Fashion-MNIST, the two classes that are confused most."""
    images = datasets.load_fashion_mnist()
    train, test = (np.isin(y, _SHIRTS) for y in (images.y_train, images.y_test))
    return dataclasses.replace(
        images,
        name=f"{images.name}, T-shirts and shirts",
        x_train=images.x_train[train],
        y_train=(images.y_train[train] == _SHIRTS[1]).astype(np.int64),
        x_test=images.x_test[test],
        y_test=(images.y_test[test] == _SHIRTS[1]).astype(np.int64),
        class_names=("T-shirt", "shirt"),
    )


_SHIRTS = (0, 6)


def _mixed_digits() -> ImageData:
    """Small images that train in seconds: mixtures of two handwritten digits, with the label of the larger part."""
    images, rng = datasets.load_digits(), np.random.default_rng(0)
    parts = []
    for x, y, count in ((images.x_train, images.y_train, 40_000), (images.x_test, images.y_test, 6000)):
        first, second = rng.integers(0, len(x), (2, count))
        share = rng.uniform(0.5, 1, (count, 1, 1, 1)).astype(np.float32)
        parts += [share * x[first] + (1 - share) * x[second], y[first]]
    return ImageData("digits-mixed (mixtures of two handwritten digits each)", images.source, *parts)


# Per data set: how it is loaded, the owner's architecture and epochs, the attacker's epochs.
SETS: dict[str, tuple[Any, str, int, int]] = {
    "fashion-mnist": (datasets.load_fashion_mnist, "pooled_cnn", 6, 10),
    "cifar10": (datasets.load_cifar10, "resnet", 10, 15),
    "fashion-mnist-2": (_two_classes, "pooled_cnn", 6, 20),
    "fashion-mnist-10": (datasets.load_fashion_mnist, "pooled_cnn", 6, 10),
    "photos-100": (photos.load, "glyph_cnn", 10, 10),
    "glyphs-1000": (glyphs.load, "glyph_cnn", 10, 10),
    "digits-mixed": (_mixed_digits, "pooled_cnn", 6, 10),
}
# For the trade-off by the number of classes, which ends the name, and the surrogate's architecture there.
TRADE_OFFS = {
    "fashion-mnist-2": "mlp",
    "fashion-mnist-10": "mlp",
    "photos-100": "glyph_cnn",
    "glyphs-1000": "glyph_cnn",
}


def scenarios(data: str) -> list[Scenario]:
    """What is rehearsed, in the order of running: what the targets are about and what is new come first."""
    budgets = [MarkParams(budget) for budget in BUDGETS]
    if data in TRADE_OFFS and data != "glyphs-1000":
        return crossed(["full", "labels"], ["none"], [TRADE_OFFS[data]], [MarkParams(), *budgets])
    if data == "digits-mixed":
        return [
            *crossed(["full"], REMOVALS, [MAIN]),
            *crossed([*SIGNS, *POOLED], TUNED, [MAIN]),
            *crossed(INDEPENDENT_SOURCES, TUNED, [MAIN]),
            *crossed(["labels"], REMOVALS, [MAIN]),
            *crossed([name for name in OTHER_QUERIES if name != "other domain"], TUNED, [MAIN]),
            *crossed([*KNOWING, *WITHOUT_TIES, "smoothed", "sharpened", "5 copies averaged"], TUNED, [MAIN]),
        ]
    if data == "glyphs-1000":
        return [
            *crossed(["full"], TUNED, ["glyph_cnn"]),
            *crossed(["true labels"], TUNED, ["glyph_cnn"]),
            *crossed(["labels", "top 3"], TUNED, ["glyph_cnn"]),
            *crossed(["unmarked API"], TUNED, ["glyph_cnn"]),
            *crossed(["full", "labels"], ["none"], ["glyph_cnn"], budgets),
        ]
    first = [
        *crossed(["full", "labels"], REMOVALS, [MAIN]),
        *crossed(["true labels"], TUNED, [MAIN]),
        *crossed([*SIGNS, *POOLED], TUNED, [MAIN]),
        *crossed(["full", "labels"], TUNED, ["mlp"]),
        *crossed([*OTHER_QUERIES], TUNED, [MAIN]),
        *crossed([*KNOWING, *WITHOUT_TIES, "top 3", "smoothed", "sharpened"], TUNED, [MAIN]),
        *crossed(["2 decimals"], [*TUNED, *WEIGHTS], [MAIN]),
        *crossed(["5 copies averaged", "two APIs averaged"], TUNED, [MAIN]),
        *crossed(INDEPENDENT_SOURCES, TUNED, [MAIN, "mlp"]),
        *crossed([*KNOWING], TUNED, ["mlp"]),
        *crossed(["full", "true labels"], TUNED, ["patch_mixer", "resnet", "vit", "pooled_cnn"]),
        *crossed(["labels"], TUNED, ["resnet", "vit", "pooled_cnn"]),
        *crossed(["early stopping"], TUNED, ["pooled_cnn"]),
        *crossed(["labels, few passes", "labels, many passes"], TUNED, [MAIN]),
    ]
    assert {scenario.extraction for scenario in first} >= set(applicable(EXTRACTIONS, "images"))
    return list(dict.fromkeys(first))


class Keeping(AttackRunner):
    """Runs attacks, and keeps their surrogates in a folder, so that a run that was ended need not train them again.

    Args:
        folder: the folder; `None` keeps none.
        owner: as for `AttackRunner`.
        **options: as for `AttackRunner`.
    """

    def __init__(self, folder: Path | None, owner: keras.Model, **options: Any) -> None:
        super().__init__(owner, **options)
        self._folder, self._of = folder, f"{model_sha256(owner)[:16]}-{options['seed']}"

    def trained(self, scenario: Scenario, transfer_set: TransferSet) -> Any:
        """A surrogate, from the folder if it is there."""
        name = "-".join(map(str, scenario.surrogate)).replace(" ", "_")
        return kept(self._folder, f"{self._of}-{name}", lambda: super(Keeping, self).trained(scenario, transfer_set))


def kept(folder: Path | None, name: str, make: Callable[[], keras.Model]) -> keras.Model:
    """A model from a folder, or made and saved there; without a folder it is only made."""
    if folder is None:
        return make()
    path, part = folder / f"{name}.keras", folder / f"part-{name}.keras"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make().save(part)
        part.replace(path)
    return keras.models.load_model(path)


def runner(
    data: str, seed: int, needed: set[str], *, verbose: bool, models: Path | None = None
) -> tuple[AttackRunner, dict[str, Any]]:
    """An owner model that is held out, and an attacker.

    Args:
        data: name of the data set.
        seed: seed of owner model, key and surrogates.
        needed: the attacker's means beyond the API that are wanted, by name.
        verbose: whether to show progress.
        models: folder that keeps owner models and surrogates between runs.

    Returns:
        The runner of attacks on the model, and the settings that its rows depend on.
    """
    load, architecture, owner_epochs, epochs = SETS[data]
    images: ImageData = load()
    order = np.random.default_rng(seed).permutation(len(images.x_train))
    x, y = images.x_train[order], images.y_train[order]
    half = len(x) // 2
    shape = x.shape[1:]
    labeled = min(FINE_TUNED, len(images.x_test) * 3 // 10)

    def owner_model(name: str, seed: int, count: int) -> keras.Model:
        def train() -> keras.Model:
            keras.utils.set_random_seed(seed)
            model = ARCHITECTURES[name](shape, images.num_classes)
            return train_classifier(model, x[:half], y[:half], epochs=count)

        return kept(models, f"{data}-{name}-seed{seed}", train)

    settings = {
        "scheme": SCHEME,
        "data": data,
        "source": images.describe().rpartition(", from ")[0],
        "seed": seed,
        "owner": architecture,
        "owner_epochs": owner_epochs,
        "epochs": epochs,
        "fine_tuned": labeled,
        "pool": half,
    }
    has_rival = "rival" in needed and data != "glyphs-1000"
    attacks = Keeping(
        models,
        owner_model(architecture, seed, owner_epochs),
        pool=x[half:],
        pool_labels=y[half:],
        labeled=(images.x_test[:labeled], images.y_test[:labeled]),
        fresh=(images.x_test[labeled:], images.y_test[labeled:]),
        other_domain=_other_domain(data, shape) if "other_domain" in needed else None,
        rival=owner_model(MAIN, seed + 1000, owner_epochs) if has_rival else None,
        seed=seed,
        epochs=epochs,
        verbose=verbose,
    )
    return attacks, settings


def run(
    data: str,
    seed: int,
    chosen: list[Scenario],
    path: Path,
    *,
    verbose: bool,
    jobs: int = 1,
    models: Path | None = None,
) -> None:
    """Rehearses some scenarios for one owner model.

    Args:
        data: name of the data set.
        seed: seed of owner model, key and surrogates.
        chosen: the scenarios; those that the data set has no means for are left out.
        path: file of the results.
        verbose: whether to show progress.
        jobs: number of processes.
        models: as for `runner`.
    """
    needed = {need for each in chosen for need in each.needs}
    attacks, settings = runner(data, seed, needed, verbose=verbose, models=models)
    possible = [scenario for scenario in chosen if set(scenario.needs) <= set(attacks.available)]
    attacks.run(possible, Results(path, settings), jobs=Processes(jobs) if jobs > 1 else None)


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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=SETS, default="fashion-mnist")
    parser.add_argument("--seed", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--extraction", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--report", action="store_true", help="write docs/robustness.md from the results")
    parser.add_argument("--released", action="store_true", help="keep the present figures as those of the last release")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train surrogates, of one thread each")
    parser.add_argument("--models", type=Path, help="folder that keeps models between runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    if options.jobs > 1:
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # the processes inherit these
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    fused_normalization.install()
    for seed in options.seed:
        chosen = [s for s in scenarios(options.data) if not options.extraction or s.extraction in options.extraction]
        path = options.out / f"robustness-{options.data}-seed{seed}.json"
        run(options.data, seed, chosen, path, verbose=not options.quiet, jobs=options.jobs, models=options.models)
        compact(path)
    if options.report or options.released:
        from benchmarks.studies import robustness_page

        for path in options.out.glob("robustness-*-seed*.json"):
            compact(path)  # of a run that was ended
        robustness_page.write(options.out, DOCS, released=options.released)


if __name__ == "__main__":
    main()
