"""The guarantees of the mark, for every input: property tests against a slow reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook, lookups, perturbation
from dynamarks_tf.watermark.layer import DynaMarkLayer
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import reference

KEY = MarkKey(bytes(range(32)), "ACME Vision")
CLASS_COUNTS = [2, 3, 10, 100, 1000, 100_000]
BUDGETS = [0.001, 0.05, 0.5]
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
_LAYERS = {}


def layer_for(num_classes, budget=0.05, from_logits=False, **options):
    options = {"tie_margin": 0.0, **options}
    identity = (num_classes, budget, from_logits, tuple(options.items()))
    if num_classes == 2 and not (options.get("amplitudes", True) or options["tie_margin"]):
        pytest.skip("two classes then leave nothing to mark, which the layer refuses")
    if identity not in _LAYERS:
        _LAYERS[identity] = DynaMarkLayer(KEY, budget, from_logits, **options)
        _LAYERS[identity].build((None, num_classes))
    return _LAYERS[identity]


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def random_logits(seed, num_classes, rows=4):
    """Rows of every temper: nearly flat, ordinary, nearly certain; every fourth has an exact tie at the top."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, num_classes)) * rng.choice([1e-4, 1.0, 5.0, 30.0], size=(rows, 1))
    for row in z[::4]:
        row[rng.integers(0, num_classes, size=2)] = row.max()
    return z.astype(np.float32)


def many_rows(num_classes):
    """How many rows a property is tried on, in one batch."""
    return min(80, 2_000_000 // num_classes)


OPTIONS = [{"amplitudes": False}, {}, {"tie_margin": 0.5}, {"tie_margin": 2.0, "amplitudes": False}]


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_marked_probabilities_keep_every_guarantee(num_classes, budget, options):
    p = softmax(random_logits(11, num_classes, many_rows(num_classes)).astype(np.float64)).astype(np.float32)
    marked = np.asarray(layer_for(num_classes, budget, **options)(p))
    assert marked.dtype == np.float32
    assert (marked >= 0).all()
    assert np.abs(marked.sum(axis=-1, dtype=np.float64) - p.sum(axis=-1, dtype=np.float64)).max() < 1e-5
    assert total_variation(p, marked).max() <= budget + 1e-5
    assert_top_1_changes_in_ties_only(p, marked, budget, options.get("tie_margin", 0.0))


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_marked_logits_keep_every_guarantee(num_classes, options):
    z = random_logits(12, num_classes, many_rows(num_classes))
    marked = np.asarray(layer_for(num_classes, from_logits=True, **options)(z))
    p, released = softmax(z.astype(np.float64)), softmax(marked.astype(np.float64))
    assert total_variation(p, released).max() <= 0.05 + 1e-5
    assert_top_1_changes_in_ties_only(p, marked, 0.05, options.get("tie_margin", 0.0), top=z.argmax(axis=-1))


def released_scores(scores, from_logits, **options):
    layer = DynaMarkLayer(KEY, activation="sigmoid", from_logits=from_logits, **options)
    return np.asarray(layer(scores))


@pytest.mark.parametrize("num_labels", [1, 3, 40])
@pytest.mark.parametrize("options", [{}, {"tie_margin": 0.0}, {"amplitudes": False}], ids=str)
@pytest.mark.parametrize("from_logits", [False, True])
def test_marked_scores_keep_every_guarantee_for_each_label(num_labels, options, from_logits):
    rng = np.random.default_rng(13)
    z = np.float32(rng.normal(size=(500, num_labels)) * rng.choice([0.05, 1.0, 6.0, 30.0], size=(500, 1)))
    sigmoid = lambda logits: 0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))  # noqa: E731
    s = z if from_logits else sigmoid(z).astype(np.float32)
    marked = released_scores(s, from_logits, **options)
    assert marked.dtype == s.dtype
    assert marked.shape == s.shape
    before, after = (sigmoid(v) if from_logits else v.astype(np.float64) for v in (s, marked))
    assert (after >= 0).all()
    assert (after <= 1).all()
    assert np.abs(after - before).max() <= 0.05 + 1e-5  # of each label: |s' - s| is the total variation
    threshold = 0.0 if from_logits else 0.5
    changed = (marked > threshold) != (s > threshold)
    assert (np.abs(before - 0.5)[changed] <= (0.05 + 1e-6 if options.get("tie_margin", 0.5) else 0.0)).all()


