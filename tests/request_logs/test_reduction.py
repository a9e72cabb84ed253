"""A log reduced file by file and merged in any order is the log reduced at once, and as by a plain loop."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.errors import LogError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import reduction_file
from dynamarks_tf.request_logs.reduction import (
    MANY,
    MOST_CLIENTS,
    Counts,
    FilePart,
    Form,
    Origin,
    decoded,
    encoded,
    merge,
)
from dynamarks_tf.verification.reducing import Marked, Reducer
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams

PARAMS = MarkParams()
HASH = codebook.expand(MarkKey(bytes(32), "x"), 3, PARAMS).keyed_hash
MARKED = Marked("", lambda inputs: inputs.astype(np.float64), HASH, PARAMS, (3,), False)
# Few different answers, so that files meet the same entries; three of them are ties.
ANSWERS = np.array([[0.6, 0.3, 0.1], [0.5, 0.495, 0.005], [0.499, 0.5, 0.001], [0.2, 0.2, 0.6], [0.05, 0.475, 0.475]])

requests = st.tuples(
    st.integers(0, 6),  # time
    st.sampled_from([None, *"abcdef"]),  # client
    st.integers(1, 2),  # version
    st.lists(st.integers(0, len(ANSWERS) - 1), min_size=1, max_size=4),
)
logs = st.lists(st.lists(requests, max_size=8), min_size=1, max_size=4)


def reduced(files, batch_size=256):
    """The reduction of files of requests, each of them a list."""
    reducer = Reducer(MARKED, batch_size=batch_size)
    for number, (name, file) in enumerate(files):
        latest, counts, rows = -np.inf, collections.defaultdict(Counts), []
        for offset, (time, client, version, asked) in enumerate(file):
            latest = max(latest, time)
            origin = Origin(client, "m", version)
            seen = counts[origin]
            counts[origin] = Counts(seen.requests + 1, seen.queries + len(asked))
            rows.append((ANSWERS[asked], reducer.row(origin, time=latest, offset=offset)))
        reducer.add(rows, number=number)
        reducer.files.append(FilePart(name, len(file), name * 64, 0, dict(counts)))
    return reducer.reduction()


def plainly(log):
    """For each entry, the order key of its first query and the clients that met it."""
    first, clients = {}, collections.defaultdict(set)
    for number, file in enumerate(log):
        latest = -np.inf
        for offset, (time, client, _, asked) in enumerate(file):
            latest = max(latest, time)
            for row, answer in enumerate(asked):
                one = reduced([("x", [(0, None, 1, [answer])])]).meetings
                for entry, is_own in zip(one["entry"].tolist(), one["is_own"].tolist(), strict=True):
                    key = latest, number, offset, row
                    first[entry] = min(first.get(entry, (key, is_own)), (key, is_own), key=lambda each: each[0])
                    clients[entry].add(client)
    return first, clients


def content(found, tmp_path, name):
    reduction_file.write(found, tmp_path / name, overwrite=True)
    return (tmp_path / name).read_bytes()


@settings(max_examples=60, deadline=None)
@given(log=logs)
def test_first_meetings_are_those_of_a_plain_loop(log):
    found = reduced([("abcd"[n], file) for n, file in enumerate(log)])
    first, clients = plainly(log)
    assert found.meetings["entry"].tolist() == sorted(first)
    names = found.clients
    for met in found.meetings:
        key, is_own = first[int(met["entry"])]
        assert (met["time"], met["file"], met["offset"], met["row"]) == key
        assert met["is_own"] == is_own
        known = [names[n] for n in met["clients"] if n >= 0]
        expected = clients[int(met["entry"])]
        assert (met["clients"][0] == MANY) == (len(expected) > MOST_CLIENTS)
        assert len(expected) > MOST_CLIENTS or set(known) == expected
    asked = {tuple(query) for query in found.queries[["time", "file", "offset", "row"]].tolist()}
    assert asked == {key for key, is_own in first.values() if is_own}
    for number, query in enumerate(found.queries):
        answer = ANSWERS[log[query["file"]][query["offset"]][3][query["row"]]]
        np.testing.assert_array_equal(decoded(found.inputs.read(number), found.forms[query["form"]]), answer)
    assert found.num_queries == sum(len(asked) for file in log for *_, asked in file)


@settings(max_examples=60, deadline=None)
@given(log=logs, data=st.data())
def test_merging_is_associative_commutative_idempotent_and_equal_to_the_byte(log, data, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("merged")
    files = [("abcd"[n], file) for n, file in enumerate(log)]
    at_once = reduced(files, batch_size=data.draw(st.integers(1, 5)))
    parts = [reduced([file]) for file in data.draw(st.permutations(files))]
    parts += data.draw(st.lists(st.sampled_from(parts), max_size=2))  # a task that ran twice
    while len(parts) > 1:
        size = data.draw(st.integers(2, len(parts)))
        parts = data.draw(st.permutations([merge(parts[:size]), *parts[size:]]))
    assert content(merge(parts), tmp_path, "parts") == content(at_once, tmp_path, "at-once")
    again = reduction_file.read(tmp_path / "at-once")
    assert content(again, tmp_path, "again") == content(at_once, tmp_path, "at-once")


@pytest.mark.parametrize(
    "inputs",
    [
        np.arange(12, dtype=">i2").reshape(2, 3, 2),
        np.array([[1.5, np.nan]], np.float32),
        np.array([b"", b"\0ab\0", "ü".encode()], object),
        np.array([[b"a", b"bc"], [b"", b"\0"]], object),
    ],
    ids=["big-endian", "floats", "texts", "pairs-of-texts"],
)
def test_inputs_of_every_form_come_back(inputs):
    form = Form.of(inputs)
    for row in inputs:
        again = decoded(encoded(row, form), form)
        np.testing.assert_array_equal(again, row if again.shape else np.array(row, object))
        assert again.shape == inputs.shape[1:]


def test_files_are_refused_that_were_not_written_so(tmp_path):
    path = tmp_path / "log.reduced"
    reduction_file.write(reduced([("a", [(1, "A", 1, [0, 1, 2])])]), path)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(LogError, match="exists; a reduced log is not overwritten"):
        reduction_file.write(reduced([("a", [(1, "A", 1, [0])])]), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place, bit in zip(rng.integers(0, len(whole), 300), rng.integers(0, 8, 300), strict=True):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            reduction_file.read(path)
        except LogError:
            refused += 1
    assert refused > 200  # the rest is in the archive's own fields, which nothing depends on
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(LogError):
            reduction_file.read(path)


def test_logs_of_different_models_do_not_merge():
    one = reduced([("a", [(1, "A", 1, [0])])])
    other = Reducer(Marked("another", MARKED.answers, HASH, PARAMS, (3,), False))
    with pytest.raises(LogError, match="different owner models, keys or settings"):
        merge([one, other.reduction()])


def test_more_clients_than_are_told_apart():
    asked = [(time, "abcdefgh"[time], 1, [0]) for time in range(8)]
    for log in itertools.islice(itertools.permutations(asked), 5):
        (met,) = reduced([("a", list(log))]).meetings
        assert met["clients"][0] == MANY
