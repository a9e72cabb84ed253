"""log10 p of one independent model by the rules that `calibration.py` adds to the channels, for many keys.

*Aligned classes*: the model's classes come in another order, which is found from the answers. *References*: the
regression also takes the answers of three never-marked models of the owner's. *Trace*: the logged queries are those of
five clients, and the smallest p-value counts after Holm's adjustment for five.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.studies.reference_models import log10_p
from dynamarks_tf.case.trace import evidence_of
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.class_order import Confusion, class_order, in_order
from dynamarks_tf.evidence.meetings import meetings, num_class_cells, num_tie_cells
from dynamarks_tf.evidence.tracing import TRACED_CHANNELS, Exclusive, TracingAccumulator
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.keyed_hash import KeyedHash
from dynamarks_tf.watermark.params import MarkParams

Array = npt.NDArray[Any]

CLIENTS = 5
RULES = ("class, aligned classes", "class, references", "logged, references", f"trace, {CLIENTS} clients")


class Answers(NamedTuple):
    """Probabilities of clean model, suspect and references, for the same inputs.

    Attributes:
        clean: of shape `(n, C)`.
        suspect: of shape `(n, C)`.
        references: of shape `(n, R, C)`.
    """

    clean: Array
    suspect: Array
    references: Array


def p_values(fresh: Answers, logged: Answers, keys: Iterable[MarkKey], params: MarkParams) -> dict[str, list[float]]:
    """log10 p for each rule and key.

    Args:
        fresh: answers to fresh queries.
        logged: answers to logged queries, in the order in which they were sent.
        keys: the keys.
        params: settings of the mark.
    """
    num_classes = fresh.clean.shape[1]
    aligned = _aligned(fresh.clean, fresh.suspect[:, np.random.default_rng(0).permutation(num_classes)])
    found: dict[str, list[float]] = {rule: [] for rule in RULES}
    for key in keys:
        book = codebook.expand(key, num_classes, params)
        tested = (
            log10_p(book, params, fresh.clean, aligned, None, logged=False),
            log10_p(book, params, *fresh, logged=False),
            log10_p(book, params, *logged, logged=True),
            _smallest_of_clients(book, params, logged),
        )
        for rule, value in zip(RULES, tested, strict=True):
            found[rule].append(value)
    return found


def _aligned(clean: Array, suspect: Array) -> Array:
    """The suspect's answers in the order of the owner's classes, as `align_classes=True` finds it."""
    confusion = Confusion()
    confusion.add(clean.argmax(axis=1), suspect.argmax(axis=1))
    return in_order(suspect, class_order(confusion, clean.shape[1], suspect.shape[1]), labels=False)


def _smallest_of_clients(book: codebook.Codebook, params: MarkParams, logged: Answers) -> float:
    accumulator = TracingAccumulator(
        TRACED_CHANNELS,
        book.keyed_hash,
        params,
        book.contrasts(),
        parties=_parties(book.keyed_hash, params, logged.clean),
    )
    accumulator.add(logged.clean, logged.suspect)
    return min(client.adjusted_log10_p for client in evidence_of(accumulator, book).values())


def _parties(keyed_hash: KeyedHash, params: MarkParams, clean: Array) -> list[Exclusive]:
    """The secret signs that only one client met, if each sent an equal part of the queries."""
    found = meetings(Batch(clean, clean), keyed_hash, params)
    clients = found.queries * CLIENTS // len(clean)
    num_classes = clean.shape[1]
    met = np.zeros((CLIENTS, num_class_cells(num_classes) + num_tie_cells(num_classes)), bool)
    met[clients, found.entries] = True
    alone = met.sum(axis=0) == 1
    return [Exclusive(f"client-{number}", np.flatnonzero(each & alone)) for number, each in enumerate(met)]
