"""verify: detects surrogates and no independent models, and names what is wrong with bad input. Real images."""

import importlib.metadata
import json
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf

import dynamarks_tf as dm
from dynamarks_tf.errors import ArgumentError, DatasetError, ModelError, SuspectError
from dynamarks_tf.suspects import Suspect
from tests.helpers import small_classifier, verifying

SETTINGS = dm.MarkParams(budget=0.1, tie_margin=0)  # those of the fixture `marked_model`


def check(suspect, owner_model, key, digits, **options):
    options = {"params": SETTINGS, **options}
    return verifying.verify(suspect, owner=owner_model, key=key, queries=digits.x_test, **options)


def test_surrogates_are_detected_and_independent_models_are_not(
    digits, owner_model, key, surrogate, unmarked_surrogate
):
    evidence = check(surrogate, owner_model, key, digits)
    assert evidence.log10_p <= -7
    assert evidence.detected(alpha=1e-6)
    assert evidence.num_queries == len(digits.x_test)
    independent = small_classifier(seed=9)
    independent.compile("adam", "sparse_categorical_crossentropy")
    half = len(digits.x_train) // 2
    independent.fit(digits.x_train[half:], digits.y_train[half:], epochs=15, batch_size=32, verbose=0)
    for suspect in (unmarked_surrogate, independent, owner_model):
        evidence = check(suspect, owner_model, key, digits)
        assert evidence.log10_p > -2
        assert not evidence.detected()


def test_p_values_of_an_independent_model_are_valid_over_many_keys(digits, owner_model, unmarked_surrogate):
    """Share of keys with p <= a is at most a. 400 keys; a n + 6 sqrt(a n) is exceeded with probability < 1e-8."""
    from dynamarks_tf.evidence.batch import Batch
    from dynamarks_tf.evidence.channels import channel_evidence
    from dynamarks_tf.evidence.class_channel import ClassChannelTable
    from dynamarks_tf.watermark import codebook

    keyed_hash = codebook.expand(dm.MarkKey(bytes(32), "o"), 10, dm.MarkParams()).keyed_hash
    table = ClassChannelTable(keyed_hash, (10, 10), budget=0.05)
    clean, suspect = (model.predict(digits.x_test, verbose=0) for model in (owner_model, unmarked_surrogate))
    table.add(Batch(clean, suspect))
    found = table.residuals()
    p = []
    for index in range(400):
        book = codebook.expand(dm.MarkKey(index.to_bytes(32, "big"), "o"), 10, dm.MarkParams())
        p.append(channel_evidence("class", book.class_signs, found).log10_p)
    for alpha in (0.1, 0.01):
        assert (np.array(p) <= np.log10(alpha)).sum() <= alpha * 400 + 6 * np.sqrt(alpha * 400)


def test_another_key_gives_no_detection(digits, owner_model, other_key, surrogate):
    assert check(surrogate, owner_model, other_key, digits).log10_p > -3


def test_the_marked_model_itself_is_found(digits, owner_model, marked_model, key):
    """Its own answers show the hashed channels on any inputs; the class channel alone would need more of them."""
    assert check(marked_model, owner_model, key, digits, logged=True).log10_p <= -20


