"""Residuals of amplitude, class-choice and tie channel: against slow references, and what they find."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.evidence import amplitude_channel, class_choice_channel
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.channels import channel_evidence
from dynamarks_tf.evidence.first_answers import FirstAnswers
from dynamarks_tf.evidence.meetings import ties
from dynamarks_tf.evidence.tie_channel import TieTable
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.keyed_hash import num_class_groups
from dynamarks_tf.watermark.params import MarkParams

KEY = MarkKey(bytes(range(32)), "ACME Vision")
MARGIN, BUDGET = 0.5, 0.05


def random_answers(rng, n, num_classes, spread=3.0):
    z = rng.normal(size=(n, num_classes)) * spread
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def near_ties(rng, n, num_classes):
    p = random_answers(rng, n, num_classes)
    order = np.argsort(-p, axis=1)
    each = np.arange(n)
    total = p[each, order[:, 0]] + p[each, order[:, 1]]
    gap = rng.uniform(-0.09, 0.09, n) * total
    p[each, order[:, 0]], p[each, order[:, 1]] = (total + gap) / 2, (total - gap) / 2
    return p


def collected(table, clean, suspect, batch_size=1000):
    for start in range(0, len(clean), batch_size):
        table.add(Batch(clean[start : start + batch_size], suspect[start : start + batch_size]))
    return table.residuals()


def kept(keyed_hash, clean, suspect, batch_size=1000):
    first = FirstAnswers(keyed_hash, MarkParams(tie_margin=0), every_class=True)
    for start in range(0, len(clean), batch_size):
        first.add(Batch(clean[start : start + batch_size], suspect[start : start + batch_size]))
    return first


def first_of_each(cells):
    """Indices of the queries that meet their sign first."""
    seen = set()
    return [i for i, cell in enumerate(cells) if not (cell in seen or seen.add(cell))]


def unexplained_by_past(features, y, groups, of_copy):
    """Row by row: ridge regression on all rows of earlier blocks, then for the row's group on what is left of these."""

    def ridge(rows, target, penalty):
        eye = np.eye(rows.shape[1])
        return np.linalg.solve(rows.T @ rows + penalty * eye, rows.T @ target)

    beyond = y - features @ of_copy
    left, ends = beyond.copy(), [0, 20, 30, 45, 67, 100, 150]
    for index in range(len(y)):
        past = slice(0, max(end for end in ends if end <= index))
        shared = ridge(features[past], beyond[past], 1.0)
        mine = groups[past] == groups[index]
        own = ridge(features[past][mine], (beyond[past] - features[past] @ shared)[mine], 3.0)
        left[index] -= features[index] @ (shared + own)
    return left


def slow_amplitude_residuals(clean, suspect, keyed_hash):
    """Query by query: what earlier answers do not explain of log(1 - s_t)."""
    cells = list(
        zip(keyed_hash.group_of_class[clean.argmax(axis=1)].tolist(), keyed_hash.hashes(clean).tolist(), strict=True)
    )
    first = first_of_each(cells)
    clean, suspect = clean[first], suspect[first]
    top = clean.argmax(axis=1)
    each = np.arange(len(clean))
    y = np.log(np.maximum(1 - suspect[each, top], 1e-8))
    x = np.log(np.maximum(1 - clean[each, top], 1e-8))[:, None] / 5
    z = np.log(np.maximum(clean[:, keyed_hash.hashed_classes[:16]], 1e-8)) / 10
    features = np.hstack([np.ones_like(x), x, x**2, z, z**2])

    of_copy = np.zeros(features.shape[1])
    of_copy[1] = 5
    group = keyed_hash.group_of_class[top]
    left = unexplained_by_past(features, y, group, of_copy)
    table = np.zeros((num_class_groups(clean.shape[1]), 4096))
    np.add.at(table, (group, keyed_hash.hashes(clean)), left)
    return table, len(first)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 10, 40]), st.integers(1, 70))
@settings(max_examples=25)
def test_amplitude_residuals_are_what_the_slow_reference_says(seed, num_classes, batch_size):
    rng = np.random.default_rng(seed)
    keyed_hash = codebook.expand(KEY, num_classes, MarkParams()).keyed_hash
    clean, suspect = random_answers(rng, 150, num_classes), random_answers(rng, 150, num_classes)
    found = amplitude_channel.residuals(kept(keyed_hash, clean, suspect, batch_size))
    expected, count = slow_amplitude_residuals(clean, suspect, keyed_hash)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.num_queries == found.num_cells == np.count_nonzero(found.values) == count


