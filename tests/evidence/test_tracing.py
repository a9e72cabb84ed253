"""Memory of a trace: a log may name thousands of clients."""

import tracemalloc

import numpy as np

from dynamarks_tf.evidence.tracing import Exclusive, TracingAccumulator
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams


def peak_bytes(key, num_clients):
    """The largest memory while answers are gathered for so many clients, and residuals are made."""
    params = MarkParams()
    book = codebook.expand(key, 10, params)
    rng = np.random.default_rng(0)
    clean, suspect = (rng.dirichlet(np.ones(10), 400).astype(np.float32) for _ in range(2))
    parties = [Exclusive(f"c{number}", np.arange(number, 40_960, num_clients)) for number in range(num_clients)]
    tracemalloc.start()
    accumulator = TracingAccumulator(
        ("amplitude", "class-choice", "tie"), book.keyed_hash, params, book.contrasts(), parties=parties
    )
    accumulator.add(clean, suspect)
    tested = sum(bool(residuals) for residuals in accumulator.residuals_of_parties())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tested > num_clients / 2
    return peak


def test_memory_does_not_grow_with_the_number_of_clients(key):
    assert peak_bytes(key, 24) < peak_bytes(key, 2) + 3e6
