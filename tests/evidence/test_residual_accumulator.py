"""Which channels a suspect can be tested in, and that nothing that gathers residuals knows a sign."""

import dataclasses
import importlib
import inspect
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.evidence.residual_accumulator import CHANNELS, TRANSFORMS, ResidualAccumulator, channel_obstacles
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams

WITH_TIES = MarkParams(tie_margin=0.5)
LOGGED = CHANNELS[1:]


@pytest.mark.parametrize(
    ("params", "num_classes", "kinds", "labels", "tested"),
    [
        (MarkParams(), 10, "fresh", False, {"class"}),
        (MarkParams(tie_margin=0), 10, "both", False, {"class", "amplitude", "class-choice"}),
        (MarkParams(), 10, "both", False, {"class", "amplitude", "class-choice", "tie"}),
        (MarkParams(), 10, "logged", False, {"amplitude", "class-choice", "tie"}),
        (WITH_TIES, 32, "both", False, {"class", "amplitude", "class-choice", "tie"}),
        (WITH_TIES, 33, "both", False, {"class", "amplitude", "tie"}),
        (MarkParams(table_rows=4), 10, "logged", False, {"amplitude", "tie"}),
        (WITH_TIES, 10, "fresh", False, {"class"}),
        (WITH_TIES, 10, "logged", True, {"tie"}),
        (WITH_TIES, 2, "both", False, {"amplitude", "tie"}),
        (MarkParams(tie_margin=0), 10, "both", True, set()),
        (MarkParams(), 2, "fresh", False, set()),
        (MarkParams(amplitudes=False, tie_margin=0.1), 10, "logged", False, {"tie"}),
    ],
)
def test_channels_that_can_be_tested_and_reasons_for_the_others(params, num_classes, kinds, labels, tested):
    form = {"fresh": kinds != "logged", "logged": kinds != "fresh", "labels": labels}
    found = channel_obstacles(params, num_classes, **form)
    assert tuple(found) == CHANNELS == tuple(TRANSFORMS)
    assert {channel for channel, reason in found.items() if reason is None} == tested
    assert all(len(reason) > 20 for reason in found.values() if reason is not None)


def test_labels_are_seen_from_the_answers_whatever_their_form():
    book = codebook.expand(MarkKey(bytes(32), "x"), 10, WITH_TIES)
    rng = np.random.default_rng(0)
    clean = rng.dirichlet(np.ones(10), 50)
    forms = {"labels": clean.argmax(axis=1), "one-hot": np.eye(10)[clean.argmax(axis=1)], "soft": clean}
    for name, suspect in forms.items():
        accumulator = ResidualAccumulator(CHANNELS, book.keyed_hash, WITH_TIES, book.contrasts())
        accumulator.add(clean, suspect)
        assert accumulator.labels_only == (name != "soft")
        assert set(accumulator.residuals()) == ({"tie"} if name == "labels" else set(CHANNELS))
        fresh = ResidualAccumulator(("class",), book.keyed_hash, WITH_TIES, num_fresh=50)
        fresh.add(clean, suspect)
        assert set(fresh.residuals()) == ({"class"} if name == "soft" else set())
        assert accumulator.fidelity == 1
        assert accumulator.num_queries == 50


def test_residuals_are_the_same_whatever_the_signs():
    """Two keys with the same keyed_hash and other signs are made; the answers are given. Nothing that
    `ResidualAccumulator` is handed differs but the pairs, which hold class and amplitude signs; the class-choice
    channel's own, and the other codes'
    residuals, do not depend on any."""
    rng = np.random.default_rng(0)
    clean, suspect = rng.dirichlet(np.ones(10), 300), rng.dirichlet(np.ones(10), 300)
    book = codebook.expand(MarkKey(bytes(32), "x"), 10, WITH_TIES)
    other = dataclasses.replace(
        book, class_signs=-book.class_signs, amplitude_signs=-book.amplitude_signs, tie_signs=-book.tie_signs
    )
    asked = dataclasses.replace(book, class_choice_signs=-book.class_choice_signs, tie_signs=-book.tie_signs)
    found = []
    for codes in (book, other, asked):
        accumulator = ResidualAccumulator(CHANNELS, codes.keyed_hash, WITH_TIES, codes.contrasts(), num_fresh=100)
        accumulator.add(clean, suspect)
        found.append(accumulator.residuals())
    for channel in CHANNELS:
        np.testing.assert_array_equal(found[0][channel].values, found[2][channel].values)
        if channel != "class-choice":
            np.testing.assert_array_equal(found[0][channel].values, found[1][channel].values)


def test_modules_that_gather_residuals_import_nothing_that_holds_signs():
    """By name and by import: no parameter is a sign or key, and neither the codebook nor the key is within reach."""
    checked = 0
    for name in (
        "batch",
        "residuals",
        "meetings",
        "first_answers",
        "reference_answers",
        "regression",
        "class_channel",
        "amplitude_channel",
        "class_choice_channel",
        "tie_channel",
        "residual_accumulator",
    ):
        module = importlib.import_module(f"dynamarks_tf.evidence.{name}")
        assert not {"codebook", "key", "MarkKey", "Codebook"} & set(vars(module))
        for value in vars(module).values():
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__:
                methods = (
                    [m for _, m in inspect.getmembers(value, inspect.isfunction)] if inspect.isclass(value) else []
                )
                for function in (value, *methods):
                    for parameter in inspect.signature(function).parameters:
                        checked += 1
                        assert not {"sign", "signs", "key", "book"} & set(parameter.split("_"))
    assert checked > 50


