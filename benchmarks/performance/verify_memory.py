"""Does memory grow with the number of queries? Peak resident memory of `verify` for 1,000 classes, all channels.

    python benchmarks/performance/verify_memory.py            # 50,000 and 1,000,000 logged queries; some minutes

Each size runs in a process of its own. Owner model and suspect are one small dense layer, so that the measurement
covers the verification: the queries' digest, the clean answers, the tables.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH, CLASSES = 1000, 1000


def measure(count: int) -> None:
    """Verifies with `count` queries, and prints peak memory and time."""
    import keras
    import numpy as np
    import tensorflow as tf

    import dynamarks_tf as dm

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(CLASSES, activation="softmax")])
    key = dm.MarkKey(bytes(32), "Memory")
    marked = dm.mark(model, key, tie_margin=0.5)
    one = np.random.default_rng(0).normal(size=(16 * BATCH, 64)).astype(np.float32) * 4
    queries = tf.data.Dataset.from_tensor_slices(one).batch(BATCH).repeat().take(count // BATCH)
    start = time.monotonic()
    evidence = dm.verify(
        marked, owner=marked, key=key, queries=queries, logged=True, suspect_options=dm.SuspectOptions(batch_size=BATCH)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:,} queries: {peak:,.0f} MiB at the peak, {time.monotonic() - start:.0f} s; {evidence}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="only this many queries, in this process")
    options = parser.parse_args()
    if options.count:
        measure(options.count)
        return
    for count in (50_000, 1_000_000):
        subprocess.run([sys.executable, __file__, "--count", str(count)], check=True)


if __name__ == "__main__":
    main()
