"""The keyed hash: what it is, that both sides agree on it, and that it does not mind float noise."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook, keyed_hash
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import reference

SECRET, OWNER = bytes(range(32)), "ACME Vision"
KEY = MarkKey(SECRET, OWNER)


def keyed_hash_for(num_classes):
    return codebook.expand(KEY, num_classes, MarkParams()).keyed_hash


def random_answers(seed, n, num_classes):
    z = np.random.default_rng(seed).normal(size=(n, num_classes)) * 5
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4, 5, 6, 10, 33, 200]))
@settings(max_examples=40)
def test_columns_are_what_the_slow_reference_says(seed, num_classes):
    p = random_answers(seed, 20, num_classes)
    material = reference.hash_material(SECRET, OWNER, num_classes)
    found = keyed_hash_for(num_classes).hashes(p)
    assert found.tolist() == [reference.hash_value(row, material) for row in p]
    in_ties = keyed_hash_for(num_classes).tie_hashes(p)
    assert in_ties.tolist() == [reference.tie_hash_value(row, material) for row in p]
    assert ((found >= 0) & (found < keyed_hash.HASH_SIZE)).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 5, 10, 33, 200]), st.sampled_from([np.float16, np.float32]))
@settings(max_examples=60)
def test_columns_of_single_precision_are_those_of_the_same_numbers_in_double(seed, num_classes, dtype):
    """Also where logarithms fall on the edge of a step, or as near to it as the precision can say."""
    rng = np.random.default_rng(seed)
    secret = keyed_hash_for(num_classes)
    p = random_answers(seed, 300, num_classes).astype(dtype)
    hashed = secret.hashed_classes
    edges = np.exp(rng.integers(-19, 1, (200, len(hashed))) - secret.offsets.astype(np.float64))
    p[:200, hashed] = edges.astype(dtype)
    for row in range(200):  # neighbors of one of them
        p[row, hashed[row % len(hashed)]] = np.nextafter(p[row, hashed[row % len(hashed)]], dtype(row % 3))
    p[200:210] = np.array([0, 1, 1e-8, 1.01, 2, np.inf, np.nan, -1, 1e-7, 1 - 1e-7])[:, None].astype(dtype)
    np.testing.assert_array_equal(secret.hashes(p), secret.hashes(p.astype(np.float64)))
    np.testing.assert_array_equal(secret.hashes(np.asfortranarray(p)), secret.hashes(p.astype(np.float64)))


def test_marking_in_float32_and_verification_in_float64_agree():
    p = random_answers(0, 100_000, 10)
    secret = keyed_hash_for(10)
    single = keyed_hash.hash_value(
        ops.convert_to_tensor(p, "float32"), ops.array(secret.offsets), ops.array(secret.multipliers), 1.0, ops
    )
    assert (ops.convert_to_numpy(single) != secret.hashes(p)).mean() < 2e-4


def test_noise_of_float_arithmetic_hardly_ever_matters_and_other_inputs_get_other_columns():
    p = random_answers(1, 100_000, 10)
    secret = keyed_hash_for(10)
    noisy = p * np.exp(np.random.default_rng(2).normal(size=p.shape) * 1e-5)
    assert (secret.hashes(noisy) != secret.hashes(p)).mean() < 1e-3
    # Shares of columns: 100,000 inputs in 4,096 columns.
    counts = np.bincount(secret.hashes(p), minlength=keyed_hash.HASH_SIZE)
    assert (counts > 0).mean() > 0.95
    assert counts.max() < 300
    other = secret.hashes(random_answers(3, 100_000, 10))
    assert (other == secret.hashes(p)).mean() < 0.01


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5])
def test_few_classes_meet_many_entries_that_float_noise_hardly_changes(num_classes):
    """10,000 answers, as sure as those of a trained model; the noise is that between batch sizes and runtimes."""
    p = random_answers(6, 10_000, num_classes).astype(np.float32)
    secret = keyed_hash_for(num_classes)
    groups = secret.class_groups(p.argmax(axis=1), None)
    assert len(np.unique(groups * keyed_hash.HASH_SIZE + secret.hashes(p))) >= 2000
    noise = np.random.default_rng(7).normal(size=p.shape) * 1e-6
    noisy = np.float32(p * np.exp(noise))
    if num_classes == 2:  # as of a sigmoid, whose rest is rounded
        z = np.log(p[:, 1].astype(np.float64) / p[:, 0]) + noise[:, 1]
        s, p1 = np.float32(1 / (1 + np.exp(-z))), p[:, 1]
        noisy, p = np.stack([1 - s, s], axis=1), np.stack([1 - p1, p1], axis=1)
    assert (secret.hashes(noisy) != secret.hashes(p)).mean() < 5e-3
    assert (secret.tie_hashes(noisy) != secret.tie_hashes(p)).mean() < 2e-2


def test_labels_have_entries_of_their_own():
    secret = codebook.expand(KEY, 2, MarkParams(), 40).keyed_hash
    labels, classes = np.arange(40), np.zeros(40, int)
    groups = secret.class_groups(classes, labels)
    assert (groups % 2 == 0).all()
    assert groups.max() < 64
    assert len(np.unique(groups)) > 15  # 40 labels in 32 groups
    few = codebook.expand(KEY, 2, MarkParams(), 10).keyed_hash
    pairs = {(label, c): few.class_groups(np.array([c]), np.array([label]))[0] for label in range(10) for c in (0, 1)}
    assert sorted(pairs.values()) == list(range(20))
    assert few.tie_groups(classes[:10], classes[:10] + 1, labels[:10]).tolist() == list(range(10))


def test_small_matrix_precision_does_not_matter():
    """Steps and multipliers are whole numbers of at most 6 bits, so a product in bfloat16 is exact."""
    p = random_answers(4, 1000, 10).astype(np.float32)
    secret = keyed_hash_for(10)
    logs = np.log(np.clip(p, keyed_hash.FLOOR, 1))
    steps = np.floor(logs + secret.offsets)
    for values in (steps, secret.multipliers):
        rounded = ops.convert_to_numpy(ops.cast(ops.cast(ops.array(values), "bfloat16"), "float32"))
        np.testing.assert_array_equal(rounded, values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 2.0, 0.0])
def test_columns_are_in_range_for_any_number(bad):
    p = random_answers(5, 4, 10)
    p[1, 3] = bad
    found = keyed_hash_for(10).hashes(p)
    assert ((found >= 0) & (found < keyed_hash.HASH_SIZE)).all()


@pytest.mark.parametrize("num_classes", [2, 3, 10, 11, 12, 64, 65, 1000])
def test_pairs_have_groups_in_range_and_their_own_while_they_fit(num_classes):
    group_of_class = keyed_hash_for(num_classes).group_of_class
    low, high = np.triu_indices(num_classes, 1)
    groups = keyed_hash.pair_group(low, high, group_of_class, num_classes, np)
    size = keyed_hash.num_pair_groups(num_classes)
    assert ((groups >= 0) & (groups < size)).all()
    assert len(np.unique(groups)) == size if num_classes != 12 else len(np.unique(groups)) > 40
    on_keras = keyed_hash.pair_group(
        ops.array(low, "int32"), ops.array(high, "int32"), ops.array(group_of_class), num_classes, ops
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(on_keras), groups)
    assert keras.backend.backend() == "tensorflow"


def test_repr_shows_nothing_secret():
    assert repr(keyed_hash_for(10)) == "<KeyedHash for 10 classes>"
