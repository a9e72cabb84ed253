"""The expansion of a key into tables: golden vectors, fairness, class maps."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams, class_channel_floor_log10
from tests.helpers import GOLDEN, reference

HASHED = json.loads((GOLDEN / "codebook_v2.json").read_text())["keys"]
QUERY = json.loads((GOLDEN / "codebook_v4.json").read_text())["keys"]
VECTORS = json.loads((GOLDEN / "codebook_v1.json").read_text())["keys"]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["owner"] for v in VECTORS])
def test_tables_match_the_golden_vectors_of_an_independent_implementation(vector):
    key = MarkKey(bytes.fromhex(vector["secret_hex"]), vector["owner"])
    small = codebook.expand(key, 10, MarkParams())
    expected = [1 if sign == "+" else -1 for sign in vector["signs_10x10"]]
    np.testing.assert_array_equal(small.class_signs.ravel(), expected)
    for which in ("rows", "columns"):
        mapped = codebook.class_map(key, f"class-code/{which}", 5000, 1024)
        np.testing.assert_array_equal(mapped[:8], vector[f"{which}_5000_to_1024_first"])


@pytest.mark.parametrize("vector", HASHED, ids=[v["owner"] for v in HASHED])
def test_hashed_tables_match_the_golden_vectors_of_an_independent_implementation(vector):
    key = MarkKey(bytes.fromhex(vector["secret_hex"]), vector["owner"])
    for size, expected in vector["codebooks"].items():
        book = codebook.expand(key, int(size), MarkParams())
        assert book.amplitude_signs.shape == tuple(expected["amplitude_shape"])
        assert book.tie_signs.shape == tuple(expected["tie_shape"])
        for signs, first in ((book.amplitude_signs, "amplitude_first"), (book.tie_signs, "tie_first")):
            assert "".join("+" if sign > 0 else "-" for sign in signs.ravel()[:64]) == expected[first]
        assert book.keyed_hash.hashed_classes.tolist() == expected["classes"]
        assert book.keyed_hash.offsets.tolist() == expected["offsets"]
        assert book.keyed_hash.multipliers.tolist() == expected["multipliers"]
        assert book.keyed_hash.group_of_class[:16].tolist() == expected["groups_first"]


@pytest.mark.parametrize("vector", QUERY, ids=[v["owner"] for v in QUERY])
def test_pairs_match_the_golden_vectors_of_an_independent_implementation(vector):
    key = MarkKey(bytes.fromhex(vector["secret_hex"]), vector["owner"])
    for size, expected in vector["query"].items():
        book = codebook.expand(key, int(size), MarkParams())
        if int(size) == 2:  # nothing to choose since format 5
            assert book.pairs is None
            continue
        assert [row[:12] for row in book.pairs.tolist()] == expected["pairs_first"]
        assert [row[:32] for row in book.target_classes.tolist()] == expected["raised_first"]
        assert (
            hashlib.sha256(json.dumps(book.target_classes.tolist()).encode()).hexdigest() == expected["raised_sha256"]
        )
    shared = codebook.expand(key, 100, MarkParams(table_rows=1024))
    assert shared.class_signs.shape == (2, 100)
    assert shared.keyed_hash.row_of_class[:16].tolist() == vector["rows_100_to_2_first"]


def test_classes_share_one_row_beyond_32_unless_a_number_of_rows_is_set(key):
    shapes = {n: MarkParams().table_shape(n) for n in (2, 32, 33, 50, 199, 1000, 5000)}
    assert (shapes[2], shapes[32]) == ((2, 2), (32, 32))
    assert [shapes[n] for n in (33, 50, 199, 1000, 5000)] == [(1, 33), (1, 50), (1, 199), (1, 1000), (1, 1024)]
    several = {n: MarkParams(table_rows=1024).table_shape(n)[0] for n in (32, 33, 50, 199, 200, 1000)}
    assert several == {32: 32, 33: 7, 50: 4, 199: 2, 200: 1, 1000: 1}
    assert codebook.expand(key, 50, MarkParams()).keyed_hash.row_of_class.tolist() == [0] * 50


def test_inputs_raise_all_favored_classes_where_there_are_many_or_no_amplitudes(key):
    assert codebook.expand(key, 32, MarkParams()).target_classes is not None
    assert codebook.expand(key, 33, MarkParams()).target_classes is None
    assert codebook.expand(key, 10, MarkParams(amplitudes=False)).target_classes is None
    shared = codebook.expand(key, 10, MarkParams(table_rows=4))
    assert shared.target_classes is None
    assert shared.pairs is None
    assert shared.contrasts() is None
    with pytest.raises(ArgumentError, match="no class-choice channel"):
        shared.signs("class-choice")


def test_a_class_channel_that_favors_a_single_class_leaves_the_class_choice_channel_nothing_to_choose():
    for name in range(64):
        book = codebook.expand(MarkKey(bytes([name]) * 32, "x"), 3, MarkParams())
        counts = book.favored_counts()
        for top, count in enumerate(counts):
            distinct = len(np.unique(book.target_classes[top]))
            assert distinct == max(count, 1)
            assert (book.contrasts()[top] >= 0).any() == (count > 1)


def test_all_pairs_come_equally_often_and_are_tested_where_the_budget_is_spent(key):
    book = codebook.expand(key, 10, MarkParams())
    tested = book.contrasts()
    for top in range(10):
        n = int(book.favored_counts()[top])
        _, counts = np.unique(book.pairs[top], axis=0, return_counts=True)
        assert len(counts) == max(n * (n - 1), 1)
        assert counts.max() - counts.min() <= 1
        spent = (book.amplitude_signs[top] > 0) & (n > 1)
        np.testing.assert_array_equal(tested[top][spent], book.pairs[top][spent])
        assert (tested[top][~spent] == -1).all()


def test_the_golden_vectors_are_what_the_reference_gives_today():
    for vector in HASHED:
        secret = bytes.fromhex(vector["secret_hex"])
        for size, expected in vector["codebooks"].items():
            material = reference.hash_material(secret, vector["owner"], int(size))
            assert {name: expected[name] for name in material} == material
    for vector in QUERY:
        secret = bytes.fromhex(vector["secret_hex"])
        for size, expected in vector["query"].items():
            signs = reference.class_signs(secret, vector["owner"], int(size))
            table = reference.raised(secret, vector["owner"], signs)
            assert hashlib.sha256(json.dumps(table).encode()).hexdigest() == expected["raised_sha256"]
        drawn = reference.words(secret, vector["owner"], "class-code/rows/100to2", 16)
        assert vector["rows_100_to_2_first"] == [word * 2 >> 32 for word in drawn]


def test_channels_have_signs_of_their_own(key):
    book = codebook.expand(key, 64, MarkParams())
    assert book.amplitude_signs.shape == book.tie_signs.shape
    # The sum of 262,144 products of fair signs has deviation 512; six deviations fail once in 10^9 keys.
    assert abs((book.amplitude_signs * book.tie_signs).sum(dtype=np.int64)) < 6 * 512


@pytest.mark.parametrize("num_classes", [2, 3, 10, 31, 32])
def test_classes_map_to_themselves_while_they_fit(key, num_classes):
    book = codebook.expand(key, num_classes, MarkParams())
    assert book.class_signs.shape == (num_classes, num_classes)
    np.testing.assert_array_equal(book.keyed_hash.row_of_class, np.arange(num_classes))
    np.testing.assert_array_equal(book.keyed_hash.column_of_class, np.arange(num_classes))


@pytest.mark.parametrize(
    ("num_classes", "shape"), [(33, (7, 33)), (100, (2, 100)), (1000, (1, 1000)), (100_000, (1, 1024))]
)
def test_many_classes_share_few_rows(key, num_classes, shape):
    book = codebook.expand(key, num_classes, MarkParams(table_rows=1024))
    assert book.class_signs.shape == shape
    assert set(np.unique(book.keyed_hash.row_of_class)) == set(range(shape[0]))


def test_many_classes_share_columns_evenly_and_independently_of_rows(key):
    book = codebook.expand(key, 100_000, MarkParams())
    counts = np.bincount(book.keyed_hash.column_of_class, minlength=1024)
    # Chi-square with 1023 degrees of freedom: mean 1023, deviation 45; six deviations fail once in 10^9 keys.
    assert abs(((counts - 100_000 / 1024) ** 2 / (100_000 / 1024)).sum() - 1023) < 6 * 45.3
    rows, columns = (codebook.class_map(key, f"class-code/{which}", 100_000, 1024) for which in ("rows", "columns"))
    assert (rows == columns).mean() < 0.01


def test_signs_are_fair(key):
    signs = codebook.signs(key, "class-code/signs", 1000, 1000)
    assert set(np.unique(signs)) == {-1, 1}
    # The sum of 10^6 fair signs has deviation 1000; six deviations fail once in 10^9 keys.
    assert abs(signs.sum(dtype=np.int64)) < 6000
    assert abs((signs * np.roll(signs, 1, axis=1)).sum(dtype=np.int64)) < 6000


def test_tables_of_two_keys_agree_in_half_of_their_cells(key, other_key):
    one, two = (codebook.signs(k, "class-code/signs", 1000, 1000) for k in (key, other_key))
    assert abs((one * two).sum(dtype=np.int64)) < 6000


@given(st.integers(2, 40), st.integers(1, 12), st.integers(1, 12))
def test_favored_counts_are_what_counting_gives(num_classes, rows, columns):
    key = MarkKey(bytes(32), "ACME")
    book = codebook.expand(key, num_classes, MarkParams(table_rows=rows, table_columns=columns))
    counted = [
        sum(
            book.class_signs[book.keyed_hash.row_of_class[t], book.keyed_hash.column_of_class[c]] > 0
            for c in range(num_classes)
            if c != t
        )
        for t in range(num_classes)
    ]
    np.testing.assert_array_equal(book.favored_counts(), [1, 1] if num_classes == 2 else counted)


@pytest.mark.parametrize("num_classes", [1, 0])
def test_fewer_than_two_classes_are_refused(key, num_classes):
    with pytest.raises(ArgumentError, match="needs at least 2"):
        codebook.expand(key, num_classes, MarkParams())


def test_codebook_repr_shows_no_sign(key):
    assert repr(codebook.expand(key, 10, MarkParams())) == "<Codebook for 10 classes, 10 x 10 class signs>"


@pytest.mark.parametrize("budget", [0, -0.1, 0.51, 1, float("nan"), "0.1", None, True])
def test_budget_outside_its_range_is_refused(budget):
    with pytest.raises(ArgumentError, match=r"`budget` is the largest total variation .*at most 0\.5\. Received"):
        MarkParams(budget=budget)


def test_numbers_of_numpy_are_numbers():
    params = MarkParams(np.float32(0.25), np.int64(4), np.int32(5))
    assert (type(params.budget), type(params.table_rows)) == (float, int)
    assert params == MarkParams(0.25, 4, 5)


@pytest.mark.parametrize("margin", [-0.1, 2.1, float("nan"), "0.1", None, True])
def test_tie_margin_outside_its_range_is_refused(margin):
    with pytest.raises(ArgumentError, match=r"`tie_margin` is the largest .* from 0 .* to 2\.0\. Received"):
        MarkParams(tie_margin=margin)


def test_amplitudes_are_on_or_off():
    with pytest.raises(ArgumentError, match="`amplitudes` must be True or False. Received: amplitudes=0.5"):
        MarkParams(amplitudes=0.5)
    assert MarkParams().channels == ("class", "amplitude", "class-choice", "tie")
    assert MarkParams(tie_margin=0).channels == ("class", "amplitude", "class-choice")
    assert MarkParams(tie_margin=0.3, amplitudes=False).channels == ("class", "tie")


@pytest.mark.parametrize("size", [0, 65537, 2.5, "8"])
def test_table_sizes_outside_their_range_are_refused(size):
    with pytest.raises(ArgumentError, match="`table_rows` must be a whole number from 1 to 65536"):
        MarkParams(table_rows=size)


def test_smallest_possible_p_value_counts_the_signs():
    assert class_channel_floor_log10(2, MarkParams()) == 0
    assert class_channel_floor_log10(10, MarkParams()) == pytest.approx(-90 * np.log10(2))
    assert class_channel_floor_log10(100_000, MarkParams()) == pytest.approx(-1024 * np.log10(2))
    assert class_channel_floor_log10(100, MarkParams()) == pytest.approx(-100 * np.log10(2))
    assert class_channel_floor_log10(100, MarkParams(table_rows=2)) == pytest.approx(-200 * np.log10(2))