def test_clean_and_marked_owner_give_the_same_evidence(digits, owner_model, marked_model, key, surrogate, tmp_path):
    marked_model.save(tmp_path / "marked.keras")
    values = [
        check(surrogate, owner, key, digits).channels[0].statistic
        for owner in (owner_model, marked_model, tmp_path / "marked.keras")
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_balanced_choice_of_queries(digits, owner_model, key, surrogate):
    asked = []

    def spy(batch):
        asked.append(batch)
        return surrogate(batch)

    evidence = check(spy, owner_model, key, digits, max_queries=30, seed=1)
    assert evidence.num_queries == 30
    predicted = owner_model.predict(np.concatenate(asked), verbose=0).argmax(axis=1)
    np.testing.assert_array_equal(np.bincount(predicted, minlength=10), 3)
    again = check(surrogate, owner_model, key, digits, max_queries=30, seed=1)
    assert again.plan == evidence.plan
    assert again.log10_p == pytest.approx(evidence.log10_p, rel=1e-4)
    assert check(surrogate, owner_model, key, digits, max_queries=30, seed=2).plan.digest != evidence.plan.digest


def test_the_plan_is_fixed_before_the_suspect_is_asked(digits, owner_model, key):
    """Two suspects that answer differently get the same plan: nothing in it can depend on their answers."""
    flat = check(lambda x: np.full((len(x), 10), 0.1), owner_model, key, digits, max_queries=50)
    sharp = check(owner_model, owner_model, key, digits, max_queries=50)
    assert flat.plan.digest == sharp.plan.digest
    assert flat.log10_p > -0.5
    assert flat.plan.commitment == key.commitment


def test_the_plan_fixes_the_owner_model_and_how_answers_are_read(digits, owner_model, key):
    flat = lambda x: np.full((len(x), 10), 0.1)  # noqa: E731
    one = check(flat, owner_model, key, digits, max_queries=20).plan
    doctored = keras.models.clone_model(owner_model)
    doctored.set_weights([weight * 1.001 for weight in owner_model.get_weights()])
    assert check(flat, doctored, key, digits, max_queries=20).plan.digest != one.digest
    assert check(lambda x: 10 * flat(x), owner_model, key, digits, max_queries=20, suspect_from_logits=True).plan != one
    copy = keras.models.clone_model(owner_model)
    copy.set_weights(owner_model.get_weights())
    assert check(flat, copy, key, digits, max_queries=20).plan.owner_model_sha256 == one.owner_model_sha256


def test_queries_that_are_shuffled_anew_are_refused(digits, owner_model, key):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(digits.x_test).shuffle(1000, seed=1)
    with pytest.raises(ArgumentError, match="gave other inputs when they were read again.* reshuffle_each_iteration"):
        verifying.verify(owner_model, owner=owner_model, key=key, queries=dataset.batch(64))


def test_a_callable_that_works_in_place_changes_neither_queries_nor_evidence(digits, owner_model, key, surrogate):
    def in_place(batch):
        answers = np.asarray(surrogate(batch))
        batch *= 0
        return answers

    x = digits.x_test.copy()
    evidence = verifying.verify(in_place, owner=owner_model, key=key, queries=x, params=SETTINGS)
    np.testing.assert_array_equal(x, digits.x_test)
    assert evidence.log10_p == pytest.approx(check(surrogate, owner_model, key, digits).log10_p, rel=1e-4)


def test_an_owner_compiled_with_a_custom_loss_can_verify(digits, marked_model, key, surrogate):
    marked = keras.models.clone_model(marked_model)
    marked.set_weights(marked_model.get_weights())
    marked.compile("adam", lambda y, p: keras.losses.categorical_crossentropy(y, p))
    assert check(surrogate, marked, key, digits, max_queries=50).log10_p < -5


def test_an_output_in_a_dict_is_the_output(digits, owner_model, key, surrogate):
    def in_dict(model):
        inputs = keras.Input((8, 8, 1))
        return keras.Model(inputs, {"p": model(inputs)})

    plain = check(surrogate, owner_model, key, digits, max_queries=50)
    wrapped = check(in_dict(surrogate), owner_model, key, digits, max_queries=50)
    assert wrapped.log10_p == pytest.approx(plain.log10_p, rel=1e-3)
    marked = dm.mark(in_dict(owner_model), key, 0.1)
    assert check(marked, marked, key, digits, max_queries=50).log10_p < -2


def test_two_classes_hold_no_evidence(key):
    owner = small_classifier(num_classes=2)
    with pytest.raises(ArgumentError, match="There is no evidence to be had .* two classes leave only one; amplitude"):
        verifying.verify(owner, owner=owner, key=key, queries=np.zeros((4, 8, 8, 1)))


def test_tensorflow_may_have_been_installed_under_another_name(owner_model, digits, key, monkeypatch):
    """As tensorflow-cpu, tf-nightly and the like: pip then knows of no "tensorflow"."""

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    evidence = check(owner_model, owner_model, key, digits, max_queries=10)
    assert evidence.to_dict()["versions"]["tensorflow"] == tf.__version__


def test_evidence_as_json(digits, owner_model, key, surrogate, tmp_path):
    evidence = check(surrogate, owner_model, key, digits)
    evidence.save(tmp_path / "evidence.json")
    content = json.loads((tmp_path / "evidence.json").read_text())
    assert content == json.loads(json.dumps(evidence.to_dict()))
    assert (content["format"], content["version"]) == ("dynamarks-evidence", 5)
    assert content["log10_p"] == evidence.log10_p
    assert content["commitment"] == key.commitment
    assert content["plan_sha256"] == evidence.plan.digest
    assert {"tensorflow", "keras", "numpy", "dynamarks_tf"} <= content["versions"].keys()
    assert bytes(range(32)).hex() not in json.dumps(content)
    assert 0 < content["fidelity"] <= 1
    assert str(evidence.num_queries) in str(evidence)


@pytest.mark.parametrize("alpha", [0, 1, -1, 2])
def test_alpha_must_be_a_probability(digits, owner_model, key, surrogate, alpha):
    with pytest.raises(ArgumentError, match="`alpha` is a probability between 0 and 1"):
        check(surrogate, owner_model, key, digits, max_queries=10).detected(alpha)


def test_logits_of_owner_and_suspect(digits, owner_model, key, surrogate):
    def without_softmax(model):
        head = keras.layers.Dense(10)
        logits = keras.Sequential([keras.Input((8, 8, 1)), *model.layers[:-1], head])
        head.set_weights(model.layers[-1].get_weights())
        return logits

    plain = check(surrogate, owner_model, key, digits)
    owner, suspect = without_softmax(owner_model), without_softmax(surrogate)
    assert not isinstance(suspect, Suspect)
    converted = check(suspect, owner_model, key, digits, suspect_from_logits=True)
    assert converted.log10_p == pytest.approx(plain.log10_p, abs=0.1)
    marked = dm.mark(owner, key, 0.1, from_logits=True)
    itself = check(marked, owner, key, digits, from_logits=True, suspect_from_logits=True)
    assert itself.log10_p < -6
    assert check(marked, marked, key, digits, suspect_from_logits=True).log10_p == itself.log10_p
    with pytest.raises(SuspectError, match="negative values .* SuspectOptions.from_logits=True"):
        check(suspect, owner_model, key, digits)
    with pytest.raises(ModelError, match="holds no probability vectors.*say from_logits=True"):
        check(surrogate, owner, key, digits, params=None)
    by_default = check(suspect, owner, key, digits, params=None, from_logits=True, suspect_from_logits=True)
    assert (by_default.plan.budget, by_default.plan.tie_margin) == (0.05, 0.5)


def answer(values):
    return lambda x: np.asarray(values(len(x)))


def one_hot(n):
    return np.eye(10)[np.arange(n) % 10]


def with_nan(n):
    values = np.full((n, 10), 0.1)
    values[0, 3] = np.nan
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda n: np.full((n, 7), 1 / 7), "The suspect answers 7 classes, the owner model 10. Wrap the suspect"),
        (lambda n: np.full((n + 1, 10), 0.1), r"answered \d+ inputs with an array of shape"),
        (lambda n: np.full((n, 2, 10), 0.1), r"with an array of shape \(\d+, 2, 10\)"),
        (with_nan, "answered 1 of 256 inputs with NaN or infinity"),
        (lambda n: np.zeros(n, np.int64), "answers labels, not probabilities.* class channel: the suspect answers"),
        (lambda n: np.zeros((n, 1)), "answers labels, not probabilities"),
        (lambda n: np.full(n, 0.5), r"one value for each input, such as 0\.5, which is no class index"),
        (lambda n: np.array(["cat"] * n), "answers class names, such as 'cat'. Say which class .*--class-names FILE"),
        (lambda n: np.full((n, 2), "cat"), "answers text of shape"),
        (lambda n: np.zeros((n, 10), complex), "values of type complex128; expected numbers or class names"),
        (one_hot, "answers labels, not probabilities"),
        (lambda n: np.full((n, 10), -0.1), "negative values .*SuspectOptions.from_logits=True"),
        (lambda n: np.full((n, 10), 3.0), "sum to between 30 and 30"),
    ],
)
def test_answers_that_are_no_evidence(values, message, digits, owner_model, key):
    with pytest.raises(SuspectError, match=message):
        check(answer(values), owner_model, key, digits)


