"""Which query meets which secret sign first: against a slow reference, query by query."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.meetings import ClassMeetings, TieMeetings, meetings, num_class_cells, num_tie_cells
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.keyed_hash import HASH_SIZE, pair_group
from dynamarks_tf.watermark.params import MarkParams

KEY = MarkKey(bytes(range(32)), "ACME Vision")
PARAMS = MarkParams(budget=0.1, tie_margin=1.0)


def few_different_answers(rng, n, num_classes):
    """Answers of which many meet the same cells, in ties of both orders and in none."""
    kinds = rng.dirichlet(np.ones(num_classes), 6)
    p = kinds[rng.integers(0, 6, n)]
    order = np.argsort(-p, axis=1)
    each, near = np.arange(n), rng.random(n) < 0.5
    middle = (p[each, order[:, 0]] + p[each, order[:, 1]]) / 2
    gap = rng.choice([-1e-3, 1e-3], n)
    for rank, sign in ((0, 1), (1, -1)):
        p[each[near], order[near, rank]] = middle[near] + sign * gap[near]
    return p


def is_tie(p):
    second, best = np.sort(p)[-2:]
    return best - second < min((best + second) * math.tanh(PARAMS.tie_margin / 2), 2 * PARAMS.budget)


def slow_class_meetings(clean, keyed_hash, met_before):
    met, found = set(np.flatnonzero(met_before)), []
    for query, p in enumerate(clean):
        ranked = np.argsort(-p, kind="stable")
        value = int(keyed_hash.hashes(p[None])[0])
        own, other = (int(keyed_hash.group_of_class[c]) * HASH_SIZE + value for c in ranked[:2])
        if own not in met:
            found.append((query, own))
        met |= {own, other} if is_tie(p) else {own}
    return found


def slow_tie_meetings(clean, keyed_hash, met_before):
    met, found = set(np.flatnonzero(met_before)), []
    for query, p in enumerate(clean):
        low, high = sorted(np.argsort(-p, kind="stable")[:2])
        group = pair_group(low, high, keyed_hash.group_of_class, keyed_hash.num_classes, np)
        cell = int(group) * HASH_SIZE + int(keyed_hash.hashes(p[None])[0])
        if is_tie(p) and cell not in met:
            found.append((query, cell))
            met.add(cell)
    return found


@pytest.mark.parametrize("num_classes", [3, 10, 70])
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 40))
@settings(max_examples=25)
def test_first_meetings_are_those_of_the_slow_reference(num_classes, seed, batch_size):
    rng = np.random.default_rng(seed)
    keyed_hash = codebook.expand(KEY, num_classes, PARAMS).keyed_hash
    clean = few_different_answers(rng, 60, num_classes)
    before = rng.random(num_class_cells(num_classes)) < 0.2, rng.random(num_tie_cells(num_classes)) < 0.2
    of_classes = ClassMeetings(keyed_hash, PARAMS, before[0])
    of_ties = TieMeetings(keyed_hash, PARAMS.tie_margin, PARAMS.budget, before[1])
    classes, ties = [], []
    for start in range(0, len(clean), batch_size):
        part = clean[start : start + batch_size]
        batch = Batch(part, np.zeros(len(part), int))
        queries, cells = of_classes.among(batch)
        classes += zip((queries + start).tolist(), cells.tolist(), strict=True)
        _, _, queries, cells = of_ties.among(batch)
        ties += zip((queries + start).tolist(), cells.tolist(), strict=True)
    assert classes == slow_class_meetings(clean, keyed_hash, before[0])
    assert ties == slow_tie_meetings(clean, keyed_hash, before[1])


def test_a_tie_counts_for_the_cell_of_its_second_best_class_too():
    """The tie channel may have released that class as the best one, and so have shown the sign of its cell."""
    keyed_hash = codebook.expand(KEY, 10, PARAMS).keyed_hash
    tie = np.full(10, 0.02)
    tie[[3, 7]] = 0.421, 0.419
    turned = tie.copy()
    turned[[3, 7]] = tie[[7, 3]]
    assert keyed_hash.hashes(tie[None]) == keyed_hash.hashes(turned[None])
    meetings = ClassMeetings(keyed_hash, PARAMS)
    assert meetings.among(Batch(tie[None], np.zeros(1, int)))[0].tolist() == [0]
    assert meetings.among(Batch(turned[None], np.zeros(1, int)))[0].tolist() == []
    without_ties = ClassMeetings(keyed_hash, MarkParams(budget=0.1, tie_margin=0))
    assert without_ties.among(Batch(np.stack([tie, turned]), np.zeros(2, int)))[0].tolist() == [0, 1]


@settings(max_examples=40)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_the_first_of_all_meetings_are_those_of_the_slow_reference(num_classes, seed):
    """What a log is reduced by: of the first meetings, those that are a query's own are the ones that count."""
    clean = few_different_answers(np.random.default_rng(seed), 60, num_classes)
    keyed_hash = codebook.expand(KEY, num_classes, PARAMS).keyed_hash
    found = meetings(Batch(clean, np.zeros(len(clean), int)), keyed_hash, PARAMS)
    first = {}
    for query, entry, is_own in zip(*(column.tolist() for column in found), strict=True):
        first.setdefault(entry, (query, is_own))
    own = sorted((query, entry) for entry, (query, is_own) in first.items() if is_own)
    num_cells = num_class_cells(num_classes)
    of_classes = slow_class_meetings(clean, keyed_hash, np.zeros(num_cells, bool))
    assert [pair for pair in own if pair[1] < num_cells] == sorted(of_classes)
    if num_classes > 2:  # two classes have a tie hash of their own
        of_ties = slow_tie_meetings(clean, keyed_hash, np.zeros(num_tie_cells(num_classes), bool))
        assert [(query, entry - num_cells) for query, entry in own if entry >= num_cells] == sorted(of_ties)
