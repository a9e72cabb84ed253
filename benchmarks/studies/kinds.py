"""Other kinds of data than images: text, tables, and (from sigmoids.py) one label and ten. One table of evidence.

    make tables                                                       # fetches the table of segments
    python benchmarks/studies/kinds.py --seed 0 --seed 1 --seed 2     # about 20 minutes on one core
    python benchmarks/studies/kinds.py --report                       # writes docs/kinds.md from the results

| data | inputs | classes |
|---|---|---|
| paragraphs | text: paragraphs of documentation inside packages (paragraphs.py) | 20 parts of packages |
| segments | 2,310 rows of numbers about 3 x 3 pixels of 7 outdoor images, from Debian's weka | 7 |
| breast cancer | 569 rows of 30 numbers, from scikit-learn | 2 |

For each seed: an owner model, a key, and an attacker with other rows. Of a table the attacker sends mixtures of two
rows of their own, as few rows teach a surrogate little: 0.7 of one, 0.3 of another. The engine is that of
`dynamarks audit`, with at least 1,500 steps of training. Nothing was chosen by these data: every setting is a default.

Rows are written as they come, and are not computed again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import study_file
from benchmarks.studies import paragraphs, robustness, sigmoids
from dynamarks_tf._support import files
from dynamarks_tf._support.input_kind import Kind
from dynamarks_tf.attacks.architectures import MAIN, SECOND, new_model
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.audit.attack_runner import AttackRunner
from dynamarks_tf.audit.results import Results, read
from dynamarks_tf.audit.scenario import Scenario, crossed
from dynamarks_tf.audit.tables import rounded, worst
from dynamarks_tf.errors import DatasetError
from dynamarks_tf.watermark.layer import SCHEME

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "kinds.md"
BEGIN, END = "<!-- table: python benchmarks/studies/kinds.py --report -->\n", "<!-- end of table -->\n"
WEKA = HERE.parents[1] / ".data" / "weka" / "usr" / "share" / "doc" / "weka" / "examples"
SHARES = (0.4, 0.7, 0.8)  # of the rows: the owner's, the attacker's, those with true labels, the fresh ones
MIXTURES = 10_000
STEPS, BATCH_SIZE, OWNER_EPOCHS = 1500, 128, {"text": 8, "vectors": 30}
FRESH = ("10 fresh", "100 fresh", "1000 fresh")
Array = Any


class Labeled(NamedTuple):
    """Inputs and class indices."""

    inputs: Array
    labels: Array


def segments(seed: int) -> Labeled:
    """Rows about segments of outdoor images, in a random order."""
    rows: list[str] = []
    for name in ("segment-challenge.arff", "segment-test.arff"):
        try:
            text = (WEKA / name).read_text(encoding="utf-8")
        except OSError as error:
            raise DatasetError(f"{WEKA / name} is missing. `make tables` fetches Debian's package weka.") from error
        rows += [line for line in text.partition("@data")[2].splitlines() if "," in line and not line.startswith("%")]
    cells = [line.split(",") for line in rows]
    names = sorted({row[-1].strip() for row in cells})
    x = np.array([[float(cell) for cell in row[:-1]] for row in cells], np.float32)
    return _shuffled(x[:, x.std(axis=0) > 0], np.array([names.index(row[-1].strip()) for row in cells]), seed)


def breast_cancer(seed: int) -> Labeled:
    """Scikit-learn's table, in a random order."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _shuffled(x.astype(np.float32), y, seed)


def _shuffled(x: Array, y: Array, seed: int) -> Labeled:
    order = np.random.default_rng(seed).permutation(len(x))
    return Labeled(x[order], y[order])


KINDS: dict[str, Callable[[int], Labeled]] = {
    "paragraphs": lambda seed: Labeled(*paragraphs.load(seed)),
    "segments": segments,
    "breast cancer": breast_cancer,
}


def form_of(kind: str) -> Kind:
    """What the inputs are."""
    return "text" if kind == "paragraphs" else "vectors"