def test_each_label_is_marked_by_signs_of_its_own_and_a_nan_spoils_its_label_alone():
    s = np.tile(np.random.default_rng(8).uniform(0.01, 0.4, (400, 1)), (1, 3)).astype(np.float32)
    moved = np.abs(released_scores(s, False) - s) > 1e-4
    assert 0.35 < moved.mean() < 0.65  # the amplitude channel leaves half of them alone
    assert (moved[:, 0] != moved[:, 1]).mean() > 0.3
    s[0, 1] = np.nan
    assert np.isnan(released_scores(s, False)).sum() == 1


def test_one_sigmoid_is_marked_as_the_softmax_over_two_classes_is():
    s = np.random.default_rng(9).uniform(0, 1, (500, 1)).astype(np.float32)
    pairs = np.concatenate([1 - s, s], axis=1)
    as_pairs = np.asarray(DynaMarkLayer(KEY)(pairs))
    np.testing.assert_allclose(released_scores(s, False), as_pairs[:, 1:], atol=1e-7)


def test_two_classes_without_amplitudes_and_ties_are_refused():
    with pytest.raises(ArgumentError, match="nothing to mark"):
        DynaMarkLayer(KEY, tie_margin=0.0, amplitudes=False).build((None, 2))


def assert_top_1_changes_in_ties_only(p, marked, budget, margin, top=None):
    """Without a margin, never; with one, only to a runner-up within margin and budget of the best class."""
    each = np.arange(len(p))
    top = p.argmax(axis=-1) if top is None else top
    new = marked.argmax(axis=-1)
    if not margin:
        np.testing.assert_array_equal(new, top)
    changed = new != top
    lost, won = p[each, top][changed].astype(np.float64), p[each, new][changed].astype(np.float64)
    assert (won >= np.sort(p, axis=-1)[changed, -2]).all()
    assert (np.log(lost / won) <= margin + 1e-6).all()
    assert (lost - won <= 2 * budget + 1e-6).all()


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("num_classes", [2, 3, 10, 12, 200])
def test_the_tie_channel_is_what_the_slow_reference_says(num_classes, from_logits):
    """On rows that the amplitude channel leaves alone: their sign is -1, so that only the tie channel acts."""
    rng = np.random.default_rng(14)
    z = rng.normal(size=(400, num_classes)) * 2
    z[:, :2] = z.max(axis=1, keepdims=True) + rng.normal(size=(400, 2)) * 0.2
    z = rng.permuted(z, axis=1).astype(np.float64)
    p = softmax(z)
    book = codebook.expand(KEY, num_classes, MarkParams(tie_margin=0.5))
    released = np.asarray(layer_for(num_classes, 0.05, from_logits, tie_margin=0.5)(z if from_logits else p))
    released = softmax(released) if from_logits else released
    material = reference.hash_material(bytes(range(32)), "ACME Vision", num_classes)
    met = 0
    for row, found in zip(p, released, strict=True):
        low, high = sorted(np.argsort(-row, kind="stable")[:2])
        column = reference.hash_value(row, material)
        group = book.keyed_hash.group_of_class
        if book.amplitude_signs[group[row.argmax()], column] > 0:
            continue
        pair = high * (high - 1) // 2 + low if num_classes <= 11 else (13 * group[low] + group[high]) % 64
        tie_column = reference.tie_hash_value(row, material)
        expected = reference.tie_channel(row, book.tie_signs[pair, tie_column], 0.5, 0.05)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        met += not np.array_equal(expected, row)
    assert met or num_classes == 2  # half of the rows are left, most of them ties


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("num_classes", [3, 10, 40])
def test_the_winner_of_a_tie_stays_ahead_of_all_others(num_classes, dtype):
    """With a third class as near as the two: the class channel may raise any of the others, and does not overtake."""
    rng = np.random.default_rng(15)
    p = softmax(rng.normal(size=(1000, num_classes)) * rng.choice([0.1, 1.0, 3.0], size=(1000, 1))).astype(dtype)
    for row in p:
        near = rng.permutation(num_classes)[:3]
        row[near] = row.max() * (1 - rng.choice([0, 1, 2, 300], size=3) * EPSILON[dtype])
    marked = np.asarray(layer_for(num_classes, tie_margin=0.5)(p)).astype(np.float64)
    winner = winners_of_ties(p, num_classes, MarkParams(tie_margin=0.5))[:, None]
    lead = np.take_along_axis(marked, winner, axis=1)[:, 0]
    np.put_along_axis(marked, winner, -1, axis=1)
    lead -= marked.max(axis=1)
    assert (lead >= 0).all()
    assert dtype == "float16" or (lead > 0).all()  # which leaves rows alone that it cannot part


