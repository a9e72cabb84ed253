"""The accuser at work: an owner who holds the key and wants an independent model to look stolen (docs/accusers.md).

The suspect learned from the clean model's probabilities and never from a marked answer, so for every key it is
independent. It is the kind of model that is easiest to accuse.
"""

import dataclasses

import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf import recheck
from dynamarks_tf.case.draw import draw, surest
from dynamarks_tf.evidence.batch import Batch
from dynamarks_tf.evidence.class_channel import ClassChannelTable
from dynamarks_tf.evidence.exact_tail import log10_tail, on_lattice
from dynamarks_tf.keys.pool import CommittedPool
from dynamarks_tf.report import wording
from dynamarks_tf.report.content import bundle_report
from dynamarks_tf.suspects.queries import confident_balanced_choice
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.model_digest import model_sha256
from tests.helpers.pools import many_digits

SETTINGS = dm.MarkParams(budget=0.1, tie_margin=0)
KEYED_HASH = codebook.expand(dm.MarkKey(bytes(32), "o"), 10, SETTINGS).keyed_hash
NUM_INPUTS = 20_000


@dataclasses.dataclass(frozen=True)
class Answers:
    """What clean model and suspect answer to the same inputs, and what a test of some of them gives."""

    inputs: np.ndarray
    clean: np.ndarray
    suspect: np.ndarray

    @property
    def classes(self):
        return self.clean.argmax(axis=1)

    @property
    def sure(self):
        return self.clean.max(axis=1)

    def residuals(self, rows):
        """The class channel's, the only one of fresh queries. For ten classes they are the same for every key."""
        table = ClassChannelTable(KEYED_HASH, (10, 10), SETTINGS.budget)
        table.add(Batch(self.clean[rows], self.suspect[rows]))
        return table.residuals().values

    def log10_p(self, rows, signs):
        steps, _ = on_lattice(self.residuals(rows))
        return log10_tail(steps, int((signs * steps).sum()))

    def best_for(self, signs, of_each_class):
        """The inputs of each class on which the suspect happens to agree most with the signs."""
        floored = [np.log(np.maximum(answers, 1e-6)) for answers in (self.clean, self.suspect)]
        others = np.arange(10) != self.classes[:, None]
        left = np.where(others, floored[1] - floored[0], 0)
        left -= others * left.sum(axis=1, keepdims=True) / 9
        for each in range(10):
            left[self.classes == each] -= left[self.classes == each].mean(axis=0)
        agreement = (left * signs[self.classes] * others).sum(axis=1) / np.sqrt((left**2).sum(axis=1) + 1e-9)
        ordered = np.lexsort((-agreement, self.classes))
        first = np.searchsorted(self.classes[ordered], np.arange(10))
        return np.sort(np.concatenate([ordered[start : start + of_each_class] for start in first]))

    def drawn(self, rows, pool, beacon, commitment="cd" * 32):
        """What a draw from a pool of some of the inputs asks."""
        found = draw(pool, commitment, beacon)
        positions = surest(self.classes[rows][found], self.sure[rows][found], pool.num_queries)
        return np.sort(rows[found[positions]])


@pytest.fixture(scope="module")
def answers(digits, owner_model, unmarked_surrogate):
    inputs = many_digits(digits, NUM_INPUTS)
    clean, suspect = (model.predict(inputs, batch_size=2000, verbose=0) for model in (owner_model, unmarked_surrogate))
    return Answers(inputs, clean, suspect)


def signs_of(number):
    key = dm.MarkKey(number.to_bytes(32, "big"), "Accuser")
    return codebook.signs(key, "class-code/signs", 10, 10).astype(float)


def test_30_chosen_inputs_of_20_000_accuse_an_independent_model_and_the_report_says_what_that_is_worth(
    answers, owner_model, unmarked_surrogate, key, tmp_path
):
    signs = codebook.expand(key.bind(model_sha256(owner_model)), 10, SETTINGS).class_signs.astype(float)
    chosen = answers.inputs[answers.best_for(signs, 3)]
    marked = dm.mark(owner_model, key, budget=0.1, tie_margin=0)
    path = tmp_path / "bundle.zip"
    result = dm.verify(unmarked_surrogate, owner=marked, key=key, queries=chosen, bundle=path)
    assert result.num_queries == 30
    assert result.log10_p < -6  # nothing in the statistic can show it ...
    assert result.plan.provenance == {"kind": "own"}
    checked = recheck.recheck(path, key=key)
    meaning = " ".join(wording.meaning(bundle_report(checked, num_decoys=10)))
    for told in (meaning, " ".join(checked.caveats)):  # ... so what is read says it
        assert "inputs" in told
        assert "an independent model" in told
        assert "drawn from a committed pool" in told
    assert "the p-value does not show it" in meaning


def test_the_same_accuser_gains_nothing_from_a_pool_that_was_committed_to_before_the_beacon(answers):
    """Pool and key were fixed before the suspect was there; 240 keys, each with a beacon of its own."""
    pool = CommittedPool("ab" * 32, 5000, 100, 2000)
    rows, found = np.arange(5000), []
    for beacon in range(60):
        asked = answers.drawn(rows, pool, f"round {beacon}")
        found += [answers.log10_p(asked, signs_of(4 * beacon + number)) for number in range(4)]
    found = np.array(found)
    for claimed in (0.1, 0.01):
        allowed = claimed + 3 * np.sqrt(claimed * (1 - claimed) / len(found))
        assert (found <= np.log10(claimed)).mean() <= allowed


def test_a_pool_that_was_made_from_the_suspects_answers_is_not_mended_by_a_draw(answers):
    """Why the pool has to be older than the access to the suspect: every draw from these 600 inputs agrees."""
    pool = CommittedPool("ab" * 32, 600, 100, 300)
    found = []
    for number in range(7):
        rows = answers.best_for(signs_of(number), 60)
        found.append(answers.log10_p(answers.drawn(rows, pool, f"round {number}"), signs_of(number)))
    assert max(found) < -3  # seven of seven, at a chance of one in a thousand each
    assert min(found) < -6


def test_who_knows_the_beacon_before_the_commitment_grinds_keys(answers):
    """Each key draws other inputs and has other signs, so 250 keys are 250 tries. Three accusers of three come to
    p <= 0.1, at a chance of one in 1,000 if the claim held for the best of many."""
    pool, rows, best = CommittedPool("ab" * 32, 200, 10, 10), np.arange(200), []
    for accuser in range(3):
        keys = [dm.MarkKey((1000 * accuser + number).to_bytes(32, "big"), "Accuser") for number in range(250)]
        drawn = ((key, answers.drawn(rows, pool, "known", key.commitment)) for key in keys)
        best.append(
            min(answers.log10_p(asked, codebook.signs(key, "class-code/signs", 10, 10)) for key, asked in drawn)
        )
    assert max(best) <= -1


def test_no_value_of_seed_accuses_an_independent_model(answers):
    """The seed only mixes the surest fifth of each class, and 300 values are 300 tries: 30 keys, none near 10^-6."""
    few = Answers(answers.inputs[:1000], answers.clean[:1000], answers.suspect[:1000])
    choices = (confident_balanced_choice(few.classes, few.sure, 30, seed) for seed in range(300))
    every_sign = np.stack([signs_of(number) for number in range(30)])
    for steps, _ in map(on_lattice, map(few.residuals, choices)):
        assert log10_tail(steps, int((every_sign * steps).sum(axis=(1, 2)).max())) > -5