def test_rounded_and_truncated_answers_are_evidence(digits, owner_model, key, marked_model):
    def top_3_rounded(x):
        p = np.array(marked_model(x))
        p[np.argsort(-p, axis=1).argsort(axis=1) >= 3] = 0
        return p.round(2)

    assert check(top_3_rounded, owner_model, key, digits).num_queries == len(digits.x_test)


@pytest.fixture(scope="module")
def with_ties(owner_model, key):
    return dm.mark(owner_model, key, 0.1, tie_margin=0.5)


NAMES = [f"digit {number}" for number in range(10)]


def labels_of(model, form="indices"):
    """A model as an API that answers labels only, in one of the forms in which APIs do."""

    def answer(batch):
        labels = np.asarray(model(batch, training=False)).argmax(axis=1)
        return {
            "indices": labels,
            "a column of floats": labels[:, None].astype(np.float32),
            "names": np.array([NAMES[label] for label in labels]),
            "names as bytes": np.array([NAMES[label].encode() for label in labels], object),
            "one-hot": np.eye(10)[labels],
        }[form]

    return answer


@pytest.mark.parametrize("form", ["indices", "a column of floats", "names", "names as bytes", "one-hot"])
def test_a_suspect_that_answers_labels_is_tested_in_the_tie_code(form, digits, owner_model, with_ties, key):
    """The marked API itself sides with every sign; the clean model with none."""
    options = {"owner": with_ties, "key": key, "queries": digits.x_train, "logged": True, "class_names": NAMES}
    stolen = verifying.verify(labels_of(with_ties, form), **options)
    assert stolen.log10_p <= -8
    assert stolen.answers == "labels"
    assert stolen.channels[-1].channel == "tie"
    if form != "one-hot":  # of which it could be the first answers only, so no channel is left out
        assert len(stolen.channels) == 1
        assert "labels only" in stolen.untested["amplitude"]
    assert stolen.fidelity > 0.9
    independent = verifying.verify(labels_of(owner_model, form), **options)
    assert independent.log10_p > -2
    assert independent.fidelity == 1