def test_in_logs_each_sign_is_met_by_its_first_query_only():
    rng = np.random.default_rng(0)
    book = codebook.expand(MarkKey(bytes(32), "x"), 10, WITH_TIES)
    clean, suspect = rng.dirichlet(np.ones(10), 200), rng.dirichlet(np.ones(10), 200)
    once, again = (ResidualAccumulator(LOGGED, book.keyed_hash, WITH_TIES, book.contrasts()) for _ in range(2))
    once.add(clean, suspect)
    for part in (slice(None), slice(50, 150), slice(0, 60)):
        again.add(clean[part], suspect[part])
    again.add(clean[:80], rng.dirichlet(np.ones(10), 80))  # other answers to the same come too late
    for channel in LOGGED:
        np.testing.assert_allclose(
            again.residuals()[channel].values, once.residuals()[channel].values, rtol=1e-9, atol=1e-12
        )
    assert again.num_queries > once.num_queries


@pytest.mark.parametrize("num_fresh", [0, 150, 400])
def test_one_batch_leaves_nothing_to_the_next_whatever_their_sizes(num_fresh):
    """Batches share memory, which must not show."""
    rng = np.random.default_rng(1)
    book = codebook.expand(MarkKey(bytes(32), "x"), 10, WITH_TIES)
    clean, suspect = rng.dirichlet(np.ones(10), 400), rng.dirichlet(np.ones(10), 400)
    suspect[:150] = clean[:150]
    accumulators = [
        ResidualAccumulator(CHANNELS, book.keyed_hash, WITH_TIES, book.contrasts(), num_fresh=num_fresh)
        for _ in range(2)
    ]
    accumulators[0].add(clean, suspect)
    for start, stop in itertools.pairwise([0, 100, 200, 207, 208, 300, 400]):
        accumulators[1].add(clean[start:stop], suspect[start:stop])
    whole, parts = (accumulator.residuals() for accumulator in accumulators)
    for channel in CHANNELS:
        np.testing.assert_allclose(parts[channel].values, whole[channel].values, rtol=1e-7, atol=1e-9)
    assert accumulators[0].fidelity == accumulators[1].fidelity > 0.375


@settings(max_examples=24, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 19, 20, 21, 45, 46, 90]), st.booleans(), st.booleans())
def test_what_is_left_of_a_logged_answer_depends_on_the_past_alone(seed, kept, labels, with_references):
    """Other answers after it, or none, change nothing: a client may choose the next input by all signs shown so far."""
    rng = np.random.default_rng(seed)
    book = codebook.expand(MarkKey(bytes(32), "x"), 4, MarkParams(tie_margin=2.0))
    clean, suspect = rng.dirichlet(np.ones(4) * 3, (2, 120))
    later = rng.dirichlet(np.ones(4) * 3, (2, 120))
    later[0, :kept], later[1, :kept] = clean[:kept], suspect[:kept]
    references, others = rng.dirichlet(np.ones(4), (2, 120, 3))
    others[:kept] = references[:kept]
    found = []
    for each, answers, beside in (
        (clean[:kept], suspect[:kept], references[:kept]),
        (clean, suspect, references),
        (*later, others),
    ):
        accumulator = ResidualAccumulator(
            LOGGED,
            book.keyed_hash,
            MarkParams(tie_margin=2.0),
            book.contrasts(),
            with_references=with_references,
        )
        given = answers.argmax(axis=1) if labels else answers
        accumulator.add(each, given, beside if with_references else None)
        found.append(
            {
                channel: (table.cells[table.times <= kept], table.values.ravel()[table.cells][table.times <= kept])
                for channel, table in accumulator.residuals().items()
            }
        )
    assert found[0].keys() == ({"tie"} if labels else set(LOGGED))
    for channel, (cells, values) in found[0].items():
        assert len(cells) or channel != "amplitude"
        for other in found[1:]:
            np.testing.assert_array_equal(other[channel][0], cells)
            np.testing.assert_allclose(other[channel][1], values, rtol=1e-9, atol=1e-12)


def test_fresh_queries_are_the_class_channels_and_logged_ones_the_others():
    """Each channel finds what it finds when it is given its own kind of queries alone."""
    rng = np.random.default_rng(3)
    book = codebook.expand(MarkKey(bytes(32), "x"), 10, WITH_TIES)
    clean, suspect = rng.dirichlet(np.ones(10), (2, 300))
    both, fresh, logged = (
        ResidualAccumulator(CHANNELS, book.keyed_hash, WITH_TIES, book.contrasts(), num_fresh=count)
        for count in (100, 100, 0)
    )
    for start in range(0, 300, 70):
        both.add(clean[start : start + 70], suspect[start : start + 70])
    fresh.add(clean[:100], suspect[:100])
    logged.add(clean[100:], suspect[100:])
    for channel in CHANNELS:
        alone = (fresh if channel == "class" else logged).residuals()[channel]
        np.testing.assert_allclose(both.residuals()[channel].values, alone.values, rtol=1e-7, atol=1e-9)
        assert both.residuals()[channel].num_queries == alone.num_queries > 0
