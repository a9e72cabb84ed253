"""What stands in a report, and what must not."""

import dataclasses
import json

import numpy as np
import pytest

from dynamarks_tf import recheck
from dynamarks_tf.case import assessment
from dynamarks_tf.case.transcript import ANSWER_FILES, were_answers_given
from dynamarks_tf.errors import ArgumentError, BundleError
from dynamarks_tf.evidence.bounds import chernoff_log10_p
from dynamarks_tf.report import wording
from dynamarks_tf.report.content import bundle_report
from dynamarks_tf.report.page import bundle_page
from dynamarks_tf.suspects.answer_file import READERS
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import verifying

SETTINGS = MarkParams(budget=0.1, tie_margin=0)


@pytest.fixture(scope="module")
def attacker(cases, key):
    return recheck.recheck(cases / "attacker.zip", key=key)


def report(result, **options):
    return bundle_report(result, num_decoys=50, **options)


def test_a_report_holds_no_sign_and_no_residual_unless_it_is_confidential(attacker, key):
    public = json.dumps(report(attacker).to_dict())
    signs, residuals = attacker.case.book.class_signs, attacker.case.residuals["class"].values
    assert json.loads(public)["confidential"] is False
    assert json.loads(public)["sign_table"] is None
    for secret in (str(signs.tolist()), f"{residuals[0, 1]:.6g}", f"{abs(residuals[3, 4]):.6g}"):
        assert secret not in public
    lists = [len(found) for found in _lists(json.loads(public)) if len(found) >= 90]
    assert lists == []  # nothing has as many entries as the sign table

    whole = report(attacker, confidential=True)
    assert whole.is_confidential
    assert np.array_equal(whole.sign_table.signs, signs)
    agreeing = np.sign(whole.sign_table.residuals) == signs
    assert agreeing.sum() == pytest.approx((np.sign(residuals) == signs).sum(), abs=2)
    assert str(whole.sign_table.signs[0]) not in repr(whole)


def _lists(content):
    if isinstance(content, dict):
        content = [*content.values()]
    elif isinstance(content, list):
        yield content
    else:
        return
    for each in content:
        yield from _lists(each)


def test_without_the_key_it_says_less(cases):
    found = report(recheck.recheck(cases / "attacker.zip"))
    assert found.agreement is None
    assert found.decoys.num_keys == 50
    with pytest.raises(ArgumentError, match="only with the key"):
        report(recheck.recheck(cases / "attacker.zip"), confidential=True)