def test_what_cannot_succeed_with_labels_is_refused_before_anything_is_asked(digits, owner_model, with_ties, key):
    def never(batch):
        raise AssertionError("was asked")

    options = {"owner": with_ties, "key": key, "queries": digits.x_test, "suspect_labels": True}
    with pytest.raises(
        ArgumentError, match="class channel: the suspect answers labels only.* tie channel: it needs logged"
    ):
        verifying.verify(never, **options)
    with pytest.raises(ArgumentError, match="tie channel: the model was marked without it .tie_margin is 0."):
        verifying.verify(never, **{**options, "owner": owner_model, "logged": True, "params": SETTINGS})


def test_names_that_nobody_knows_and_answers_of_two_kinds(digits, with_ties, key):
    options = {"owner": with_ties, "key": key, "queries": digits.x_train, "logged": True}
    others = [f"number {number}" for number in range(10)]
    with pytest.raises(SuspectError, match="None of the suspect's labels is among the 10 classes.* such as 'number 0'"):
        verifying.verify(labels_of(with_ties, "names"), class_names=others, **options)
    for names, message in (
        (["zero", "one"], "one text for each of the 10 classes, in the owner's order. Received: 2 entries"),
        (["same"] * 10, "must be different for each class. Received: 'same' twice"),
        ("0123456789", "one text for each of the 10 classes"),
    ):
        with pytest.raises(ArgumentError, match=message):
            verifying.verify(labels_of(with_ties, "names"), class_names=names, **options)

    def knows_all_but_the_last(batch):
        return next(strange) if len(batch) == 1 else labels_of(with_ties, "names")(batch)

    strange = iter([np.array(["a horse"])])
    verifying.verify(knows_all_but_the_last, class_names=NAMES, batch_size=len(digits.x_train) - 1, **options)
    turns = iter([True, *[False] * 100])

    def changes_its_mind(batch):
        return np.asarray(with_ties(batch)) if next(turns) else labels_of(with_ties)(batch)

    with pytest.raises(SuspectError, match="some batches with labels and others with probabilities"):
        verifying.verify(changes_its_mind, **options)


def test_logged_queries_are_tested_in_the_hashed_channels_and_fresh_ones_in_the_class_channel(digits, with_ties, key):
    def channels(**options):
        found = verifying.verify(with_ties, owner=with_ties, key=key, queries=digits.x_train, **options)
        return {channel.channel: channel.log10_p for channel in found.channels}

    logged = channels(logged=True)
    assert list(logged) == ["amplitude", "class-choice", "tie"]
    assert max(logged.values()) < -6
    assert list(channels()) == ["class"]