def winners_of_ties(p, num_classes, params):
    """The best class of each row once ties are decided."""
    tables = lookups.tables_from(codebook.expand(KEY, num_classes, params), params)
    values = ops.cast(p, perturbation.arithmetic_dtype(str(p.dtype)))
    best = perturbation.best_two(values)
    secret = perturbation.find_secret(values, best, tables, params)
    tie = perturbation.decide_tie(best, secret, params, str(p.dtype))
    return np.asarray(perturbation.after_tie(values, best, tie, secret)[1].top)


@pytest.mark.parametrize("num_classes", [3, 40, 300])
@pytest.mark.parametrize("from_logits", [False, True])
def test_certain_outputs_keep_their_best_class(num_classes, from_logits):
    """All classes but one have probability 0, so a search for the second best may come upon the first again."""
    certain = np.eye(num_classes, dtype=np.float32)
    given = np.log(certain + np.float32(1e-45)) if from_logits else certain
    marked = np.asarray(layer_for(num_classes, tie_margin=0.5, from_logits=from_logits)(given))
    marked = softmax(marked) if from_logits else marked
    np.testing.assert_allclose(marked.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(marked.argmax(axis=1), np.arange(num_classes))
    assert 0.5 * np.abs(marked - certain).sum(axis=1).max() <= 0.05 + 1e-6


def test_the_gap_of_a_tie_does_not_tell_whether_the_sign_decided():
    """Gaps spread evenly over the margin stay so; 20,000 ties, the largest deviation of the distribution is below
    2.2 / sqrt(n) but for once in 10,000 (Kolmogorov-Smirnov)."""
    rng = np.random.default_rng(0)
    gap = rng.uniform(-0.1, 0.1, 20_000)
    p = np.stack([0.45 + gap / 2, 0.45 - gap / 2, *rng.dirichlet(np.ones(8), 20_000).T * 0.1], axis=1)
    released = np.asarray(layer_for(10, tie_margin=0.5, budget=0.05)(p))
    quiet = np.abs(released[:, 2:] - p[:, 2:]).max(axis=1) < 1e-9  # the class channel left these alone
    after = np.sort(np.abs(released[quiet, 0] - released[quiet, 1])) / 0.1
    assert quiet.sum() > 5000
    assert np.abs(after - np.arange(len(after)) / len(after)).max() < 2.2 / np.sqrt(len(after))
    changed = (released[quiet].argmax(axis=1) != p[quiet].argmax(axis=1)).mean()
    assert 0.47 < changed < 0.53


def test_the_amplitude_channel_marks_half_of_the_inputs_with_the_whole_budget():
    p = softmax(random_logits(3, 10, rows=4000).astype(np.float64) + 8 * np.eye(10)[np.arange(4000) % 10])
    moved = total_variation(p, np.asarray(layer_for(10)(p)))
    left_alone = moved < 1e-12
    assert 0.45 < left_alone.mean() < 0.55  # four deviations of a fair sign: 0.03, and hashed inputs share signs
    rows = np.random.default_rng(4).dirichlet(np.full(40, 0.05), 4000)  # too many classes to raise a single one
    moved = total_variation(rows, np.asarray(layer_for(40)(rows)))
    constant = total_variation(rows, np.asarray(layer_for(40, amplitudes=False)(rows)))
    np.testing.assert_allclose(moved[moved > 1e-12], constant[moved > 1e-12])


@pytest.mark.parametrize(("num_classes", "from_logits"), [(3, False), (10, False), (10, True), (32, False)])
def test_up_to_32_classes_each_input_raises_the_single_class_that_the_reference_names(num_classes, from_logits):
    book = codebook.expand(KEY, num_classes, MarkParams())
    material = reference.hash_material(bytes(range(32)), "ACME Vision", num_classes)
    raised_by = reference.raised(bytes(range(32)), "ACME Vision", book.class_signs)
    z = (
        random_logits(6, num_classes, rows=200).astype(np.float64)
        + 6 * np.eye(num_classes)[np.arange(200) % num_classes]
    )
    p = softmax(z)
    marked = np.asarray(layer_for(num_classes, from_logits=from_logits)(z if from_logits else p))
    marked = softmax(marked) if from_logits else marked
    raised = 0
    for clean, released in zip(p, marked, strict=True):
        if np.abs(clean - released).max() < 1e-9:
            continue
        wanted = raised_by[int(clean.argmax())][reference.hash_value(clean, material)]
        gap = clean.max() - clean[wanted]
        strength = min(0.05, gap / (gap + 1))  # no further than to a tie with the best class
        expected = (1 - strength) * clean + strength * np.eye(num_classes)[wanted]
        np.testing.assert_allclose(released, expected, atol=1e-6)
        raised += 1
    assert raised > 50


def test_every_favored_class_is_raised_for_its_share_of_the_columns():
    """Of 4,096 columns with a fair sign each; five deviations fail once in 30,000 keys, and the key is fixed."""
    book = codebook.expand(KEY, 10, MarkParams())
    for top, foci in enumerate(book.target_classes):
        favored = [c for c in range(10) if c != top and book.class_signs[top, c] > 0]
        counts = np.bincount(foci, minlength=10)
        assert np.flatnonzero(counts).tolist() == favored
        assert np.abs(counts[favored] - 4096 / len(favored)).max() < 5 * np.sqrt(4096) / 2


@given(
    hnp.arrays(np.float32, (3, 7), elements=st.floats(0, 1, width=32)).filter(lambda p: (p.sum(axis=-1) > 0.1).all()),
    st.sampled_from(BUDGETS),
)
@settings(max_examples=40)
def test_guarantees_hold_for_adversarial_vectors(weights, budget):
    p = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    marked = np.asarray(layer_for(7, budget)(p))
    assert (marked >= 0).all()
    assert np.abs(marked.sum(axis=-1) - 1).max() < 1e-5
    assert total_variation(p, marked).max() <= budget + 1e-6
    np.testing.assert_array_equal(marked.argmax(axis=-1), p.argmax(axis=-1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_guarantees_hold_in_every_floating_point_type(dtype, num_classes):
    import ml_dtypes

    numpy_type = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    p = softmax(random_logits(16, num_classes, rows=100).astype(np.float64)).astype(numpy_type)
    marked = np.asarray(layer_for(num_classes)(p))
    assert marked.dtype == numpy_type
    wide, released = p.astype(np.float64), marked.astype(np.float64)
    assert (released >= 0).all()
    # Each released value is rounded once, by half an epsilon of itself, so the distance by at most that in total.
    assert total_variation(wide, released).max() <= 0.05 + EPSILON[dtype] + 1e-6
    np.testing.assert_array_equal(released.argmax(axis=-1), wide.argmax(axis=-1))


@pytest.mark.parametrize("num_classes", [2, 3, 10, 60])
def test_the_class_channel_is_what_the_slow_reference_says(num_classes):
    _agrees_with_reference(num_classes, MarkParams())


def test_the_class_code_with_shared_rows_and_columns_is_what_the_slow_reference_says():
    _agrees_with_reference(40, MarkParams(table_rows=7, table_columns=5))


def _agrees_with_reference(num_classes, params):
    book = codebook.expand(KEY, num_classes, params)
    z = random_logits(17, num_classes, rows=48)
    p = softmax(z[np.arange(48) % 4 > 0].astype(np.float64))  # without the rows of ties
    layer = layer_for(num_classes, table_rows=params.table_rows, table_columns=params.table_columns, amplitudes=False)
    marked = np.asarray(layer(p))
    rows, columns = book.keyed_hash.row_of_class, book.keyed_hash.column_of_class
    for row, released in zip(p, marked, strict=True):
        expected = reference.class_channel(row, book.class_signs, rows, columns, 0.05)
        # The reference tries strengths in steps of 0.05 / 20000.
        np.testing.assert_allclose(released, expected, atol=6e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_certain_answer_is_no_tie(dtype):
    """All probability on one class, the first included: the runner-up has none, whichever it is."""
    p = np.eye(10).astype(dtype)
    with_ties, without = (np.asarray(layer_for(10, tie_margin=margin)(p)) for margin in (2.0, 0.0))
    np.testing.assert_array_equal(with_ties, without)


def test_float64_outputs_keep_sum_and_budget_to_their_own_precision():
    p = softmax(random_logits(2, 7, rows=500).astype(np.float64))
    marked = np.asarray(layer_for(7, amplitudes=False)(p))
    assert np.abs(marked.sum(axis=1) - 1).max() < 1e-14
    assert total_variation(p, marked).max() <= 0.05 + 1e-14


def test_the_whole_budget_is_spent_on_a_confident_answer():
    p = np.full((1, 10), 0.001, np.float32)
    p[0, 3] = 0.991
    marked = np.asarray(layer_for(10, 0.05, amplitudes=False)(p))
    favored = marked[0] > p[0]
    assert 0 < favored.sum() < 9
    np.testing.assert_allclose(total_variation(p, marked), 0.05 * total_variation(favored / favored.sum(), p))


def test_a_near_tie_with_a_favored_class_is_left_alone_and_a_clear_lead_is_not():
    book = codebook.expand(KEY, 10, MarkParams())
    top = 0
    rival = int(np.flatnonzero(book.class_signs[top, 1:] > 0)[0]) + 1
    p = np.zeros((2, 10))
    p[0, [top, rival]] = np.nextafter(0.5, 1), 0.5
    p[1, [top, rival]] = 0.6, 0.4
    marked = np.asarray(layer_for(10, amplitudes=False)(p))
    np.testing.assert_array_equal(marked[0], p[0])
    assert total_variation(p, marked)[1] > 0.04
    assert marked[1].argmax() == top


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("from_logits", [False, True])
def test_a_lead_of_one_unit_in_the_last_place_is_kept(dtype, from_logits):
    """The rival may be favored or not and stand before or behind the top class."""
    import ml_dtypes

    numpy_type = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    rng = np.random.default_rng(18)
    p = softmax(rng.normal(size=(2000, 10)) * rng.choice([0.1, 1.0, 3.0], size=(2000, 1))).astype(numpy_type)
    for row in p:
        top, rival = rng.permutation(10)[:2]
        row[rival] = row.max()
        row[top] = np.nextafter(row[rival], numpy_type.type(1) if dtype != "bfloat16" else numpy_type(1))
    values = np.log(p.astype(np.float64)).astype(numpy_type) if from_logits else p
    marked = np.asarray(layer_for(10, from_logits=from_logits, amplitudes=False)(values)).astype(np.float64)
    np.testing.assert_array_equal(marked.argmax(axis=-1), values.astype(np.float64).argmax(axis=-1))


def assert_bad_numbers_spoil_their_own_rows_only(layer, mode, values, bad_numbers):
    """Every bad number stands once in every class, each time in a row of its own, between rows without any."""
    import tensorflow as tf

    call = layer if mode == "eager" else tf.function(lambda x: layer(x), jit_compile=mode == "XLA")
    clean = np.asarray(call(values))
    spoiled = np.arange(len(values)) % 2 == 1
    places = [(bad, place) for bad in bad_numbers for place in range(values.shape[1])]
    for row, (bad, place) in zip(np.flatnonzero(spoiled), places, strict=True):
        values[row, place] = bad
    marked = np.asarray(call(values))
    assert np.isnan(marked[spoiled]).all()
    np.testing.assert_array_equal(marked[~spoiled], clean[~spoiled])


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
def test_nan_or_infinity_spoils_its_own_row_only(from_logits, mode):
    bad = [np.nan, np.inf] if from_logits else [np.nan, np.inf, -np.inf]  # as a logit, -inf is a probability of 0
    values = random_logits(0, 10, rows=20 * len(bad))
    layer = layer_for(10, from_logits=from_logits)
    assert_bad_numbers_spoil_their_own_rows_only(layer, mode, values if from_logits else softmax(values), bad)


@pytest.mark.parametrize("mode", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("num_classes", [2, 10, 11, 12, 40])
def test_nan_or_infinity_spoils_its_own_row_only_with_ties_too(num_classes, mode):
    """In the last class it once named a pair of classes that there is not, an error for the whole batch."""
    values = softmax(random_logits(0, num_classes, rows=4 * num_classes))
    layer = layer_for(num_classes, tie_margin=0.5)
    assert_bad_numbers_spoil_their_own_rows_only(layer, mode, values, [np.nan, np.inf])


def test_the_same_query_gets_the_same_answer_alone_and_in_a_batch():
    p = softmax(random_logits(5, 100, rows=16))
    layer = layer_for(100)
    together = np.asarray(layer(p))
    alone = np.concatenate([np.asarray(layer(p[i : i + 1])) for i in range(16)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("shape", [(0,), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("from_logits", [False, True])
def test_leading_axes_are_arbitrary(shape, from_logits):
    values = random_logits(1, 10, rows=24)[: int(np.prod(shape))].reshape(*shape, 10)
    values = values if from_logits else softmax(values) if values.size else values
    layer = layer_for(10, from_logits=from_logits)
    marked = np.asarray(layer(values))
    assert marked.shape == values.shape
    np.testing.assert_array_equal(marked.reshape(-1, 10), np.asarray(layer(values.reshape(-1, 10))))


def total_variation(p, q):
    return np.abs(np.asarray(p, np.float64) - np.asarray(q, np.float64)).sum(axis=-1) / 2
