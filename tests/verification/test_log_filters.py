"""Some requests of a log: first meetings come from the whole log, so that passing inputs on proves nothing."""

import hashlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.case.assessment import assess
from dynamarks_tf.errors import ArgumentError, BundleError, LogError
from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.residual_accumulator import ResidualAccumulator
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import PredictionLogWriter, open_log
from dynamarks_tf.request_logs.query_log import Selection
from dynamarks_tf.request_logs.reduction import FilePart, Origin
from dynamarks_tf.verification.log_choice import LogChoice
from dynamarks_tf.verification.reducing import Marked, Reducer
from dynamarks_tf.watermark import codebook
from tests.helpers import small_classifier
from tests.helpers.bundles import npz, rewritten

PARAMS = dm.MarkParams()


@pytest.fixture(scope="module")
def passed_on(tmp_path_factory, digits, key):
    """A whole log: A asks, and B asks the inputs that A was answered correctly. The API is weak, its mark the default.

    Returns:
        The marked API, an independent model that learned from other true labels, and the folder of the log, in which A
        was answered by version 1 and B by version 2.
    """
    weak, independent = small_classifier(seed=3), small_classifier(seed=5)
    for model, rows, epochs in ((weak, slice(0, 200), 4), (independent, slice(200, 700), 15)):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(digits.x_train[rows], digits.y_train[rows], epochs=epochs, batch_size=32, verbose=0)
    api = dm.mark(weak, key)
    inputs, labels = digits.x_train[700:], digits.y_train[700:]
    correct = inputs[api.predict(inputs, verbose=0).argmax(axis=1) == labels]
    folder = tmp_path_factory.mktemp("log")
    with PredictionLogWriter(folder) as writer:
        for version, (client, asked) in enumerate((("A", inputs), ("B", correct)), 1):
            request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
            request.inputs["image"].CopyFrom(tf.make_tensor_proto(asked))
            response.model_spec.name, response.model_spec.version.value = "clf", version
            response.outputs["p"].CopyFrom(tf.make_tensor_proto(api.predict(asked, verbose=0)))
            writer.log(request, response, client=client)
    return api, independent, folder


@pytest.mark.parametrize("selected", [{"client": "B", "version": (1, 2)}, {"version": 2}], ids=["client", "version"])
@pytest.mark.parametrize("labels", [False, True], ids=["probabilities", "labels"])
def test_inputs_that_were_passed_on_prove_nothing(passed_on, key, selected, labels):
    """With first meetings among B's requests alone, the independent model had log10 p = -6.3, labels only -9.3."""
    api, independent, folder = passed_on
    suspect = (lambda x: np.asarray(independent(x)).argmax(axis=1)) if labels else independent
    with pytest.raises(LogError, match="others had shown their signs before, so they can say nothing"):
        dm.verify(suspect, owner=api, key=key, queries=open_log(folder, **selected))


def test_what_the_selected_client_asked_first_counts(passed_on, key):
    """A was first everywhere, so the marked API itself is detected by A's requests as by the whole log."""
    api, _, folder = passed_on
    both = {"version": (1, 2)}
    of_a, whole = (
        dm.verify(api, owner=api, key=key, queries=open_log(folder, **chosen, **both))
        for chosen in ({"client": "A"}, {"client": ["A", "B"]})
    )
    assert of_a.detected()
    assert [c.num_cells for c in of_a.channels] == [c.num_cells for c in whole.channels]
    assert [c.log10_p for c in of_a.channels] == pytest.approx([c.log10_p for c in whole.channels], rel=1e-6)


