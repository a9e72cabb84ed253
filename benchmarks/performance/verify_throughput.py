"""How fast are answers turned into evidence, without the time of the models? As a ratio to a plain NumPy pass.

    python benchmarks/performance/verify_throughput.py

The baseline is np.log(clean).sum() + np.log(suspect).sum() over the same arrays of answers. Both run in one thread, in
turns, on batches of 4,096 queries. Times are processor time; since the machine may be shared, the fastest turn of
each batch counts. The residuals are made once, after the last batch. Their time does not depend on the number of
queries, so it is stated separately.

The other channels take logged queries, of which the first with each secret sign counts. The last quarter of the
queries shows the cost of later ones; with 1,000 classes there are too few queries for that.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import dynamarks_tf as dm
from dynamarks_tf.evidence.residual_accumulator import CHANNELS, ResidualAccumulator
from dynamarks_tf.watermark import codebook

BATCH, TURNS = 4096, 15
QUERIES = {10: 400_000, 1000: 16_384}


def answers(rng: Any, n: int, num_classes: int) -> Any:
    """Confident probability vectors, like those of trained classifiers."""
    logits = rng.normal(size=(n, num_classes)).astype(np.float32) * 2
    logits[np.arange(n), rng.integers(0, num_classes, n)] += 12
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fastest(*works: Callable[[], Iterator[None]]) -> list[Any]:
    """Seconds of the fastest turn of each step of each work; the works take turns."""
    best: list[Any] = [np.inf] * len(works)
    for _ in range(TURNS):
        for index, work in enumerate(works):
            times = [time.process_time()]
            times += [time.process_time() for _ in work()]
            best[index] = np.minimum(best[index], np.diff(times))
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

        def plain(batches: Any = batches) -> Iterator[None]:
            for p, s in batches:
                np.log(p).sum() + np.log(s).sum()
                yield

        def collect(
            *channels: str, num_fresh: int = 0, book: Any = book, batches: Any = batches
        ) -> Callable[[], Iterator[None]]:
            def work() -> Iterator[None]:
                pairs = book.contrasts()
                accumulator = ResidualAccumulator(channels, book.keyed_hash, params, pairs, num_fresh=num_fresh)
                for batch in batches:
                    accumulator.add(*batch)
                    yield
                accumulator.residuals()
                yield

            return work

        every = [name for name in CHANNELS if name != "class-choice" or book.pairs is not None]
        base, *found = fastest(
            plain, collect("class", num_fresh=n), collect(*(name for name in every if name != "class"))
        )
        print(f"C = {num_classes}, {n:,} queries: numpy {1e6 * base.sum() / n:.3f} us a query")
        for name, seconds in zip(("class channel", "logged channels"), found, strict=True):
            add, finish = seconds[:-1], seconds[-1]
            last = slice(-(len(base) // 4), None)
            print(
                f"  {name}: {1e6 * add.sum() / n:.3f} us a query (ratio {base.sum() / add.sum():.2f}; "
                f"last quarter {base[last].sum() / add[last].sum():.2f}), then {1e3 * finish:.1f} ms for residuals",
                flush=True,
            )


if __name__ == "__main__":
    main()
