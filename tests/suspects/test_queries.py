"""Where queries come from, how some of them are chosen, and their digest."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf._support.digests import ArrayDigest, query_digest
from dynamarks_tf.errors import ArgumentError, DatasetError
from dynamarks_tf.suspects.queries import SelectedQueries, as_queries, balanced_choice, confident_balanced_choice

X = np.arange(60, dtype=np.float32).reshape(20, 3)


def collected(source, batch_size=6):
    batches = list(source.batches(batch_size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    return np.concatenate(batches)


def test_every_kind_of_source_gives_the_same_rows_twice(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "one.npz", anything=X)
    np.savez(tmp_path / "two.npz", x=X, y=np.zeros(20))
    labeled = tf.data.Dataset.from_tensor_slices((X, np.zeros(20))).batch(6)
    for given_queries in (
        X,
        X.tolist(),
        list(X),
        tf.constant(X),
        tmp_path / "x.npy",
        str(tmp_path / "one.npz"),
        tmp_path / "two.npz",
        tf.data.Dataset.from_tensor_slices(X).batch(6),
        labeled,
    ):
        source = as_queries(given_queries)
        np.testing.assert_array_equal(collected(source), X)
        np.testing.assert_array_equal(collected(source), X)


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        ((row for row in X), ArgumentError, "is a generator, which can be read only once"),
        ({"a": X, "b": X}, ArgumentError, "must be one array"),
        (tf.data.Dataset.from_tensors(X).repeat(), ArgumentError, "is an endless data set; cut it"),
        ([X, X[:3]], ArgumentError, "inputs of different shapes"),
        (3.5, ArgumentError, r"must be an array of shape \(n, ...\)"),
        (object(), ArgumentError, "Received: object"),
        ("x.csv", DatasetError, r"read from \.npy or \.npz files. Received: x\.csv"),
        ("none.npy", DatasetError, r"Cannot read queries from none\.npy"),
    ],
    ids=["generator", "mapping", "endless", "ragged", "number", "object", "text file", "no file"],
)
def test_sources_that_cannot_be_used(queries, error, message):
    with pytest.raises(error, match=message):
        as_queries(queries)


def test_unbatched_dataset_of_scalars():
    with pytest.raises(ArgumentError, match="batch the data set first"):
        list(as_queries(tf.data.Dataset.from_tensor_slices(X[:, 0])).batches(4))


def test_npz_with_several_arrays_and_a_damaged_file(tmp_path):
    np.savez(tmp_path / "many.npz", a=X, b=X)
    with pytest.raises(DatasetError, match="holds the arrays a, b; expected one, or one called 'queries' or 'x'"):
        as_queries(tmp_path / "many.npz")
    np.save(tmp_path / "whole.npy", X)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:150])
    np.savez(tmp_path / "whole.npz", x=X)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:150])
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    for name in ("cut.npy", "cut.npz", "objects.npz"):
        with pytest.raises(DatasetError, match=f"Cannot read queries from .*{name}"):
            as_queries(tmp_path / name)
    np.save(tmp_path / "single.npy", 3.5)
    with pytest.raises(DatasetError, match="holds a single value"):
        as_queries(tmp_path / "single.npy")


def test_pickled_content_is_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="Cannot read queries"):
        as_queries(tmp_path / "x.npy")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 90), st.integers(0, 9))
def test_balanced_choice_is_as_even_as_the_classes_allow(classes, count, seed):
    classes = np.array(classes)
    chosen = balanced_choice(classes, count, seed)
    assert len(chosen) == min(count, len(classes))
    assert len(np.unique(chosen)) == len(chosen)
    assert (np.diff(chosen) > 0).all()
    taken, available = np.bincount(classes[chosen], minlength=6), np.bincount(classes, minlength=6)
    # A class gives fewer than another by more than one only if it has no more to give.
    for one in range(6):
        assert taken[one] >= taken.max() - 1 or taken[one] == available[one]


def test_balanced_choice_follows_its_seed():
    classes = np.repeat(np.arange(10), 100)
    np.testing.assert_array_equal(balanced_choice(classes, 50, 3), balanced_choice(classes, 50, 3))
    assert not np.array_equal(balanced_choice(classes, 50, 3), balanced_choice(classes, 50, 4))


@given(st.sets(st.integers(0, 19), min_size=1), st.integers(1, 25))
def test_selected_queries_are_those_rows_in_order(indices, batch_size):
    source = SelectedQueries(as_queries(X), np.array(list(indices)))
    np.testing.assert_array_equal(collected(source, batch_size), X[sorted(indices)])


@given(st.integers(1, 20))
def test_the_digest_does_not_depend_on_batches_but_on_every_byte(batch_size):
    def digest(x, size=20):
        total = ArrayDigest()
        for start in range(0, len(x), size):
            total.update(x[start : start + size])
        return total.hexdigest()

    assert digest(X, batch_size) == digest(X)
    changed = X.copy()
    changed[7, 1] += 1e-3
    big_endian = X.astype(">f4")
    assert digest(big_endian) == digest(X)
    assert digest(np.asfortranarray(X)) == digest(X)
    others = [changed, X[:-1], X[::-1], X.astype(np.float64), X.reshape(20, 3, 1)]
    assert len({digest(x) for x in others} | {digest(X)}) == 6


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 8), st.integers(1, 250))
def test_confident_choice_is_balanced_and_takes_the_most_confident(seed, size, num_classes, count):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, num_classes, size)
    confidence = rng.random(size)
    chosen = confident_balanced_choice(classes, confidence, count, seed=3)
    assert len(np.unique(chosen)) == len(chosen) == min(count, size)
    np.testing.assert_array_equal(chosen, np.sort(chosen))
    np.testing.assert_array_equal(chosen, confident_balanced_choice(classes, confidence, count, seed=3))
    present = np.unique(classes)
    share = -(-count // len(present))
    for label in present:
        mine = classes == label
        rank = (confidence[mine][:, None] > confidence[chosen[classes[chosen] == label]]).sum(axis=0)
        if count <= size and all((classes == other).sum() >= share for other in present):
            assert (rank < max(-(-mine.sum() // 5), share)).all()
            assert abs((classes[chosen] == label).sum() - count / len(present)) < 1


TEXTS = ["one", "zwölf", "with zero\0"]


@pytest.mark.parametrize(
    "queries",
    [
        TEXTS,
        [text.encode() for text in TEXTS],
        np.array(TEXTS, object),
        tf.constant(TEXTS),
        (np.array(TEXTS, object), np.arange(3)),
        {"text": TEXTS, "label": [0, 1, 2]},
        tf.data.Dataset.from_tensor_slices({"text": TEXTS, "label": [0, 1, 2]}).batch(2),
    ],
    ids=["str", "bytes", "objects", "tensor", "pair", "dictionary", "dataset"],
)
def test_text_has_one_form_and_one_digest(queries):
    found = np.concatenate(list(as_queries(queries).batches(2)))
    assert found.tolist() == [text.encode() for text in TEXTS]
    assert query_digest(found) == query_digest(np.array(TEXTS, object))


def test_the_digest_of_text_does_not_depend_on_its_width_but_on_its_bounds():
    forms = [np.array([b"a", b"bc"], kind) for kind in ("S2", "S9", object)] + [np.array(["a", "bc"])]
    assert len({query_digest(form) for form in forms}) == 1
    others = [[b"ab", b"c"], [b"a", b"bc\0"], [b"a"]]
    assert len({query_digest(np.array(other, object)) for other in [*others, forms[0].tolist()]}) == 4
    with pytest.raises(ValueError, match="it holds dict objects"):
        query_digest(np.array([{}], object))
