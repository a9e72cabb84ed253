"""What can a client do who sends new inputs by what the mark taught? p-values of an independent model.

    python benchmarks/studies/adaptive_client.py      # 100 keys, about five minutes; prints a table

Every query of the log comes from a client who has learned the signs of the class channel. The client picks the 1,500 of
20,000 mixtures of digits that suit these signs best, by a model of its own, or by the answers of the independent model
that is to be detected. `verify` asks all that met a secret sign first, or a few of them, in the order of the log. The
p-value is that of the most convenient moment: it may be looked at at any time. On logged queries the class channel is
not tested: with it, such a client reached p <= 0.1 for 15 of 20 keys (docs/assumptions.md, point 3).
"""

from __future__ import annotations

import argparse
import collections
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from dynamarks_tf.case.assessment import assess
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs.query_log import Selection
from dynamarks_tf.request_logs.reduction import FilePart, Origin
from dynamarks_tf.verification.log_choice import LogChoice
from dynamarks_tf.verification.reducing import Marked, Reducer
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams

PARAMS = MarkParams()
LOGGED = ("amplitude", "class-choice", "tie")
CANDIDATES, SENT = 20_000, 1500
COUNTS = (None, 60, 15)
LEVELS = (0.1, 0.01, 0.001)
Array = Any


def fit(x: Array, y: Array, width: int, seed: int) -> Any:
    """A small network trained on true labels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MLPClassifier((width,), max_iter=60, random_state=seed).fit(x, y)


def how_well(book: codebook.Codebook, clean: Array, other: Array) -> Array:
    """How much each input would raise the class channel's statistic of a model with the answers `other`."""
    best, each = clean.argmax(axis=1), np.arange(len(clean))
    left = np.log(np.maximum(other, 1e-6)) - np.log(np.maximum(clean, 1e-6))
    signs = book.signs("class")[book.keyed_hash.row_of_class[best]][:, book.keyed_hash.column_of_class].astype(float)
    left[each, best] = signs[each, best] = 0
    left = np.clip(left - left.sum(axis=1, keepdims=True) / 9, -4, 4)
    return (signs * left).sum(axis=1) / (1.01 - clean.max(axis=1))


def p_value(book: codebook.Codebook, clean: Array, suspect: Array, count: int | None) -> float:
    """log10 p for a log of these queries."""
    reducer = Reducer(Marked("", lambda inputs: inputs, book.keyed_hash, PARAMS, (10,), False))
    reducer.add([(clean, reducer.row(Origin("client", None, None)))], number=0)
    reducer.files.append(FilePart("log", 0, "", 0, {}))
    reduction = reducer.reduction()
    choice = LogChoice(reduction, Selection(), 10, 1)
    chosen = choice.all() if count is None else choice.fewest(count, num_ties=count // 2)
    rows = reduction.queries["row"][chosen]
    gathered = ResidualAccumulator(
        LOGGED, book.keyed_hash, PARAMS, book.contrasts(), met_before=choice.met_before(chosen)
    )
    return assess([(clean[rows], suspect[rows])], gathered, book, rule=anytime.RULE).log10_p


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    owner = fit(x[:600], y[:600], 64, 0)
    independent, own = fit(x[600:1200], y[600:1200], 48, 1), fit(x[1200:], y[1200:], 48, 2)
    one, other = rng.integers(0, len(x), (2, CANDIDATES))
    weight = rng.uniform(0.5, 1, (CANDIDATES, 1))
    inputs = weight * x[one] + (1 - weight) * x[other]
    clean, suspect, proxy = (model.predict_proba(inputs).astype(float) for model in (owner, independent, own))
    found = collections.defaultdict(list)
    for number in range(options.keys):
        book = codebook.expand(MarkKey(number.to_bytes(32, "big"), "x"), 10, PARAMS)
        for name, known in (
            ("nothing (random inputs)", None),
            ("a model of the client", proxy),
            ("the suspect", suspect),
        ):
            score = rng.random(CANDIDATES) if known is None else how_well(book, clean, known)
            sent = rng.permutation(np.argsort(-score)[:SENT])
            for count in COUNTS:
                found[name, count].append(p_value(book, clean[sent], suspect[sent], count))
    print("| client goes by | questions | share of keys at 0.1 / 0.01 / 0.001 |\n|---|---|---|")
    for (name, count), values in found.items():
        shares = " / ".join(f"{np.mean(np.array(values) <= np.log10(level)):.2f}" for level in LEVELS)
        print(f"| {name} | {count or 'all'} | {shares} |")


if __name__ == "__main__":
    main()
