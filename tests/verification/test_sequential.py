"""Sequential tests: they stop when it is enough, go on where they stopped, and can be extended."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case import transcript_chain as chains
from dynamarks_tf.errors import ArgumentError, BundleError, FormatError, SuspectError, TranscriptError
from dynamarks_tf.verification.blocks import block_ends, in_blocks
from dynamarks_tf.verification.owner import resolve_owner
from tests.helpers.bundles import rewritten

SMALL = dm.SuspectOptions(batch_size=32)


class Counting:
    """A suspect that counts its questions, and fails once if it is told to."""

    def __init__(self, model, fail_after=None):
        self._model, self._fail_after = model, fail_after
        self.asked = 0

    def __call__(self, batch):
        if self._fail_after is not None and self.asked >= self._fail_after:
            self._fail_after = None
            raise OSError("connection lost")
        self.asked += len(batch)
        return np.asarray(self._model(batch, training=False))


@pytest.fixture(scope="module")
def owner(marked_model, key):
    return resolve_owner(marked_model, key)


@pytest.fixture
def verify(owner, key, digits):
    """A sequential test of fresh queries."""

    def run(suspect, count=300, **options):
        arguments = {"sequential": True, "suspect_options": SMALL, **options}
        return dm.verify(suspect, owner=owner, key=key, queries=digits.x_test[:count], **arguments)

    return run


def test_it_stops_when_the_evidence_is_enough_and_not_before(verify, surrogate, owner_model):
    suspect, independent = Counting(surrogate), Counting(owner_model)
    found, nothing = verify(suspect, alpha=1e-3), verify(independent, alpha=1e-3)
    assert found.detected()
    assert found.num_queries == suspect.asked < 300
    assert found.log10_p == -found.log10_e <= -3
    earlier = [point.log10_p for point in found.growth[:-1]]
    assert all(p > -3 for p in earlier)
    assert independent.asked == nothing.num_queries == 300
    assert not nothing.detected()
    assert found.plan.num_queries == nothing.plan.num_queries == 300
    assert found.plan.looks == (10, 20, 50, 100, 200, 300)


def test_evidence_never_shrinks_and_is_shown_while_it_grows(verify, surrogate, capsys):
    result = verify(Counting(surrogate), alpha=1e-100, verbose=True)
    grown = [point.log10_p for point in result.growth]
    assert grown == sorted(grown, reverse=True)
    assert grown[-1] == result.log10_p < grown[0]
    shown = [line for line in capsys.readouterr().err.splitlines() if "questions, log10 p" in line]
    assert shown[0].startswith("10 of 300 questions")
    assert shown[-1].startswith("300 of 300 questions")
    assert f"log10 p = {result.log10_p:.2f}; enough at -100.00" in shown[-1]


def test_a_bundle_of_a_test_that_stopped_can_be_checked(verify, surrogate, key, tmp_path):
    bundle = dm.BundleOptions(tmp_path / "case.zip", include_queries=True)
    result = verify(surrogate, alpha=1e-3, bundle=bundle)
    for checked in (recheck.recheck(bundle.path), recheck.recheck(bundle.path, key=key)):
        assert checked.evidence == result
        assert any(f"The records of {result.num_queries} queries" in step for step in checked.steps)

    def skip_a_block(members):
        head = json.loads(members[chains.HEAD])
        head["blocks"][0], head["blocks"][1] = head["blocks"][1], head["blocks"][0]
        members[chains.HEAD] = json.dumps(head).encode()

    rewritten(bundle.path, tmp_path / "forged.zip", key, skip_a_block)
    with pytest.raises(TranscriptError, match="its blocks of queries are not those of the plan"):
        recheck.recheck(tmp_path / "forged.zip")

    def forget_the_last(members):
        last = max(name for name in members if name.startswith("batches/"))
        for name in chains.batch_names(int(last[8:14])):
            del members[name]

    rewritten(bundle.path, tmp_path / "shorter.zip", key, forget_the_last)
    with pytest.raises(BundleError):
        recheck.recheck(tmp_path / "shorter.zip", key=key)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("log10_e", 300.0, "no signs give the e-value that is stated"),
        ("log10_e", math.inf, "no signs give the e-value|malformed|no number of JSON"),
        ("growth", -1.0, "does not end in the result"),
        ("statistic", 1e9, "is larger than it can be"),
    ],
)
def test_without_the_key_only_what_signs_can_give_may_be_stated(
    verify, surrogate, key, tmp_path, entry, value, message
):
    verify(surrogate, 60, alpha=1e-100, bundle=tmp_path / "case.zip")

    def state(members):
        evidence = json.loads(members["evidence.json"])
        if entry == "log10_e":
            evidence["log10_e"], evidence["log10_p"] = value, -value
            evidence["growth"][-1]["log10_p"] = -value
            evidence["detected"] = -value <= -100
        elif entry == "growth":
            evidence["growth"][-1]["log10_p"] = value
        else:
            evidence["channels"][0]["statistic"] = value
            evidence["channels"][0]["agreement"] = value / evidence["channels"][0]["largest_possible"]
        evidence["queries_needed"] = evidence["num_queries"] if evidence["detected"] else None
        members["evidence.json"] = json.dumps(evidence).encode()

    rewritten(tmp_path / "case.zip", tmp_path / "forged.zip", key, state)
    with pytest.raises((BundleError, FormatError), match=message):
        recheck.recheck(tmp_path / "forged.zip")


def test_an_interrupted_test_goes_on_with_the_same_outcome(verify, surrogate, tmp_path):
    whole = verify(Counting(surrogate), alpha=1e-100)
    path = tmp_path / "case.zip"
    broken = Counting(surrogate, fail_after=40)
    with pytest.raises(SuspectError, match="the same call goes on from there"):
        verify(broken, alpha=1e-100, bundle=path)
    again = Counting(surrogate)
    result = verify(again, alpha=1e-100, bundle=path)
    assert broken.asked + again.asked == 300
    assert result.log10_e == pytest.approx(whole.log10_e, rel=1e-12)


def test_a_finished_test_is_extended_as_if_it_had_been_planned_so(verify, surrogate, key, tmp_path):
    """Twice extended; the evidence grows over all questions, none of which is asked twice."""
    first, second, third = (tmp_path / name for name in ("1.zip", "2.zip", "3.zip"))
    options = {"alpha": 1e-100}
    verify(Counting(surrogate), 37, bundle=first, **options)
    asked = Counting(surrogate)
    verify(asked, 120, bundle=dm.BundleOptions(second, extends=first), **options)
    result = verify(asked, 300, bundle=dm.BundleOptions(third, extends=second), **options)
    assert asked.asked == 300 - 37
    assert result.plan.looks == (10, 20, 37, 50, 100, 200)  # the new ends were chosen after evidence was seen
    checked = recheck.recheck(third, key=key)
    assert checked.evidence == result
    assert any("It extends a sequential test: 37 questions planned at" in step for step in checked.steps)
    grown = [point.log10_p for point in result.growth]
    assert grown == sorted(grown, reverse=True)

    with pytest.raises(ArgumentError, match="One suspect's answers say nothing of another"):
        verify(
            lambda batch: surrogate(batch), 300, bundle=dm.BundleOptions(tmp_path / "4.zip", extends=third), **options
        )

    def of_another_suspect(members):
        for name in (chains.HEAD, "evidence.json"):
            content = json.loads(members[name])
            content["suspect"] = "somebody else's model"
            members[name] = json.dumps(content).encode()

    rewritten(third, tmp_path / "another.zip", key, of_another_suspect)
    with pytest.raises((BundleError, TranscriptError)):
        recheck.recheck(tmp_path / "another.zip", key=key)

    def lose_the_first_plan(members):
        del members[chains.earlier_name(0)]

    rewritten(third, tmp_path / "forged.zip", key, lose_the_first_plan)
    with pytest.raises((BundleError, TranscriptError)):
        recheck.recheck(tmp_path / "forged.zip", key=key)


def test_what_does_not_go_on_with_the_earlier_test_is_refused(verify, owner, key, digits, surrogate, tmp_path):
    first, fixed = tmp_path / "1.zip", tmp_path / "fixed.zip"
    options = {"owner": owner, "key": key, "suspect_options": SMALL, "alpha": 1e-100}
    verify(surrogate, 50, bundle=first, alpha=1e-100)
    later = dm.BundleOptions(tmp_path / "2.zip", extends=first)
    with pytest.raises(ArgumentError, match="The first 50 queries are not those that the earlier test asked"):
        dm.verify(surrogate, queries=digits.x_test[1:200], sequential=True, bundle=later, **options)
    with pytest.raises(ArgumentError, match="has alpha 1e-100, this one 0.001"):
        verify(surrogate, 100, bundle=later, alpha=1e-3)
    with pytest.raises(ArgumentError, match="this one is not: sequential=True"):
        verify(surrogate, 100, bundle=later, sequential=False)
    with pytest.raises(ArgumentError, match="holds digests of its queries only, and what extends it does the same"):
        verify(surrogate, 100, bundle=dataclasses.replace(later, include_queries=True), alpha=1e-100)
    verify(surrogate, 50, bundle=fixed, sequential=False)
    with pytest.raises(ArgumentError, match="test of fixed size, which cannot be extended"):
        verify(surrogate, 100, bundle=dm.BundleOptions(tmp_path / "2.zip", extends=fixed))
    with pytest.raises(ArgumentError, match="takes all answers at once, so a `sequential` test cannot stop"):
        verify(surrogate, suspect_options=dm.SuspectOptions(align_classes=True))


def test_logged_queries_stop_too_and_fresh_ones_beside_them_come_first(owner, key, marked_model, digits, tmp_path):
    np.savez(tmp_path / "log.npz", inputs=digits.x_train, client="x")
    log = dm.open_log(tmp_path / "log.npz")
    options = {"owner": owner, "key": key, "queries": log, "sequential": True, "suspect_options": SMALL}
    alone = dm.verify(marked_model, **options)
    both = dm.verify(marked_model, fresh=digits.x_test, bundle=tmp_path / "case.zip", **options)
    assert alone.detected()
    assert both.detected()
    assert both.num_queries < both.plan.num_queries
    assert alone.num_queries < alone.plan.num_queries
    assert both.plan.num_fresh == 40
    assert alone.plan.num_fresh == 0
    assert {channel.channel for channel in alone.channels} == {"amplitude", "class-choice"}
    assert "it needs fresh queries beside the logged ones" in alone.untested["class"]
    assert recheck.recheck(tmp_path / "case.zip", key=key).evidence == both
    fixed = dm.verify(marked_model, fresh=digits.x_test, max_queries=90, **{**options, "sequential": False})
    assert fixed.plan.num_fresh == 40
    assert 70 < fixed.num_queries <= 90


def test_fresh_queries_go_beside_logged_ones_only(owner, key, marked_model, digits, tmp_path):
    np.savez(tmp_path / "log.npz", inputs=digits.x_train, client="x")
    options = {"owner": owner, "key": key, "fresh": digits.x_test}
    with pytest.raises(ArgumentError, match="without those, give them as `queries`"):
        dm.verify(marked_model, queries=digits.x_test, **options)
    log, labels = dm.open_log(tmp_path / "log.npz"), dm.SuspectOptions(labels=True)
    with pytest.raises(ArgumentError, match="which a suspect that answers labels has not"):
        dm.verify(marked_model, queries=log, suspect_options=labels, **options)


def test_two_classes_have_no_use_for_fresh_queries_beside_a_log(key):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    with pytest.raises(ArgumentError, match="which a mark of these classes does not have"):
        dm.verify(model, owner=dm.mark(model, key), key=key, queries=x, logged=True, fresh=x)


@pytest.mark.parametrize(("count", "num_fresh", "largest"), [(1, 0, 256), (57, 13, 5), (3000, 100, 256), (40, 40, 32)])
def test_blocks_are_small_at_first_and_hold_every_query_once(count, num_fresh, largest):
    ends = block_ends(count, num_fresh, largest)
    assert ends[-1] == count
    assert [*ends] == sorted({*ends})
    pairs = zip((0, *ends), ends, strict=False)
    assert all(stop - start <= min(largest, max(10, start // 10)) for start, stop in pairs)
    assert num_fresh in (0, *ends)
    assert block_ends(count, num_fresh, largest, ends[: len(ends) // 2])[: len(ends) // 2] == ends[: len(ends) // 2]
    rows = np.arange(count)
    batches = [part for part in np.split(rows, [num_fresh, num_fresh + 3, num_fresh + 40]) if len(part)]
    blocks = [*in_blocks(batches, ends)]
    assert [len(block) for block in blocks] == [*np.diff((0, *ends))]
    np.testing.assert_array_equal(np.concatenate(blocks), rows)
