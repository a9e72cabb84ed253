"""The rebuilt baselines: do they follow their papers, are their p-values valid, and what do the results keep?"""

import numpy as np
import pytest
from scipy import signal, stats

from benchmarks.studies.baselines import study
from benchmarks.studies.baselines.cosine import CosineSignalLayer, CosineWatermark, lomb_scargle, random_units
from benchmarks.studies.baselines.dawn import DynamicAdversarialWatermark
from benchmarks.studies.baselines.evidence import extrapolated_log10_p, rank_log10_p
from dynamarks_tf.keys.key import MarkKey


def some_key(number):
    return MarkKey(bytes([number % 256, number // 256]) * 16, "ACME Vision")


def probabilities(count, num_classes=10, seed=0):
    logits = 3 * np.random.default_rng(seed).standard_normal((count, num_classes))
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((2000, 8, 8, 1), np.float32)


def test_lomb_scargle_is_that_of_scipy():
    rng = np.random.default_rng(0)
    positions, values = rng.standard_normal((60, 4)), rng.standard_normal(60)
    frequencies = np.linspace(0, 90, 31)[1:]
    power = lomb_scargle(positions, values, frequencies)
    for column in range(4):
        expected = signal.lombscargle(positions[:, column], values - values.mean(), frequencies, floating_mean=True)
        np.testing.assert_allclose(power[:, column], expected, rtol=1e-3)


def test_cosine_answers_are_probabilities_and_carry_the_stated_frequency(owner_model, images, key):
    watermark = CosineWatermark(key, 10, epsilon=0.05, frequency=30)
    clean = owner_model.predict(images, verbose=0)
    marked = watermark.mark(owner_model).predict(images, verbose=0)
    np.testing.assert_allclose(marked.sum(axis=1), 1, atol=1e-5)
    assert marked.min() >= 0
    assert np.abs(marked - clean).sum(axis=1).max() / 2 <= 0.1 / 1.1 + 1e-6
    added = 1.1 * marked[:, watermark.target] - clean[:, watermark.target]
    positions = images.reshape(len(images), -1) @ watermark.projection(64)
    np.testing.assert_allclose(added, 0.05 * (1 + np.cos(30 * positions)), atol=1e-4)
    frequencies = np.arange(2, 81, 2)
    power = lomb_scargle(positions[:, None], added, frequencies)[:, 0]
    assert frequencies[power.argmax()] == 30


def test_cosine_model_survives_saving(owner_model, images, key, tmp_path):
    import keras

    marked = CosineWatermark(key, 10).mark(owner_model)
    marked.save(tmp_path / "marked.keras")
    again = keras.models.load_model(tmp_path / "marked.keras")
    np.testing.assert_allclose(again.predict(images[:20], verbose=0), marked.predict(images[:20], verbose=0), atol=1e-6)


def test_cosine_amplitude_for_a_given_distortion(owner_model, images, key):
    clean = owner_model.predict(images, verbose=0)
    epsilon = CosineWatermark(key, 10).epsilon_for(0.024, images, clean)
    marked = CosineWatermark(key, 10, epsilon=epsilon).mark(owner_model).predict(images, verbose=0)
    assert np.abs(marked - clean).sum(axis=1).mean() / 2 == pytest.approx(0.024, abs=1e-4)


@pytest.mark.parametrize("other_classes", [False, True])
def test_cosine_detects_its_own_answers_and_not_the_clean_ones(images, key, other_classes):
    watermark = CosineWatermark(key, 10, other_classes=other_classes)
    layer = CosineSignalLayer(watermark.projection(64), watermark.target, 0.05, 30)
    clean = np.full((len(images), 10), 0.01, np.float32)
    best = np.where(np.arange(len(images)) % 2, watermark.target, (watermark.target + 1) % 10)
    clean[np.arange(len(images)), best] = np.random.default_rng(0).uniform(0.85, 0.95, len(images))
    asked = watermark.questions(images, clean)
    np.testing.assert_array_equal(asked % 2, not other_classes)
    marked = np.asarray(layer(images, clean))
    of_marked, of_clean = (watermark.evidence(images[asked], clean[asked], p[asked]) for p in (marked, clean))
    assert of_marked.log10_p == pytest.approx(-3, abs=0.01)
    assert of_marked.log10_p_extrapolated < -6
    assert of_clean.log10_p > -2


def test_cosine_p_values_of_an_independent_model_are_uniform(images):
    answers = probabilities(150)
    answers[:, :] = np.sort(answers, axis=1)
    log10_p = [
        CosineWatermark(some_key(number), 10, num_decoys=39).evidence(images[:150], answers, answers).log10_p
        for number in range(60)
    ]
    assert stats.kstest(10 ** np.array(log10_p), "uniform").pvalue > 0.01


def test_too_few_answers_are_no_evidence(images, key):
    answers = probabilities(6)
    evidence = CosineWatermark(key, 10).evidence(images[:6], answers, answers)
    assert (evidence.log10_p, evidence.asked) == (0, 6)


def test_rank_and_extrapolation():
    decoys = np.random.default_rng(0).exponential(size=1000)
    assert rank_log10_p(100, decoys) == pytest.approx(-np.log10(1001))
    assert rank_log10_p(-1, decoys) == pytest.approx(0)
    assert extrapolated_log10_p(6 * np.log(10), decoys) == pytest.approx(-6, abs=0.8)
    middle = float(np.median(decoys))
    assert extrapolated_log10_p(middle, decoys) == rank_log10_p(middle, decoys)


def test_projections_are_unit_vectors_of_every_direction():
    vectors = random_units(np.random.default_rng(0), 50, 2000)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-5)
    assert np.abs(vectors.mean(axis=1)).max() < 0.02


def test_dawn_answers_wrongly_at_its_rate_and_always_alike(owner_model, images, key):
    clean = owner_model.predict(images, verbose=0)
    watermark = DynamicAdversarialWatermark(key, rate=0.1)
    released = watermark.release(images, clean)
    changed = released.argmax(axis=1) != clean.argmax(axis=1)
    assert stats.binomtest(int(changed.sum()), len(images), 0.1).pvalue > 0.01
    np.testing.assert_array_equal(np.flatnonzero(changed), watermark.questions(images, clean))
    np.testing.assert_array_equal(released[~changed], clean[~changed])
    np.testing.assert_allclose(np.sort(released, axis=1), np.sort(clean, axis=1))
    api = watermark.mark(owner_model)
    one_by_one = np.concatenate([api.predict(image[None]) for image in images[:40]])
    np.testing.assert_allclose(one_by_one, released[:40], atol=1e-5)


def test_dawn_releases_every_wrong_class_equally_often(images, key):
    clean = probabilities(2000)
    released = DynamicAdversarialWatermark(key, rate=1).release(images, clean).argmax(axis=1)
    distance = (released - clean.argmax(axis=1)) % 10
    assert stats.chisquare(np.bincount(distance, minlength=10)[1:]).pvalue > 0.01


def test_dawn_detects_models_that_remember_and_no_others(owner_model, images, key):
    watermark = DynamicAdversarialWatermark(key, rate=0.02)
    clean = owner_model.predict(images, verbose=0)
    api = watermark.mark(owner_model)
    asked = watermark.questions(images, clean)
    count = len(asked)
    assert watermark.log10_p(api, images, owner=owner_model) == pytest.approx(-count * np.log10(9), rel=1e-3)
    assert watermark.log10_p(lambda batch: api(batch).argmax(axis=1), images, owner=owner_model, max_queries=7) < -6
    assert watermark.log10_p(owner_model, images, owner=owner_model) == 0


def test_dawn_p_values_of_an_inaccurate_independent_model_are_valid(images):
    clean, answers = probabilities(500), probabilities(500, seed=1)
    p = []
    for number in range(150):
        watermark = DynamicAdversarialWatermark(some_key(number), rate=0.1)
        asked = watermark.questions(images[:500], clean)
        p.append(10 ** watermark.evidence(images[asked], clean[asked], answers[asked]).log10_p)
    for level in (0.01, 0.05, 0.2):
        assert stats.binomtest(int((np.array(p) <= level).sum()), len(p), level, "greater").pvalue > 0.01


def test_dawn_counts_a_repeated_query_once(images, key):
    clean = probabilities(100)
    watermark = DynamicAdversarialWatermark(key, rate=1)
    twice = watermark.questions(np.concatenate([images[:100]] * 2), np.concatenate([clean] * 2))
    np.testing.assert_array_equal(twice, np.arange(100))


def points(*log10_p, **others):
    counts = (10, 20, 50, 100, 200, 500, 1000)
    return {
        str(count): {"log10_p": p, "asked": count, "statistic": 1.0, **others}
        for count, p in zip(counts, log10_p, strict=False)
    }


def test_results_keep_the_points_of_the_page_and_how_many_queries_were_needed():
    tests = {"fresh": points(-1.0, -7.0, -5.0, -6.5, -8.0), "logged": points(-1.0, -2.0)}
    kept = study.reduced(tests)
    assert kept["fresh"] == {
        "points": [{"log10_p": -1, "asked": 10}, {"log10_p": -6.5, "asked": 100}, {"log10_p": -8, "asked": 200}],
        "needed": 100,
    }
    assert kept["logged"] == {"points": [{"log10_p": -2, "asked": 20}], "needed": None}


def test_results_keep_the_number_and_the_smallest_of_the_tests_of_independent_models():
    tests = {"fresh": points(-1.0, -0.5), "logged": points(-0.2, -1.5, 0.0)}
    assert study.smallest(tests) == {"tests": 5, "log10_p": -1.5}
    decoys = {"fresh": points(-1.0, -0.5, log10_p_extrapolated=-1.2)}
    assert study.smallest(decoys) == {"tests": 2, "log10_p": -1, "log10_p_extrapolated": -1.2}
