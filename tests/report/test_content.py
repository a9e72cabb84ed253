"""The content of a report, and that it holds no secret."""

import dataclasses
import json

import numpy as np
import pytest

from dynamarks_tf import recheck
from dynamarks_tf.case.transcript import ANSWER_FILES, were_answers_given
from dynamarks_tf.errors import ArgumentError, BundleError
from dynamarks_tf.report import wording
from dynamarks_tf.report.content import bundle_report
from dynamarks_tf.report.page import bundle_page
from dynamarks_tf.suspects.answer_file import READERS
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import verifying
from tests.helpers.bundles import rewritten, state_the_largest_statistic

SETTINGS = MarkParams(budget=0.1, tie_margin=0)


@pytest.fixture(scope="module")
def rechecked(bundles, key):
    return recheck.recheck(bundles / "surrogate.zip", key=key)


def report(result, **options):
    return bundle_report(result, num_decoys=50, **options)


def test_a_report_holds_no_sign_and_no_residual_unless_it_is_confidential(rechecked, key):
    public = json.dumps(report(rechecked).to_dict())
    signs, residuals = rechecked.case.book.class_signs, rechecked.case.residuals["class"].values
    assert json.loads(public)["confidential"] is False
    assert json.loads(public)["sign_table"] is None
    for secret in (str(signs.tolist()), f"{residuals[0, 1]:.6g}", f"{abs(residuals[3, 4]):.6g}"):
        assert secret not in public
    lists = [len(each) for each in _lists(json.loads(public)) if len(each) >= 90]
    assert lists == []  # nothing has as many entries as the sign table

    whole = report(rechecked, confidential=True)
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


def test_without_the_key_it_holds_less(bundles):
    found = report(recheck.recheck(bundles / "surrogate.zip"))
    assert found.agreement is None
    assert found.decoys.num_keys == 50
    with pytest.raises(ArgumentError, match="only with the key"):
        report(recheck.recheck(bundles / "surrogate.zip"), confidential=True)


def test_accuracies_are_those_of_the_queries_that_were_asked(rechecked, digits, owner_model, surrogate):
    """150 of the test images were chosen; their labels may be given alone, or with those of all images."""
    selected = rechecked.case.selected
    assert len(selected) == 150
    owner, suspect = (
        np.asarray(model.predict(digits.x_test[selected], verbose=0)).argmax(axis=1)
        for model in (owner_model, surrogate)
    )
    labels = digits.y_test[selected]
    found = report(rechecked, true_labels=digits.y_test).accuracy
    assert found == report(rechecked, true_labels=labels).accuracy
    assert (found.owner, found.suspect) == ((owner == labels).mean(), (suspect == labels).mean())
    wrong = np.arange(150) == 3
    changed = report(rechecked, true_labels=np.where(wrong, (owner + 1) % 10, owner)).accuracy
    assert changed.owner == 149 / 150
    assert changed.shared_errors == float(suspect[3] == owner[3])
    assert report(rechecked, true_labels=owner).accuracy.shared_errors is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(151, int), "the 150 queries that were asked, or of the inputs that they were chosen from"),
        (np.zeros(150), "class indices, whole numbers of shape \\(n,\\). Received: float64"),
        (np.zeros((150, 10), int), "of shape \\(150, 10\\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(rechecked, labels, message):
    with pytest.raises(ArgumentError, match=message):
        report(rechecked, true_labels=labels)


def test_the_result_is_one_plain_sentence_and_claims_no_more_than_is_proven(rechecked, bundles, key):
    found = report(rechecked)
    independent = report(recheck.recheck(bundles / "independent.zip", key=key))
    assert wording.title(found) == "The mark of ACME Vision was detected in the suspect."
    assert wording.title(independent) == "The mark of ACME Vision was not detected in the suspect."
    assert "does not show that the suspect is an independent model" in wording.no_meaning(independent)[0]
    assert "not the probability that the suspect is an independent model" in wording.no_meaning(found)[0]
    rests_on = " ".join(wording.assumptions(independent))
    assert "were chosen by what the clean model answers, not by secret signs" in rests_on
    assert "holds no published commitment" in rests_on
    rests_on = " ".join(wording.assumptions(found))
    assert "without looking at any answer of the marked model" in rests_on
    assert "only by the date at which the statement was really published" in rests_on
    assert "about the key alone: that the owner’s model is older" in rests_on
    assert any("about the key alone" in caveat for caveat in found.caveats)
    with_model = dataclasses.replace(found, statement=dataclasses.replace(found.statement, model_sha256="0" * 64))
    assert "key alone" not in " ".join(wording.assumptions(with_model))


def test_without_the_key_a_forged_statistic_is_reported_as_the_owners_statement(
    tmp_path, owner_model, unmarked_surrogate, digits, key
):
    """A bundle can state the largest possible T of an independent model; only the key refutes it."""
    options = {"owner": owner_model, "key": key, "queries": digits.x_test[:50], "params": SETTINGS}
    verifying.verify(unmarked_surrogate, bundle=tmp_path / "bundle.zip", **options)
    rewritten(tmp_path / "bundle.zip", tmp_path / "forged.zip", key, state_the_largest_statistic)
    with pytest.raises(BundleError, match="is stated as"):
        recheck.recheck(tmp_path / "forged.zip", key=key)
    result = recheck.recheck(tmp_path / "forged.zip")
    assert result.evidence.detected()
    assert recheck.public_summary(result)["checked"]["caveats"] == [*result.caveats]
    assert len(result.caveats) > len(recheck.recheck(tmp_path / "bundle.zip", key=key).caveats)
    found = report(result)
    assert wording.title(found) == "ACME Vision states that its mark was detected in the suspect."
    assert "the owner’s unverified claim" in wording.warnings(found)[0]
    assert "the owner’s unverified claim" in wording.assumptions(found)[0]
    text = bundle_page(found)
    assert "The mark of ACME Vision was detected" not in text
    assert '<p class="warning">Not checked with the key' in text


def test_a_file_of_answers_is_not_said_to_have_come_after_the_plan(tmp_path, owner_model, surrogate, digits, key):
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
    np.savez(tmp_path / "equal.npz", answers=equal)  # as docs/suspects.md advises for the digest of the plan
    assert verifying.verify(tmp_path / "equal.npz", **options).plan.digest == result.evidence.plan.digest


def test_what_counts_as_a_file_of_answers(bundles):
    assert set(READERS) == set(ANSWER_FILES)
    assert were_answers_given("answers.csv", "0" * 64)
    assert not were_answers_given("answers.csv", None)  # a function of that name
    assert not were_answers_given("suspect.keras", "0" * 64)
    assert not recheck.recheck(bundles / "surrogate.zip").evidence.suspect.endswith(ANSWER_FILES)


def test_a_p_value_that_grinding_could_reach_gets_a_warning(rechecked):
    """Down to 2^-80, with a statement too: its date is the owner's unverified claim."""
    found = report(rechecked)
    assert found.evidence.detected()

    def warned(log10_p, **changes):
        evidence = dataclasses.replace(found.evidence, log10_p=log10_p)
        return wording.warnings(dataclasses.replace(found, evidence=evidence, **changes))

    assert warned(-25.0) == warned(-25.0, statement=None) == warned(-2.0) == []
    assert "Unless it was really published by then" in warned(-20.0)[0]
    assert "no published commitment" in warned(-20.0, statement=None)[0]