def test_accuracies_are_those_of_the_queries_that_were_asked(attacker, digits, owner_model, surrogate):
    """150 of the test images were chosen; their labels may be given alone, or with those of all images."""
    selected = attacker.case.selected
    assert len(selected) == 150
    owner, suspect = (
        np.asarray(model.predict(digits.x_test[selected], verbose=0)).argmax(axis=1)
        for model in (owner_model, surrogate)
    )
    labels = digits.y_test[selected]
    found = report(attacker, true_labels=digits.y_test).accuracy
    assert found == report(attacker, true_labels=labels).accuracy
    assert (found.owner, found.suspect) == ((owner == labels).mean(), (suspect == labels).mean())
    wrong = np.arange(150) == 3
    changed = report(attacker, true_labels=np.where(wrong, (owner + 1) % 10, owner)).accuracy
    assert changed.owner == 149 / 150
    assert changed.shared_errors == float(suspect[3] == owner[3])
    assert report(attacker, true_labels=owner).accuracy.shared_errors is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(151, int), "the 150 queries that were asked, or of the inputs that they were chosen from"),
        (np.zeros(150), "class indices, whole numbers of shape \\(n,\\). Received: float64"),
        (np.zeros((150, 10), int), "of shape \\(150, 10\\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(attacker, labels, message):
    with pytest.raises(ArgumentError, match=message):
        report(attacker, true_labels=labels)


def test_the_verdict_is_one_plain_sentence_and_says_no_more_than_is_proven(attacker, cases, key):
    found = report(attacker)
    innocent = report(recheck.recheck(cases / "innocent.zip", key=key))
    assert wording.title(found) == "The mark of ACME Vision was found in the suspect."
    assert wording.title(innocent) == "The mark of ACME Vision was not found in the suspect."
    assert "does not show that the suspect is innocent" in wording.no_meaning(innocent)[0]
    assert "not the probability that the suspect is innocent" in wording.no_meaning(found)[0]
    rests_on = " ".join(wording.assumptions(innocent))
    assert "all that the client sent, from the first on" in rests_on  # asked by what was logged
    assert "holds no published commitment" in rests_on
    rests_on = " ".join(wording.assumptions(found))
    assert "without looking at any answer of the marked model" in rests_on
    assert "date to show at which the statement was really published" in rests_on
    assert "about the key alone: that the owner’s model is older" in rests_on
    assert any("about the key alone" in caveat for caveat in found.caveats)
    with_model = dataclasses.replace(found, statement=dataclasses.replace(found.statement, model_sha256="0" * 64))
    assert "key alone" not in " ".join(wording.assumptions(with_model))


def test_without_the_key_a_forged_statistic_is_told_as_what_the_owner_states(
    tmp_path, monkeypatch, owner_model, unmarked_surrogate, digits, key
):
    """Whoever makes a bundle can state the largest possible T of an innocent; only the key refutes it."""
    real = assessment.channel_evidence

    def forged(channel, signs, residuals):
        found = real(channel, signs, residuals)
        log10_p = chernoff_log10_p(residuals.values, found.largest_possible)
        return dataclasses.replace(found, statistic=found.largest_possible, log10_p=log10_p)

    monkeypatch.setattr(assessment, "channel_evidence", forged)
    options = {"owner": owner_model, "key": key, "queries": digits.x_test[:50], "params": SETTINGS}
    assert verifying.verify(unmarked_surrogate, bundle=tmp_path / "forged.zip", **options).detected()
    monkeypatch.undo()
    with pytest.raises(BundleError, match="is stated as"):
        recheck.recheck(tmp_path / "forged.zip", key=key)
    result = recheck.recheck(tmp_path / "forged.zip")
    assert "on the owner's word" in recheck.public_summary(result)["checked"]["caveats"][0]
    found = report(result)
    assert wording.title(found) == "ACME Vision states that its mark was found in the suspect."
    assert "on the owner’s word" in wording.warnings(found)[0]
    assert "on the owner’s word" in wording.assumptions(found)[0]
    text = bundle_page(found)
    assert "The mark of ACME Vision was found" not in text
    assert '<p class="warning">Not checked with the key' in text


def test_of_recorded_answers_it_does_not_say_that_they_came_after_the_plan(
    tmp_path, owner_model, surrogate, digits, key
):
    queries = digits.x_test[:30]
    np.savez(tmp_path / "answers.npz", answers=np.asarray(surrogate(queries)))
    options = {"owner": owner_model, "key": key, "queries": queries, "params": SETTINGS}
    verifying.verify(tmp_path / "answers.npz", bundle=tmp_path / "bundle.zip", **options)
    result = recheck.recheck(tmp_path / "bundle.zip", key=key)
    assert any("in the owner's hands before the plan was fixed" in caveat for caveat in result.caveats)
    found = report(result)
    assert any("in the owner’s hands before the plan was fixed" in line for line in wording.assumptions(found))
    text = bundle_page(found)
    assert "after the answers were given" in text
    assert "before the suspect was asked" not in text
    equal = np.full((30, 10), 0.1)
    np.savez(tmp_path / "equal.npz", answers=equal)  # what docs/suspects.md advises for the plan's digest
    assert verifying.verify(tmp_path / "equal.npz", **options).plan.digest == result.evidence.plan.digest


def test_what_counts_as_a_file_of_answers(cases):
    assert set(READERS) == set(ANSWER_FILES)
    assert were_answers_given("answers.csv", "0" * 64)
    assert not were_answers_given("answers.csv", None)  # a function of that name
    assert not were_answers_given("suspect.keras", "0" * 64)
    assert not recheck.recheck(cases / "attacker.zip").evidence.suspect.endswith(ANSWER_FILES)


@pytest.mark.parametrize(
    ("selection", "said", "is_part"),
    [
        ("all", "all that the client sent, from the first on; none was left out", False),
        ("first/1", "the first 1,797 of what the client sent; none was left out", False),
        ("balanced/1", "a part that was drawn from what the client sent", True),
    ],
)
def test_of_logged_queries_it_says_which_were_asked(cases, selection, said, is_part):
    found = report(recheck.recheck(cases / "innocent.zip"))
    plan = dataclasses.replace(found.evidence.plan, num_queries=1797)
    object.__setattr__(plan, "selection", selection)  # of bundles of other releases too
    found = dataclasses.replace(found, evidence=dataclasses.replace(found.evidence, plan=plan))
    assert any(said in line for line in wording.assumptions(found))
    assert (wording.LOGGED_PART in wording.warnings(found)) == is_part
    assert ("the first of them, none left out" in bundle_page(found)) == (selection == "first/1")


def test_a_part_of_a_log_is_no_proof(tmp_path, owner_model, surrogate, digits, key):
    options = {"owner": owner_model, "key": key, "queries": digits.x_test, "logged": True, "params": SETTINGS}
    verifying.verify(surrogate, bundle=tmp_path / "bundle.zip", max_queries=30, **options)
    result = recheck.recheck(tmp_path / "bundle.zip")
    drawn = any("A part of the logged queries was drawn" in caveat for caveat in result.caveats)
    assert drawn == report(result).is_part_of_log == (result.evidence.plan.selection != "first/1")


def test_a_p_value_that_grinding_could_reach_is_read_with_care(attacker):
    """Down to 2^-80, with a statement too: its date is the owner's word."""
    found = report(attacker)
    assert found.evidence.detected()

    def warned(log10_p, **changes):
        evidence = dataclasses.replace(found.evidence, log10_p=log10_p)
        return wording.warnings(dataclasses.replace(found, evidence=evidence, **changes))

    assert warned(-25.0) == warned(-25.0, statement=None) == warned(-2.0) == []
    assert "Unless it was really published by then" in warned(-20.0)[0]
    assert "no published commitment" in warned(-20.0, statement=None)[0]