def test_class_names_are_part_of_the_plan(digits, with_ties, key):
    options = {"owner": with_ties, "key": key, "queries": digits.x_train, "logged": True}
    one = verifying.verify(labels_of(with_ties, "names"), class_names=NAMES, **options)
    other = verifying.verify(labels_of(with_ties, "names"), class_names=NAMES[::-1], **options)
    assert one.plan.digest != other.plan.digest


def test_labels_that_cannot_help_are_seen_in_the_first_batch(digits, owner_model, key):
    asked = []

    def labels(batch):
        asked.append(batch)
        return np.zeros(len(batch), np.int64)

    with pytest.raises(SuspectError, match="answers labels, not probabilities.* tie_margin above 0 sent"):
        check(labels, owner_model, key, digits, batch_size=50)
    assert len(asked) == 1


def test_a_client_who_repeats_convenient_inputs_causes_no_detection(digits, owner_model, key):
    """The log then depends on the signs: the client repeats inputs whose marked answer agrees with their label, exactly
    and slightly changed. Each sign counts once, by the first query that met it."""
    rng = np.random.default_rng(0)
    weak = small_classifier(seed=3)
    weak.compile("adam", "sparse_categorical_crossentropy")
    weak.fit(digits.x_train[:200], digits.y_train[:200], epochs=4, batch_size=32, verbose=0)
    api = dm.mark(weak, key, 0.1, tie_margin=0.5)
    x, y = digits.x_train[200:], digits.y_train[200:]
    liked = x[api.predict(x, verbose=0).argmax(axis=1) == y]
    changed = [(liked + rng.normal(size=liked.shape) * 1e-4).astype(np.float32) for _ in range(10)]
    log = np.concatenate([x, *[liked] * 10, *changed])
    options = {"owner": api, "key": key, "logged": True}
    for suspect in (owner_model, labels_of(owner_model)):
        once = verifying.verify(suspect, queries=x, **options)
        again = verifying.verify(suspect, queries=log, batch_size=4096, **options)
        assert again.log10_p > -3
        assert again.log10_p == pytest.approx(once.log10_p, abs=1.5)
        for max_queries in (500, 3000):  # a random part would meet the signs that were repeated, and few others
            assert verifying.verify(suspect, queries=log, max_queries=max_queries, **options).log10_p > -3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_queries": 1.5}, "`max_queries` must be a whole number, at least 1. Received: max_queries=1.5"),
        ({"max_queries": 0}, "at least 1. Received: max_queries=0"),
        ({"batch_size": "a"}, "`batch_size` must be a whole number"),
        ({"seed": -1}, "`seed` must be a whole number, at least 0"),
        ({"alpha": "x"}, "`alpha` is a probability between 0 and 1"),
        ({"alpha": 2}, "`alpha` is a probability between 0 and 1"),
        ({"timeout_s": "x"}, "`timeout_s` must be a number of seconds"),
    ],
    ids=str,
)
def test_arguments_outside_their_range_are_refused_before_anything_runs(digits, owner_model, key, options, message):
    def never(batch):
        raise AssertionError("was asked")

    with pytest.raises(ArgumentError, match=message):
        check(never, owner_model, key, digits, **options)


def test_numbers_of_numpy_are_numbers(digits, owner_model, key, surrogate, tmp_path):
    options = {"max_queries": np.int64(20), "seed": np.int64(1), "logged": np.bool_(False), "alpha": np.float64(1e-3)}
    evidence = check(surrogate, owner_model, key, digits, batch_size=np.int32(7), **options)
    evidence.save(tmp_path / "evidence.json")
    assert json.loads((tmp_path / "evidence.json").read_text())["plan"]["max_queries"] == 20


def test_growth_and_queries_needed(digits, owner_model, key, surrogate, unmarked_surrogate):
    evidence = check(surrogate, owner_model, key, digits)
    counts = [point.num_queries for point in evidence.growth]
    assert counts == [10, 20, 50, 100, 200, len(digits.x_test)]
    assert evidence.growth[-1].log10_p == evidence.log10_p
    needed = evidence.queries_needed()
    assert needed in counts
    assert evidence.detected()
    for point in evidence.growth:
        assert point.log10_p <= -6 or point.num_queries < needed
    first = verifying.verify(surrogate, owner=owner_model, key=key, queries=digits.x_test[:50], params=SETTINGS)
    assert first.log10_p == pytest.approx(evidence.growth[2].log10_p, abs=1e-6)
    assert evidence.queries_needed(alpha=1e-300) is None
    assert check(unmarked_surrogate, owner_model, key, digits).queries_needed() is None


