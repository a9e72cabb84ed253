"""Reference models: nothing changes without them, evidence stays valid with them, and what is shared is taken out."""

import numpy as np
import pytest

from dynamarks_tf.evidence import anytime
from dynamarks_tf.evidence.channels import channel_evidence
from dynamarks_tf.evidence.residual_accumulator import CHANNELS, ResidualAccumulator
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.params import MarkParams
from tests.helpers import GOLDEN

PARAMS = MarkParams(tie_margin=2.0)
NUM_FRESH = 100


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def gathered(clean, suspect, references=None, *, num_classes=10, num_fresh=NUM_FRESH, channels=CHANNELS):
    book = codebook.expand(MarkKey(bytes(32), "x"), num_classes, PARAMS)
    pairs = book.contrasts() if "class-choice" in channels else None
    found = ResidualAccumulator(
        channels,
        book.keyed_hash,
        PARAMS,
        pairs,
        num_fresh=num_fresh,
        with_references=references is not None,
    )
    for start in range(0, len(clean), 70):
        part = slice(start, start + 70)
        found.add(clean[part], suspect[part], None if references is None else references[part])
    return found.residuals()


@pytest.fixture(scope="module")
def models():
    """Log-probabilities of a clean model, of one that is independent of it, and of three references."""
    rng = np.random.default_rng(0)
    common = 2 * rng.normal(size=(1000, 10))
    return [np.log(softmax(common + rng.normal(size=common.shape))) for _ in range(5)]


def test_without_references_residuals_are_those_of_the_release_before():
    """Held to the last bit when reference models came; here to what processors may differ by."""
    rng = np.random.default_rng(7)
    clean, suspect = rng.dirichlet(np.ones(4), (2, 200))
    with np.load(GOLDEN / "residuals.npz") as expected:
        for channel, found in gathered(clean, suspect, num_classes=4).items():
            values = found.values if found.cells is None else found.values.ravel()[found.cells]
            np.testing.assert_allclose(values, expected[channel], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found.slope, expected[f"{channel}.slope"], rtol=1e-9)


def test_an_independent_suspect_stays_independent_beside_references(models):
    """400 random sign tables: p <= a in at most a share a; a n + 6 sqrt(a n) is exceeded with a chance below 1e-8."""
    clean, suspect, *references = map(np.exp, models)
    residuals = gathered(clean, suspect, np.stack(references, axis=1))
    rng = np.random.default_rng(1)
    p = {"class": [], "logged": []}
    logged = {channel: found for channel, found in residuals.items() if channel != "class"}
    for _ in range(400):
        signs = {name: rng.choice(np.array([-1, 1], np.int8), found.values.shape) for name, found in residuals.items()}
        p["class"].append(channel_evidence("class", signs["class"], residuals["class"]).log10_p)
        p["logged"].append(-anytime.evidence(logged, signs.__getitem__)[1])
    for log10_p in p.values():
        for alpha in (0.1, 0.01):
            assert np.count_nonzero(np.array(log10_p) <= np.log10(alpha)) <= alpha * 400 + 6 * np.sqrt(alpha * 400)
    assert np.mean(np.array(p["class"]) <= np.log10(0.5)) > 0.4  # the class channel's p-values are exact


@pytest.mark.parametrize("num_classes", [10, 80])
def test_what_a_suspect_shares_with_references_no_longer_hides_the_mark(num_classes):
    """The suspect differs from the clean model as the references do, and in addition follows the secret signs."""
    rng = np.random.default_rng(2)
    channels = CHANNELS if num_classes == 10 else ("class", "amplitude", "tie")
    common = 2 * rng.normal(size=(1500, num_classes))
    clean, honest = (common + 0.7 * rng.normal(size=common.shape) for _ in range(2))
    honest += 0.4 * rng.normal(size=(num_classes, num_classes))[clean.argmax(axis=1)]
    references = softmax(honest[:, None] + 0.2 * rng.normal(size=(1500, 3, num_classes)))
    book = codebook.expand(MarkKey(bytes(32), "x"), num_classes, PARAMS)
    each, keyed_hash = np.arange(1500), book.keyed_hash
    top = clean.argmax(axis=1)
    signs = book.class_signs[keyed_hash.row_of_class[top]][:, keyed_hash.column_of_class]
    amplitude = book.amplitude_signs[keyed_hash.group_of_class[top], keyed_hash.hashes(softmax(clean))]
    suspect = honest + 0.1 * signs
    suspect[each, top] -= 0.3 * amplitude
    found = [
        gathered(softmax(clean), softmax(suspect), beside, num_classes=num_classes, channels=channels, num_fresh=200)
        for beside in (None, references)
    ]
    for channel in ("class", "amplitude"):
        without, with_them = (channel_evidence(channel, book.signs(channel), each[channel]) for each in found)
        assert with_them.log10_p < without.log10_p - 1


def test_a_copy_of_the_clean_model_leaves_nothing_whatever_the_references_answer(models):
    clean, _, *references = map(np.exp, models)
    for found in gathered(clean, clean, np.stack(references, axis=1)).values():
        np.testing.assert_allclose(found.values, 0, atol=1e-9)


def test_a_reference_that_was_made_with_the_key_accuses_an_independent_suspect():
    """What the documentation warns of: one that is less sure where the secret sign is -1, and honest otherwise."""
    rng = np.random.default_rng(3)
    honest = 2 * rng.normal(size=(3000, 10))
    clean, suspect, reference = (softmax(honest + size * rng.normal(size=honest.shape)) for size in (1, 0.3, 0.3))
    book = codebook.expand(MarkKey(bytes(32), "x"), 10, PARAMS)
    each, top = np.arange(len(clean)), clean.argmax(axis=1)
    signs = book.amplitude_signs[book.keyed_hash.group_of_class[top], book.keyed_hash.hashes(clean)]
    doctored, doubt = reference.copy(), 1 - reference[each, top]
    doctored[each, top] = 0
    doctored *= np.minimum(np.exp(-0.5 * signs), 0.99 / doubt)[:, None]
    doctored[each, top] = 1 - doctored.sum(axis=1)
    found = [
        anytime.evidence(gathered(clean, suspect, beside[:, None], channels=("amplitude",), num_fresh=0), book.signs)[1]
        for beside in (reference, doctored)
    ]
    assert found[0] < 1.5
    assert found[1] > 6
