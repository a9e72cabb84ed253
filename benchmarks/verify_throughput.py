"""How fast are answers turned into evidence, without the time of the models? As a ratio to a plain NumPy pass.

    python benchmarks/verify_throughput.py

The baseline is np.log(clean).sum() + np.log(suspect).sum() over the same arrays of answers. Both run on one core, in
turns, on batches of 4,096 queries; the ratio is of the fastest of several turns, since the machine may be shared.
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

BATCH, TURNS = 4096, 9
QUERIES = {10: 400_000, 1000: 16_384}


def answers(rng: Any, n: int, num_classes: int) -> Any:
    """Confident probability vectors, as trained classifiers give them."""
    logits = rng.normal(size=(n, num_classes)).astype(np.float32) * 2
    logits[np.arange(n), rng.integers(0, num_classes, n)] += 12
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fastest(*works: Callable[[], object]) -> list[float]:
    """Seconds of the fastest turn of each; they take turns."""
    best = [np.inf] * len(works)
    for _ in range(TURNS):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
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

        def collect(channels: tuple[str, ...], book: Any = book, batches: Any = batches) -> Callable[[], object]:
            def work() -> object:
                collection = Collection(channels, book.bucketing, params)
                for batch in batches:
                    collection.add(*batch)
                return collection.residuals()

            return work

        def plain(batches: Any = batches) -> float:
            return float(sum(np.log(p).sum() + np.log(s).sum() for p, s in batches))

        base, fresh, logged = fastest(plain, collect(("class",)), collect(("class", "amplitude", "tie")))
        print(f"C = {num_classes}: numpy {n / base:,.0f} queries/s")
        print(f"  class code {n / fresh:,.0f} (ratio {base / fresh:.2f})")
        print(f"  all channels {n / logged:,.0f} (ratio {base / logged:.2f})", flush=True)


if __name__ == "__main__":
    main()