def test_evidence_can_be_read_back_and_damage_is_seen(digits, owner_model, key, surrogate):
    from dynamarks_tf.case.result import VerificationResult
    from dynamarks_tf.errors import FormatError

    evidence = check(surrogate, owner_model, key, digits, max_queries=30)
    content = json.loads(json.dumps(evidence.to_dict()))
    assert VerificationResult.from_dict(content, "e.json") == evidence
    for damaged, message in (
        ({**content, "format": "x"}, "is not evidence"),
        ({**content, "version": 1}, "is evidence of version 1; this release reads version 5"),
        ({key: value for key, value in content.items() if key != "growth"}, "its entry growth is missing"),
        ({**content, "detected": not content["detected"]}, "its entries contradict each other"),
        ({**content, "plan": {**content["plan"], "version": 1}}, "its entry plan.version is 1, not 7"),
        ({**content, "plan": {**content["plan"], "rule": "chernoff/1"}}, "made with rule 'chernoff/1'"),
        ({**content, "plan": {}}, "its entry plan.format is missing"),
    ):
        with pytest.raises(FormatError, match=message):
            VerificationResult.from_dict(damaged, "e.json")


def other_input_model():
    return keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    )


def test_wrong_queries(digits, owner_model, key, surrogate):
    with pytest.raises(
        ArgumentError, match=r"`queries` have shape \(28, 28, 1\) each; the owner model takes \(8, 8, 1\)"
    ):
        verifying.verify(surrogate, owner=owner_model, key=key, queries=np.zeros((5, 28, 28, 1)), max_queries=3)
    for options in ({}, {"max_queries": 10}):
        with pytest.raises(ArgumentError, match="holds no inputs. Pass at least one"):
            verifying.verify(surrogate, owner=owner_model, key=key, queries=np.zeros((0, 8, 8, 1)), **options)
    with pytest.raises(DatasetError, match="Cannot read queries"):
        verifying.verify(surrogate, owner=owner_model, key=key, queries="none.npy")
    with pytest.raises(ArgumentError, match="`timeout_s` must be a number of seconds above 0"):
        check(surrogate, owner_model, key, digits, timeout_s=0)
    with pytest.raises(ArgumentError, match="at least 1. Received: batch_size=0"):
        check(surrogate, owner_model, key, digits, batch_size=0)


def test_suspect_with_another_input_shape(digits, owner_model, key):
    with pytest.raises(SuspectError, match=r"suspect takes inputs of shape \(28, 28, 1\), the owner model \(8, 8, 1\)"):
        check(other_input_model(), owner_model, key, digits)


def test_owner_models_that_cannot_be_used(digits, owner_model, key, other_key, surrogate, marked_model):
    with pytest.raises(ModelError, match="was marked with another key .* Use the key that the served model"):
        check(surrogate, marked_model, other_key, digits)
    with pytest.raises(ModelError, match="DynaMarkLayer with blank tables"):
        check(surrogate, keras.models.clone_model(marked_model), key, digits)
    with pytest.raises(ArgumentError, match="`owner` must be the owner's Keras model"):
        check(surrogate, lambda x: x, key, digits)
    with pytest.raises(ModelError, match="There is no Keras model file"):
        check(surrogate, "none.keras", key, digits)
    with pytest.raises(ArgumentError, match="`key` must be a MarkKey; load one by"):
        check(surrogate, owner_model, "acme.key", digits, params=None)
    with pytest.raises(SuspectError, match="answers 10 classes, the owner model 4"):
        check(surrogate, small_classifier(num_classes=4), key, digits)


def test_memory_does_not_grow_with_the_number_of_queries(key):
    """Verifying ten times as many queries allocates hardly more at its peak."""
    import tensorflow as tf

    owner = small_classifier(num_classes=100)

    def peak(batches):
        one = np.random.default_rng(0).random((256, 8, 8, 1), np.float32)
        source = tf.data.Dataset.from_tensors(one).repeat(batches)
        tracemalloc.start()
        try:
            verifying.verify(owner, owner=owner, key=key, queries=source)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # traces and imports
    assert peak(100) < 1.3 * peak(10) + 1_000_000