def test_p_values_of_an_independent_model_hold_for_requests_of_one_client():
    """20 keys; B asks inputs close to those where A's marked answer sided with the independent model's label. With
    first meetings among B's requests alone, most p-values were below 0.1. Each bound fails by chance once in 1e5."""
    rng = np.random.default_rng(0)
    clean = rng.dirichlet(np.full(10, 0.3), 3000)
    order = np.argsort(-clean, axis=1)
    each = np.arange(len(clean))
    middle = (clean[each, order[:, 0]] + clean[each, order[:, 1]]) / 2
    gap = rng.uniform(0, 0.02, len(clean))
    clean[each, order[:, 0]], clean[each, order[:, 1]] = middle + gap, middle - gap
    suspect = np.where(rng.random(len(clean)) < 0.5, order[:, 0], order[:, 1])  # an independent model's labels
    valid, among_own = [], []
    for number in range(20):
        book = codebook.expand(MarkKey(number.to_bytes(32, "big"), "x"), 10, PARAMS)
        low, high = np.sort(order[:, :2], axis=1).T
        signs = book.tie_signs[high * (high - 1) // 2 + low, book.keyed_hash.hashes(clean)]
        passed_on = np.flatnonzero(np.where(signs > 0, low, high) == suspect)
        reducer = Reducer(Marked("", lambda x: x, book.keyed_hash, PARAMS, (10,), False), batch_size=700)
        asked = (("A", clean), ("B", clean[passed_on]))
        rows = ((inputs, reducer.row(Origin(who, None, None), offset=i)) for i, (who, inputs) in enumerate(asked))
        reducer.add(rows, number=0)
        reducer.files.append(FilePart("log", 0, "", 0, {}))
        choice = LogChoice(reducer.reduction(), Selection(clients={"B"}), 10, 1)
        for found, met_before in ((valid, choice.met_before(choice.all())), (among_own, None)):
            gathered = ResidualAccumulator(("tie",), book.keyed_hash, PARAMS, met_before=met_before)
            answers = [(clean[passed_on], suspect[passed_on])]
            found.append(assess(answers, gathered, book, rule=anytime.RULE).log10_p)
    for a in (0.1, 0.01, 0.001):
        assert np.mean(np.array(valid) <= np.log10(a)) <= a + 4.3 * np.sqrt(a * (1 - a) / 20)
    assert np.mean(np.array(among_own) <= -1) > 0.5  # so this test can fail


def test_a_bundle_holds_what_was_selected_and_is_rechecked_by_it(passed_on, key, tmp_path):
    api, _, folder = passed_on
    path = tmp_path / "bundle.zip"
    log = open_log(folder, client="A", version=(1, 2))
    result = dm.verify(api, owner=api, key=key, queries=log, bundle=path)
    (file,) = folder.iterdir()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    counted = sum(map(len, open_log(folder, version=(1, 2)).batches(100)))
    assert result.plan.log == {
        "files": [{"name": file.name, "size": file.stat().st_size, "sha256": digest}],
        "num_queries": counted,
        "clients": ["A"],
        "model": None,
        "versions": [1, 2],
    }
    for checked in (recheck.recheck(path), recheck.recheck(path, key=key)):
        assert checked.evidence == result
        assert any(
            f"of the {counted} queries of a log in 1 file(s), of selected requests only (clients: ['A']; versions: "
            "[1, 2])" in step
            for step in checked.steps
        )

    def forget_the_others(members):
        sizes = {"classes": 10 * 512, "ties": 45 * 512}
        members[bundles.MET_BEFORE] = npz(**{name: np.zeros(size, np.uint8) for name, size in sizes.items()})

    rewritten(path, tmp_path / "forged.zip", key, forget_the_others)
    with pytest.raises(BundleError, match="met_before.npz is not the one of the plan"):
        recheck.recheck(tmp_path / "forged.zip", key=key)

    def claim_the_whole_log(members):
        content = json.loads(members[bundles.EVIDENCE])
        content["plan"]["log"] = None
        members[bundles.EVIDENCE] = json.dumps(content).encode()

    rewritten(path, tmp_path / "claimed.zip", key, claim_the_whole_log)
    with pytest.raises(dm.errors.DynaMarksError):
        recheck.recheck(tmp_path / "claimed.zip", key=key)


def written_log(folder, requests):
    """A log of requests in order: the client, and the inputs that it sent."""
    with PredictionLogWriter(folder) as writer:
        for client, asked in requests:
            request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(asked))
            response.outputs["p"].CopyFrom(tf.make_tensor_proto(np.zeros((len(asked), 6), np.float32)))
            writer.log(request, response, client=client)
    return folder


@pytest.fixture(scope="module")
def any_length(key):
    """A marked model that takes sequences of any length and answers padded ones alike."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 6))
    hidden = keras.layers.Dense(24, activation="tanh")(keras.layers.GlobalMaxPooling1D()(inputs))
    return dm.mark(keras.Model(inputs, keras.layers.Dense(6, activation="softmax")(hidden)), key)


@pytest.mark.parametrize("client", [None, "B"])
def test_requests_of_another_form_were_answered_too(any_length, key, tmp_path, client):
    """B asks padded inputs, which cannot be asked beside others, and then the same without padding."""
    rows = np.random.default_rng(0).uniform(0.05, 1, (300, 4, 6)).astype(np.float32)
    padded = np.concatenate([rows, np.zeros((300, 1, 6), np.float32)], axis=1)
    folder = written_log(tmp_path / "log", [("B", rows[:1]), ("B", padded[1:]), ("B", rows[1:])])
    path, log = tmp_path / "bundle.zip", open_log(folder, client=client)
    with pytest.warns(UserWarning, match="logged queries are not asked: .* than those of the first one"):
        result = dm.verify(any_length, owner=any_length, key=key, queries=log, bundle=path)
    assert 1 <= result.num_queries <= 299  # of the first request's form, whatever others came later
    assert result.plan.log["clients"] == (None if client is None else [client])
    assert "of the 599 queries of a log in 1 file(s)" in " ".join(recheck.recheck(path, key=key).steps)


def test_other_clients_cannot_keep_a_client_from_being_tested(any_length, key, tmp_path):
    rows = np.random.default_rng(1).uniform(0.05, 1, (40, 4, 6)).astype(np.float32)
    bad = rows[:5].copy()
    bad[2] = np.nan
    alone = written_log(tmp_path / "alone", [("A", rows)])
    both = written_log(tmp_path / "both", [("evil", bad), ("A", rows)])
    whole, selected = (
        dm.verify(any_length, owner=any_length, key=key, queries=open_log(folder, client="A"))
        for folder in (alone, both)
    )
    met = {channel.channel: channel.num_cells for channel in whole.channels}
    for channel in selected.channels:
        assert channel.channel == "class" or met[channel.channel] - 4 <= channel.num_cells < met[channel.channel]


def test_fresh_queries_from_a_filtered_log_and_options_used_twice(any_length, key, tmp_path):
    rows = np.random.default_rng(2).uniform(0.05, 1, (40, 4, 6)).astype(np.float32)
    folder = written_log(tmp_path / "log", [("A", rows), ("B", rows)])
    options = dm.BundleOptions(tmp_path / "bundle.zip")
    asked = {"owner": any_length, "key": key, "queries": open_log(folder, client="A"), "logged": False}
    result = dm.verify(any_length, bundle=options, **asked)
    assert recheck.recheck(tmp_path / "bundle.zip", key=key).evidence == result
    with pytest.raises(ArgumentError, match="exists; evidence is not overwritten"):
        dm.verify(any_length, bundle=options, **asked)