def slow_query_residuals(clean, suspect, book):
    """Class by class: the same regression as the amplitude channel's, of log s_c; then pair by pair."""
    columns = book.keyed_hash.hashes(clean)
    first = first_of_each(list(zip(clean.argmax(axis=1).tolist(), columns.tolist(), strict=True)))
    clean, suspect, columns = clean[first], suspect[first], columns[first]
    top = clean.argmax(axis=1)
    x = np.log(np.maximum(1 - clean[np.arange(len(clean)), top], 1e-8))[:, None] / 5
    z = np.log(np.maximum(clean[:, :16], 1e-8)) / 10
    features = np.hstack([np.ones_like(x), x, x**2, z, z**2])
    of_copy = np.zeros((features.shape[1], clean.shape[1]))
    for c in range(min(clean.shape[1], 16)):
        of_copy[3 + c, c] = 10
    left = unexplained_by_past(features, np.log(np.maximum(suspect, 1e-8)), top, of_copy)
    left = np.clip(left, -3, 3)
    table, count = np.zeros((clean.shape[1], 4096)), 0
    for t, column, row in zip(top, columns, left, strict=True):
        one, other = book.pairs[t, column]
        if one != other and book.amplitude_signs[t, column] > 0:
            table[t, column] = row[one] - row[other]
            count += 1
    return table, count


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 10, 32]), st.integers(1, 70))
@settings(max_examples=25)
def test_query_residuals_are_what_the_slow_reference_says(seed, num_classes, batch_size):
    rng = np.random.default_rng(seed)
    book = codebook.expand(KEY, num_classes, MarkParams())
    clean, suspect = random_answers(rng, 150, num_classes), random_answers(rng, 150, num_classes)
    first = kept(book.keyed_hash, clean, suspect, batch_size)
    found = class_choice_channel.residuals(first, book.contrasts())
    expected, count = slow_query_residuals(clean, suspect, book)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.num_queries == found.num_cells == count
    met_pairs = class_choice_channel.met_pairs(first, book.contrasts())
    met = met_pairs[..., 0] >= 0
    assert met.sum() == count
    np.testing.assert_array_equal(met_pairs[met], book.pairs[met])


def slow_tie_residuals(clean, suspect, keyed_hash):
    """Query by query, with the regression on the log-ratio by group."""
    queries = []
    for p, s in zip(clean, suspect, strict=True):
        low, high = sorted(np.argsort(-p, kind="stable")[:2])
        if abs(p[low] - p[high]) >= min((p[low] + p[high]) * math.tanh(MARGIN / 2), 2 * BUDGET):
            continue
        if np.ndim(s) == 0:
            y = 1.0 if s == low else -1.0 if s == high else 0.0
        else:
            y = float(np.clip(np.log(max(s[low], 1e-8)) - np.log(max(s[high], 1e-8)), -4, 4))
        group = high * (high - 1) // 2 + low
        column = int(keyed_hash.tie_hashes(p[None])[0])
        if (group, column) not in [query[:2] for query in queries]:
            queries.append((group, column, y, math.log(p[low] / p[high])))
    table = np.zeros((len(clean[0]) * (len(clean[0]) - 1) // 2, 4096))
    if not queries:
        return table, 0
    groups, columns, y, x = (np.array(values) for values in zip(*queries, strict=True))
    features = np.stack([np.ones_like(x), x], axis=1)
    of_copy = np.array([0.0, 0.0 if suspect.ndim == 1 else 1.0])
    table[groups, columns] = unexplained_by_past(features, y, groups, of_copy)
    return table, len(queries)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 10]), st.booleans(), st.integers(1, 70))
@settings(max_examples=25)
def test_tie_residuals_are_what_the_slow_reference_says(seed, num_classes, labels, batch_size):
    rng = np.random.default_rng(seed)
    keyed_hash = codebook.expand(KEY, num_classes, MarkParams()).keyed_hash
    clean = np.concatenate([near_ties(rng, 60, num_classes), random_answers(rng, 60, num_classes)])
    suspect = random_answers(rng, 120, num_classes)
    suspect = suspect.argmax(axis=1) if labels else suspect
    found = collected(TieTable(keyed_hash, MARGIN, BUDGET), clean, suspect, batch_size)
    expected, count = slow_tie_residuals(clean, suspect, keyed_hash)
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
    assert found.num_queries == count


