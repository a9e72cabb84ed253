"""How many rows should the class channel's sign table have, from 20 to 100 classes? Patches of photographs.

    python benchmarks/studies/class_rows.py --seed 100            # every number of rows, for choosing
    python benchmarks/studies/class_rows.py --seed 0 --seed 1 --seed 2 --arm 20:20t --arm 50:4     # for reporting
    python benchmarks/studies/class_rows.py --report              # writes docs/class-rows.md from the results

With R rows for C classes, a keyed hash maps each predicted class to a row. An arm of the study is C, R and whether an
answer is raised towards one target class of its hash (`t`, with R = C) or towards all favored classes of its row.
Data are photos-20, -50 and -100 (photos.py). For each seed and C, one owner model is trained on the first half of the
training patches, and one unmarked surrogate on its clean answers to the second half. For each arm its clean answers are
marked with a key of its own, and a surrogate learns them; the attacker may fine-tune it on half of the test patches
with their true labels. Fresh queries are the other half. Rows are written as they come, and are not computed again.

Seed 100 chose; seeds 0 to 2 report.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import dynamarks_tf as dm
from benchmarks import result_file, study_file
from benchmarks.studies import photos
from dynamarks_tf._support import files
from dynamarks_tf.attacks import post_processing
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.batches import predicted
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.attacks.removal import copied, fine_tune
from dynamarks_tf.audit.examination import Examiner
from dynamarks_tf.keys.key import BoundKey
from dynamarks_tf.watermark import codebook, lookups, metrics
from dynamarks_tf.watermark.layer import SCHEME
from dynamarks_tf.watermark.model_digest import model_sha256
from dynamarks_tf.watermark.params import MarkParams
from dynamarks_tf.watermark.perturbation import mark_probabilities

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "class-rows.json"
MODELS = HERE.parents[1] / ".data" / "class-rows"  # of interrupted runs
PAGE = HERE.parents[1] / "docs" / "class-rows.md"
BEGIN, END = "<!-- table: python benchmarks/studies/class_rows.py --report -->\n", "<!-- end of table -->\n"
FORMAT, VERSION = "dynamarks-class-rows-study", 1
CHOOSING = 100
SETTINGS: dict[str, Any] = {
    "scheme": SCHEME,
    "owner": "glyph_cnn",
    "owner_epochs": 10,
    "surrogate": "glyph_cnn",
    "surrogate_epochs": 10,
    "fine_tuned": 3000,
    "batch_size": 128,
}
KEPT: dict[str, Callable[[Any], Any]] = {
    "all": lambda answers: answers,
    "top 3": lambda answers: post_processing.top_k(answers, k=3),
    "less a floor": lambda answers: less_floor(answers),
}
QUERIES = ("10 fresh", "100 fresh", "1000 fresh", "logged")
Array = Any


@dataclasses.dataclass(frozen=True)
class Arm(MarkParams):
    """Settings of a mark whose table has a given number of rows, whatever the number of classes.

    Args:
        classes: number of classes.
        rows: rows of the class channel's sign table.
        one_target: whether each answer is raised towards one target class.
    """

    classes: int = 20
    rows: int = 1
    one_target: bool = False

    def table_shape(self, num_classes: int) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, num_classes

    def has_target_class(self, num_classes: int) -> bool:
        """Whether each answer is raised towards one target class."""
        return self.one_target

    @property
    def name(self) -> str:
        """As the command line takes it."""
        return f"{self.classes}:{self.rows}{'t' * self.one_target}"

    @property
    def is_default(self) -> bool:
        """Whether this is what a mark does unless told otherwise."""
        usual = MarkParams()
        shape = usual.table_shape(self.classes), usual.has_target_class(self.classes)
        return shape == ((self.rows, self.classes), self.one_target)


def arm(text: str) -> Arm:
    """An arm by its name, such as `20:20t` or `50:4`."""
    classes, _, rows = text.partition(":")
    one_target = rows.endswith("t")
    found = Arm(classes=int(classes), rows=int(rows.rstrip("t")), one_target=one_target)
    if found.classes not in photos.CLASSES or not 1 <= found.rows <= found.classes:
        raise ValueError(text)
    if one_target and found.rows != found.classes:
        raise ValueError(text)
    return found


ARMS = [
    arm(f"{classes}:{rows}")
    for classes, every in {
        20: ("20t", "20", "4", "1"),
        50: ("50t", "50", "16", "4", "2", "1"),
        100: ("100", "32", "8", "2", "1"),  # one target class needs a group for each class; there are 64
    }.items()
    for rows in every
]


def less_floor(answers: Array, quantile: float = 0.02) -> Array:
    """Answers without each class's floor over all answers, which a single row of signs lays under favored classes."""
    best = answers.argmax(axis=1)
    floor = [np.quantile(answers[best != c, c], quantile) for c in range(answers.shape[1])]
    cleaned = np.maximum(answers - np.asarray(floor, answers.dtype), 1e-9)
    cleaned[np.arange(len(best)), best] = answers[np.arange(len(best)), best]
    return cleaned / cleaned.sum(axis=1, keepdims=True)


