"""How fast are answers turned into evidence, without the time of the models? As a ratio to a plain NumPy pass.

    python benchmarks/verify_throughput.py

The baseline is np.log(clean).sum() + np.log(suspect).sum() over the same arrays of answers. Both run in one thread, in
turns, on batches of 4,096 queries. Times are processor time, and ratios are of the fastest of several turns, since the
machine may be shared. The residuals are made once, after the last batch: that takes the same time however many queries
there were, so it is given for itself, and both ratios, with and without it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import dynamarks_tf as dm
from dynamarks_tf import codebook
from dynamarks_tf.evidence.collection import Collection

BATCH, TURNS = 4096, 15
QUERIES = {10: 400_000, 1000: 16_384}


def answers(rng: Any, n: int, num_classes: int) -> Any:
    """Confident probability vectors, as trained classifiers give them."""
    logits = rng.normal(size=(n, num_classes)).astype(np.float32) * 2
    logits[np.arange(n), rng.integers(0, num_classes, n)] += 12
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fastest(*works: Callable[[], Callable[[], object]]) -> list[tuple[float, float]]:
    """Seconds of the fastest turn of each, and of what it leaves to do at the end; they take turns."""
    best = [(np.inf, np.inf)] * len(works)
    for _ in range(TURNS):
        for index, work in enumerate(works):
            start = time.process_time()
            rest = work()
            middle = time.process_time()
            rest()
            seconds = middle - start, time.process_time() - middle
            best[index] = min(best[index][0], seconds[0]), min(best[index][1], seconds[1])
    return best


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    params = dm.MarkParams(tie_margin=0.5)
    for num_classes, n in QUERIES.items():
        rng = np.random.default_rng(0)
        clean, suspect = answers(rng, n, num_classes), answers(rng, n, num_classes)
        book = codebook.expand(dm.MarkKey(bytes(32), "Throughput"), num_classes, params)
        batches = [(clean[i : i + BATCH], suspect[i : i + BATCH]) for i in range(0, n, BATCH)]

        def collect(channels: tuple[str, ...], book: Any = book, batches: Any = batches) -> Callable[[], Any]:
            def work() -> Callable[[], object]:
                collection = Collection(channels, book.bucketing, params)
                for batch in batches:
                    collection.add(*batch)
                return collection.residuals

            return work

        def plain(batches: Any = batches) -> Callable[[], object]:
            total = sum(np.log(p).sum() + np.log(s).sum() for p, s in batches)
            return lambda: total

        (base, _), *found = fastest(plain, collect(("class",)), collect(("class", "amplitude", "tie")))
        print(f"C = {num_classes}, {n:,} queries: numpy {1e6 * base / n:.3f} us a query")
        for name, (add, finish) in zip(("class code", "all channels"), found, strict=True):
            print(
                f"  {name}: {1e6 * add / n:.3f} us a query (ratio {base / add:.2f}), then {1e3 * finish:.1f} ms for "
                f"residuals; with them {1e6 * (add + finish) / n:.3f} us a query (ratio {base / (add + finish):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