def test_ties_are_those_that_the_layer_touches():
    """A row that the tie channel changed is a tie for the evidence; the reverse but for a hair's breadth."""
    from dynamarks_tf.watermark.layer import DynaMarkLayer

    rng = np.random.default_rng(0)
    p = np.concatenate([near_ties(rng, 3000, 10), random_answers(rng, 3000, 10, spread=1.0)]).astype(np.float32)
    with_ties, without = (DynaMarkLayer(KEY, BUDGET, tie_margin=margin) for margin in (MARGIN, 0))
    touched = np.abs(np.asarray(with_ties(p)) - np.asarray(without(p))).max(axis=1) > 1e-6
    _, _, found = ties(Batch(p, p), MARGIN, BUDGET)
    is_tie = np.isin(np.arange(len(p)), found)
    assert touched.sum() > 1000
    assert not (touched & ~is_tie).any()
    assert (is_tie & ~touched).sum() < 0.01 * is_tie.sum()


def suspects_of(channel, book, rng, share):
    """Answers to 4,000 queries of which a share follows the signs, as a surrogate would."""
    follows = rng.random(4000) < share
    if channel == "amplitude":
        clean = random_answers(rng, 4000, 10)
        top = clean.argmax(axis=1)
        signs = book.amplitude_signs[book.keyed_hash.group_of_class[top], book.keyed_hash.hashes(clean)]
        moved = clean * 0.95 + 0.005
        suspect = np.where(((signs > 0) & follows)[:, None], moved, clean)
        noisy = suspect * np.exp(rng.normal(size=suspect.shape) * 0.1)
        return clean, noisy / noisy.sum(axis=1, keepdims=True)
    if channel == "class-choice":
        clean = random_answers(rng, 4000, 10)
        top, columns = clean.argmax(axis=1), book.keyed_hash.hashes(clean)
        raised = np.eye(10)[book.target_classes[top, columns]]
        spent = (book.amplitude_signs[top, columns] > 0) & follows
        suspect = np.where(spent[:, None], 0.99 * clean + 0.01 * raised, clean)
        noisy = suspect * np.exp(rng.normal(size=suspect.shape) * 0.5)
        return clean, noisy / noisy.sum(axis=1, keepdims=True)
    clean = near_ties(rng, 4000, 10)
    order = np.sort(np.argsort(-clean, axis=1)[:, :2], axis=1)
    low, high = order.T
    signs = book.tie_signs[high * (high - 1) // 2 + low, book.keyed_hash.hashes(clean)]
    told = np.where(follows, signs, rng.choice([-1, 1], 4000))
    return clean, np.where(told > 0, low, high)


@pytest.mark.parametrize("channel", ["amplitude", "class-choice", "tie"])
def test_suspects_that_follow_the_signs_are_found_and_others_are_not(channel):
    """32 other keys: one of them has p <= 1e-5 with a chance of 3e-4; the seeds are fixed."""
    rng = np.random.default_rng(1)
    book = codebook.expand(KEY, 10, MarkParams())
    residuals = {
        "amplitude": lambda b, *answers: amplitude_channel.residuals(kept(b.keyed_hash, *answers)),
        "class-choice": lambda b, *answers: class_choice_channel.residuals(kept(b.keyed_hash, *answers), b.contrasts()),
        "tie": lambda b, *answers: collected(TieTable(b.keyed_hash, MARGIN, BUDGET), *answers),
    }[channel]

    def log10_p(codes, clean, suspect):
        return channel_evidence(channel, codes.signs(channel), residuals(codes, clean, suspect)).log10_p

    clean, stolen = suspects_of(channel, book, rng, share=0.3)
    assert log10_p(book, clean, stolen) < -20
    clean_of_independent, independent = suspects_of(channel, book, rng, share=0.0)
    assert log10_p(book, clean_of_independent, independent) > -3
    for name in range(32):
        other = codebook.expand(MarkKey(bytes([name + 100]) * 32, "o"), 10, MarkParams())
        assert log10_p(other, clean, stolen) > -5


def test_labels_of_unknown_classes_side_with_nobody():
    rng = np.random.default_rng(0)
    keyed_hash = codebook.expand(KEY, 10, MarkParams()).keyed_hash
    clean = near_ties(rng, 200, 10)
    found = collected(TieTable(keyed_hash, MARGIN, BUDGET), clean, np.full(200, -1))
    np.testing.assert_allclose(found.values, 0, atol=1e-12)
    assert found.num_queries > 150