class Side:
    """What all arms of one number of classes and one seed share: owner model, data and the unmarked surrogate."""

    def __init__(self, classes: int, seed: int) -> None:
        images = photos.load(classes)
        half = len(images.x_train) // 2
        self.seed, self.classes = seed, classes
        self.shape = images.x_train.shape[1:]
        self.pool = images.x_train[half:]
        order = np.random.default_rng(seed).permutation(len(images.x_test))
        labeled, fresh = np.split(order, [SETTINGS["fine_tuned"]])
        self.labeled = images.x_test[labeled], images.y_test[labeled]
        self.fresh = images.x_test[fresh], images.y_test[fresh]
        owned = images.x_train[:half], images.y_train[:half]
        self.owner = self._kept("owner", lambda: self._trained("owner", *owned, 1000 + seed))
        self.clean = answering(self.owner)
        self.unmarked = self._kept("unmarked", lambda: self.surrogate(self.clean(self.pool)))

    def surrogate(self, answers: Array) -> keras.Model:
        """A surrogate of answers to the attacker's patches."""
        return self._trained("surrogate", self.pool, answers, 3000 + self.seed)

    def _trained(self, name: str, inputs: Array, targets: Array, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = ARCHITECTURES[SETTINGS[name]](self.shape, self.classes)
        epochs = SETTINGS[f"{name}_epochs"]
        return train_classifier(model, inputs, targets, epochs=epochs, batch_size=SETTINGS["batch_size"])

    def _kept(self, name: str, train: Callable[[], keras.Model]) -> keras.Model:
        """A model that an interrupted run has trained, or a new one."""
        settings = hashlib.sha256(json.dumps(SETTINGS).encode()).hexdigest()[:8]
        path = MODELS / settings / f"{self.classes}-seed{self.seed}-{name}.keras"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            train().save(path)
        return keras.models.load_model(path)


def answering(model: keras.Model) -> Callable[[Array], Array]:
    """A model as a function that computes the answers to each array once."""
    known: dict[int, tuple[Array, Array]] = {}

    def answer(inputs: Array) -> Array:
        if id(inputs) not in known:
            known[id(inputs)] = inputs, predicted(model, inputs, batch_size=500)
        return known[id(inputs)][1]

    return answer


def released(clean: Array, key: BoundKey, chosen: Arm) -> Array:
    """What the marked model answers where the clean one answers `clean`."""
    tables = lookups.tables_from(codebook.expand(key, chosen.classes, chosen), chosen)
    return np.asarray(mark_probabilities(tf.constant(clean), tables, chosen))


def study(side: Side, chosen: Arm, kept: str) -> dict[str, Any]:
    """One arm: a key, a surrogate of what the attacker kept, that one fine-tuned, and the unmarked one."""
    start = time.monotonic()
    key = dm.MarkKey((4000 + side.seed).to_bytes(32, "big"), "Class rows").bind(model_sha256(side.owner))
    examiner = Examiner(key, chosen, side.clean, side.fresh, seed=side.seed)
    surrogate = side.surrogate(KEPT[kept](released(side.clean(side.pool), key, chosen)))
    tuned = fine_tune(copied(surrogate), *side.labeled, batch_size=SETTINGS["batch_size"])
    row: dict[str, Any] = {"classes": chosen.classes, "arm": chosen.name, "kept": kept, "seed": side.seed}
    row["owner_accuracy"] = metrics.accuracy(side.clean(side.fresh[0]), side.fresh[1])
    row["marked_accuracy"] = metrics.accuracy(released(side.clean(side.fresh[0]), key, chosen), side.fresh[1])
    for name, suspect in (("stolen", surrogate), ("fine-tuned", tuned), ("unmarked", side.unmarked)):
        found = examiner.examine(answering(suspect), side.pool)
        row[name] = [found["findings"][queries]["log10_p"] for queries in QUERIES]
        row[f"{name} accuracy"] = found["accuracy"]
    row["seconds"] = time.monotonic() - start
    print(json.dumps(result_file.rounded(row)), flush=True)
    return row


def run(arms: list[Arm], seeds: list[int], kept: list[str], path: Path) -> None:
    """Measures what the results lack."""
    rows: list[dict[str, Any]] = read(path) if path.exists() else []
    done = {(row["arm"], row["kept"], row["seed"]) for row in rows}
    for seed in seeds:
        side: Side | None = None
        for chosen in sorted(arms, key=lambda each: each.classes):
            for form in kept:
                if (chosen.name, form, seed) in done:
                    continue
                if side is None or side.classes != chosen.classes:
                    keras.backend.clear_session()
                    side = Side(chosen.classes, seed)
                rows.append(study(side, chosen, form))
                study_file.write(path, FORMAT, VERSION, SETTINGS, rows)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of the results, if they are of these settings."""
    content = json.loads(path.read_text())
    if (content["format"], content["version"], content["settings"]) != (FORMAT, VERSION, SETTINGS):
        raise SystemExit(f"{path} holds results of other settings. Move it away, or restore the settings.")
    return list(content["rows"])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: seeds of the report first, then the one that chose; the worst of the seeds."""
    parts = []
    for title, same in (
        ("Reported", [row for row in rows if row["seed"] != CHOOSING]),
        ("Chosen from", [row for row in rows if row["seed"] == CHOOSING]),
    ):
        if same:
            seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in same}))
            parts += [f"### {title}: seed {seeds}", "", *_lines(same), ""]
    return "\n".join(parts)


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| classes | rows | kept | seeds | stolen: 10 / 100 / 1,000 fresh | logged | fine-tuned: fresh | logged "
        "| unmarked surrogate, smallest | accuracy of owner, marked, stolen, fine-tuned |",
        f"|{'---|' * 10}",
    ]
    for chosen in ARMS:
        for kept in KEPT:
            same = [row for row in rows if (row["arm"], row["kept"]) == (chosen.name, kept)]
            if not same:
                continue
            words = f"{chosen.rows}{', one target class' * chosen.one_target}"
            cells = [str(chosen.classes), f"**{words}**" if chosen.is_default else words, kept, str(len(same))]
            for name in ("stolen", "fine-tuned"):
                *fresh, logged = (max(column) for column in zip(*(row[name] for row in same), strict=True))
                cells += [" / ".join(f"{value:.1f}" for value in fresh), f"{logged:.1f}"]
            cells.append(f"{min(min(row['unmarked']) for row in same):.1f}")
            columns = ("owner_accuracy", "marked_accuracy", "stolen accuracy", "fine-tuned accuracy")
            cells.append(", ".join(f"{np.mean([row[name] for row in same]):.3f}" for name in columns))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def report(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with its tables made anew."""
    return study_file.with_table(page, BEGIN, END, table(rows))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help=f"repeatable  [default: {CHOOSING}]")
    parser.add_argument("--arm", type=arm, action="append", help="such as 50:4 or 20:20t; repeatable  [default: all]")
    parser.add_argument("--kept", choices=KEPT, action="append", help="of each answer; repeatable  [default: all]")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--report", action="store_true", help="write the tables into docs/class-rows.md")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    if options.report:
        files.write_atomically(PAGE, report(PAGE.read_text(), read(RESULTS)).encode())
        return
    run(options.arm or ARMS, options.seed or [CHOOSING], options.kept or ["all"], options.out)


if __name__ == "__main__":
    main()
