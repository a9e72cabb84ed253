"""P-values of clients hold for an independent suspect, whatever the clients share and repeat."""

import numpy as np
import pytest

from dynamarks_tf.case.trace import evidence_of
from dynamarks_tf.evidence.tracing import TracingAccumulator
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs.query_log import Selection
from dynamarks_tf.request_logs.reduction import FilePart, Origin
from dynamarks_tf.verification.log_choice import LogChoice
from dynamarks_tf.verification.reducing import Marked, Reducer
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams

PARAMS = MarkParams()
CLIENTS = ("a", "b", "c", "d")
CHANNELS = ("class", "amplitude", "class-choice", "tie")
SUSPECTS = ("probabilities", "labels", "labels of d")


def log_of_four_clients():
    """Clean answers, many of them ties; each client sends 400 of its own, then 150 that another one sent."""
    rng = np.random.default_rng(0)
    clean = rng.dirichlet(np.full(10, 0.3), 1600)
    order = np.argsort(-clean, axis=1)
    each = np.arange(len(clean))
    middle, gap = (clean[each, order[:, 0]] + clean[each, order[:, 1]]) / 2, rng.uniform(0, 0.02, len(clean))
    clean[each, order[:, 0]], clean[each, order[:, 1]] = middle + gap, middle - gap
    own = np.split(each, len(CLIENTS))
    again = [rng.choice(own[number - 1], 150, replace=False) for number in range(len(CLIENTS))]
    return clean, order, own, again


def adjusted(number, suspect):
    """Adjusted log10 p of each client under one key, for a suspect that learned from none or from the last client."""
    clean, order, own, again = log_of_four_clients()
    book = codebook.expand(MarkKey(number.to_bytes(32, "big"), "x"), 10, PARAMS)
    rng = np.random.default_rng(number)
    if suspect == "probabilities":
        given = clean * rng.lognormal(0, 0.7, clean.shape)
        given /= given.sum(axis=1, keepdims=True)
    else:
        given = np.where(rng.random(len(clean)) < 0.6, order[:, 0], order[:, 1])
        if suspect == "labels of d":
            low, high = np.sort(order[:, :2], axis=1).T
            signs = book.tie_signs[high * (high - 1) // 2 + low, book.keyed_hash.tie_hashes(clean)]
            given[own[3]] = np.where(signs > 0, low, high)[own[3]]
    reducer = Reducer(Marked("", lambda inputs: inputs, book.keyed_hash, PARAMS, (10,), False), batch_size=800)
    asked = [*zip(CLIENTS, own, strict=True), *zip(CLIENTS, again, strict=True)]
    requests = (
        (clean[rows], reducer.row(Origin(client, None, None), offset=offset))
        for offset, (client, rows) in enumerate(asked)
    )
    reducer.add(requests, number=0)
    reducer.files.append(FilePart("log", 0, "", 0, {}))
    reduction = reducer.reduction()
    choice = LogChoice(reduction, Selection(), 10, 1)
    chosen = choice.all()
    met_before, parties = choice.met_before(chosen), choice.parties(chosen, [])
    accumulator = TracingAccumulator(
        CHANNELS, book.keyed_hash, PARAMS, book.contrasts(), met_before=met_before, parties=parties
    )
    every = np.concatenate([rows for _, rows in asked])
    lengths = np.cumsum([0, *(len(rows) for _, rows in asked)])
    rows = every[lengths[reduction.queries["offset"][chosen]] + reduction.queries["row"][chosen]]
    accumulator.add(clean[rows], given[rows])
    found = evidence_of(accumulator, book)
    return np.array([found[client].adjusted_log10_p for client in CLIENTS])


@pytest.mark.parametrize("suspect", SUSPECTS[:2])
def test_no_client_of_an_independent_suspect_is_found_too_often(suspect):
    """25 keys; each bound fails by chance once in 1e5. 1,000 keys: `python -m tests.evidence.test_tracing`."""
    smallest = np.array([adjusted(number, suspect).min() for number in range(25)])
    for level in (0.1, 0.01):
        assert np.mean(smallest <= np.log10(level)) <= level + 4.3 * np.sqrt(level * (1 - level) / 25)


def test_the_client_whose_labels_were_kept_is_found_and_no_other():
    for number in range(3):
        *others, stolen = adjusted(number, "labels of d")
        assert stolen < -6
        assert min(others) > -2


if __name__ == "__main__":
    for name in SUSPECTS:
        found = np.array([adjusted(number, name) for number in range(1000)])
        rates = [float(np.mean(found.min(axis=1) <= np.log10(level))) for level in (0.1, 0.01, 0.001)]
        print(name, "any client at 0.1, 0.01, 0.001:", rates, "weakest of d:", found[:, 3].max())