def scenarios(kind: str) -> list[Scenario]:
    """What is rehearsed for text or vectors."""
    main = [MAIN[form_of(kind)]]
    tuned = ["none", "fine-tune all"]
    return [*crossed(["full", "labels"], tuned, main), *crossed(["true labels", "unmarked API"], ["none"], main)]


def mixtures(rows: Labeled, seed: int) -> Labeled:
    """Mixtures of two rows each, with the class of the larger part."""
    rng = np.random.default_rng([seed, 1])
    one, other = rng.integers(0, len(rows.inputs), (2, MIXTURES))
    mixed = 0.7 * rows.inputs[one] + 0.3 * rows.inputs[other]
    return Labeled(mixed.astype(np.float32), rows.labels[one])


def path_of(kind: str, seed: int) -> Path:
    """The file of results."""
    return RESULTS / f"kinds-{kind.replace(' ', '-')}-seed{seed}.json"


def study(kind: str, seed: int) -> None:
    """Rehearses every scenario on one owner model."""
    data = KINDS[kind](seed)
    parts = np.split(np.arange(len(data.inputs)), [int(share * len(data.inputs)) for share in SHARES])
    owned, stolen, labeled, fresh = (Labeled(data.inputs[part], data.labels[part]) for part in parts)
    pool = stolen if kind == "paragraphs" else mixtures(stolen, seed)
    form = form_of(kind)
    epochs = -(-STEPS // -(-len(pool.inputs) // BATCH_SIZE))
    classes = int(data.labels.max()) + 1
    keras.utils.set_random_seed(1000 + seed)
    owner = new_model(SECOND[form], owned.inputs, classes)
    train_classifier(owner, owned.inputs, owned.labels, epochs=OWNER_EPOCHS[form], batch_size=32)
    settings = {
        "scheme": SCHEME,
        "data": kind,
        "seed": seed,
        "classes": classes,
        "features": "words" if form == "text" else data.inputs.shape[1],
        "owner": SECOND[form],
        "surrogate": MAIN[form],
        "owned": len(owned.inputs),
        "rows of the attacker": len(stolen.inputs),
        "sent": len(pool.inputs),
        "labeled": len(labeled.inputs),
        "fresh": len(fresh.inputs),
        "epochs": epochs,
    }
    runner = AttackRunner(
        owner,
        pool=pool.inputs,
        pool_labels=pool.labels,
        labeled=labeled,
        fresh=fresh,
        seed=seed,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        verbose=True,
    )
    runner.run(scenarios(kind), Results(path_of(kind, seed), settings))
    robustness.compact(path_of(kind, seed))


def table(folder: Path, of_sigmoids: list[dict[str, Any]]) -> str:
    """One column for each kind of data; the worst of the seeds, of independent models the smallest log10 p."""
    columns = [_column(kind, folder) for kind in KINDS]
    columns = [column for column in columns if column]
    columns += [_sigmoid_column(kind, [row for row in of_sigmoids if row["kind"] == kind]) for kind in sigmoids.KINDS]
    names = list(columns[0])
    header = [f"| {' | '.join(column[name] for column in [{names[0]: ''}, *columns])} |" for name in names[:1]]
    lines = [f"| {name} | {' | '.join(column.get(name, '-') for column in columns)} |" for name in names[1:]]
    return "\n".join([*header, f"|{'---|' * (len(columns) + 1)}", *lines, ""])


def _column(kind: str, folder: Path) -> dict[str, str]:
    contents = [read(path) for path in sorted(folder.glob(f"kinds-{kind.replace(' ', '-')}-seed*.json"))]
    if not contents:
        return {}
    facts, rows = contents[0]["settings"], [row for content in contents for row in content["rows"]]
    costs = [row["cost"] for row in rows if row["kind"] == "cost"]

    def cell(extraction: str, removal: str, queries: str) -> str:
        same = [row for row in rows if (row.get("extraction"), row.get("removal")) == (extraction, removal)]
        found = worst(same, queries)
        return "-" if found is None or ("fresh" in queries and facts["classes"] == 2) else _log(found)

    def needed(extraction: str, queries: str) -> str:
        same = [row for row in rows if (row.get("extraction"), row.get("removal")) == (extraction, "none")]
        found = [row["findings"].get(queries, {}).get("queries_needed") for row in same]
        return "-" if None in found else f"{max(found):,}"

    def mean(values: list[float]) -> str:
        return f"{np.mean(values):.3f}"

    stolen = [row["accuracy"] for row in rows if (row.get("extraction"), row.get("removal")) == ("full", "none")]
    independent = [row for row in rows if row["kind"] == "independent"]
    most = [name for name in FRESH if name in independent[0]["findings"]][-1]
    smallest = min(finding["log10_p"] for row in independent for finding in row["findings"].values())
    return {
        "data": kind,
        "inputs": "text" if facts["features"] == "words" else f"{facts['features']} numbers",
        "classes": str(facts["classes"]),
        "owner's; sent; with true labels; fresh": "; ".join(
            f"{facts[name]:,}" for name in ("owned", "sent", "labeled", "fresh")
        ),
        "accuracy, clean": mean([cost["clean_accuracy"] for cost in costs]),
        "accuracy, marked": mean([cost["marked_accuracy"] for cost in costs]),
        "accuracy, stolen": mean(stolen),
        "stolen: 10 / 100 / 1,000 fresh": " / ".join(cell("full", "none", name) for name in FRESH),
        "stolen, logged": cell("full", "none", "logged"),
        "fine-tuned: 10 / 100 / 1,000 fresh": " / ".join(cell("full", "fine-tune all", name) for name in FRESH),
        "fine-tuned, logged": cell("full", "fine-tune all", "logged"),
        "labels kept, answers probabilities": cell("labels", "none", "logged"),
        "labels kept, answers labels": cell("labels", "none", "logged, labels"),
        "independent, smallest": _log(smallest),
        "queries to 10^-6, fresh": needed("full", most),
        "queries to 10^-6, logged": needed("full", "logged"),
        "queries to 10^-6, labels": needed("labels", "logged, labels"),
        "seeds": str(len(contents)),
    }


def _sigmoid_column(kind: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    facts = sigmoids.SETTINGS

    def cell(form: str, name: str) -> str:
        return _log(max(row[form][name] for row in rows))

    return {
        "data": "Fashion-MNIST, one label" if kind == "binary" else "Fashion-MNIST, 10 labels",
        "inputs": "images",
        "classes": "one sigmoid" if kind == "binary" else "10 sigmoids",
        "owner's; sent; with true labels; fresh": f"{facts['owner_images']:,}; {facts['sent']:,}; -; -",
        "accuracy, clean": f"{np.mean([row['accuracy']['clean'] for row in rows]):.3f}",
        "accuracy, marked": f"{np.mean([row['accuracy']['marked'] for row in rows]):.3f}",
        "stolen, logged": cell("log10_p", "scores"),
        "labels kept, answers probabilities": cell("log10_p", "sides"),
        "labels kept, answers labels": cell("log10_p_labels", "sides"),
        "independent, smallest": _log(min(row[form]["independent"] for row in rows for form in row if "log10" in form)),
        "seeds": str(len(rows)),
    }


def _log(value: float) -> str:
    return rounded(value, 1)


def report(page: str, folder: Path, of_sigmoids: list[dict[str, Any]]) -> str:
    """The page with its table made anew."""
    return study_file.with_table(page, BEGIN, END, table(folder, of_sigmoids))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", default=[], help="repeatable")
    parser.add_argument("--data", choices=KINDS, action="append", help="repeatable  [default: all]")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    parser.add_argument("--report", action="store_true", help="write the table into docs/kinds.md from the results")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    for seed in options.seed:
        for kind in options.data or KINDS:
            study(kind, seed)
    if options.report:
        files.write_atomically(PAGE, report(PAGE.read_text(), RESULTS, sigmoids.STUDY.rows()).encode())


if __name__ == "__main__":
    main()
