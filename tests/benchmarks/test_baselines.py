"""The rebuilt baselines: do they follow their sources, are their p-values valid, and what do the results keep?"""

import numpy as np
import pytest
from scipy import signal, stats

from benchmarks.studies import independent_models
from benchmarks.studies.baselines import page, study
from benchmarks.studies.baselines.akh import AnnaKareninaFingerprint
from benchmarks.studies.baselines.cosine import CosineSignalLayer, CosineWatermark
from benchmarks.studies.baselines.credit import CertifiedThreshold, mutual_information
from benchmarks.studies.baselines.dawn import DynamicAdversarialWatermark
from benchmarks.studies.baselines.drw import DistillationResistantWatermark
from benchmarks.studies.baselines.evidence import Questions, ask, extrapolated_log10_p, rank_log10_p
from benchmarks.studies.baselines.honeytrace import NeuralHoneytrace, log10_of_t_test
from benchmarks.studies.baselines.spectrum import lomb_scargle, random_units
from dynamarks_tf.keys.key import MarkKey
from tests.helpers import small_classifier


def some_key(number):
    return MarkKey(bytes([number % 256, number // 256]) * 16, "ACME Vision")


def probabilities(count, num_classes=10, seed=0):
    logits = 3 * np.random.default_rng(seed).standard_normal((count, num_classes))
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((2000, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def pool(owner_model, digits):
    return Questions(digits.x_train, owner_model.predict(digits.x_train, verbose=0), digits.y_train)


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


@pytest.mark.parametrize("other_classes", [False, True])
def test_cosine_detects_its_own_answers_and_not_the_clean_ones(images, key, other_classes):
    watermark = CosineWatermark(key, 10, other_classes=other_classes)
    layer = CosineSignalLayer(watermark.projection(64), watermark.target, 0.05, 30)
    clean = np.full((len(images), 10), 0.01, np.float32)
    best = np.where(np.arange(len(images)) % 2, watermark.target, (watermark.target + 1) % 10)
    clean[np.arange(len(images)), best] = np.random.default_rng(0).uniform(0.85, 0.95, len(images))
    asked = watermark.questions(Questions(images, clean))
    assert np.all((asked.clean.argmax(axis=1) == watermark.target) != other_classes)
    marked = np.asarray(layer(asked.inputs, asked.clean))
    of_marked, of_clean = (watermark.evidence(asked, p) for p in (marked, asked.clean))
    assert of_marked.log10_p == pytest.approx(-3, abs=0.01)
    assert of_marked.log10_p_extrapolated < -6
    assert of_clean.log10_p > -2


def p_values_of_an_independent_model(images, watermark_of, keys=60):
    answers = np.sort(probabilities(150), axis=1)
    asked = Questions(images[:150], answers)
    return [10 ** watermark_of(some_key(number)).evidence(asked, answers).log10_p for number in range(keys)]


@pytest.mark.parametrize("scheme", ["cosine", "drw"])
def test_p_values_of_an_independent_model_are_uniform(images, scheme):
    def watermark_of(key):
        if scheme == "cosine":
            return CosineWatermark(key, 10, num_decoys=39)
        return DistillationResistantWatermark(key, 10, images[:300], num_decoys=39)

    assert stats.kstest(p_values_of_an_independent_model(images, watermark_of), "uniform").pvalue > 0.01


def test_too_few_answers_are_no_evidence(images, key):
    answers = probabilities(6)
    evidence = CosineWatermark(key, 10).evidence(Questions(images[:6], answers), answers)
    assert (evidence.log10_p, evidence.asked) == (0, 6)


def test_drw_marks_the_inputs_it_asks_and_detects_the_mark(owner_model, pool, key):
    watermark = DistillationResistantWatermark(key, 10, pool.inputs, num_decoys=1)
    marked = watermark.mark(owner_model).predict(pool.inputs, verbose=0)
    asked = watermark.questions(pool)
    changed = np.abs(marked - pool.clean).sum(axis=1) > 1e-3
    np.testing.assert_array_equal(pool.inputs[changed], asked.inputs)
    assert np.all(asked.clean.argmax(axis=1) == watermark.target)
    np.testing.assert_allclose(marked.sum(axis=1), 1, atol=1e-5)
    added = 1.4 * marked[changed, watermark.target] - asked.clean[:, watermark.target]
    phase = watermark.hashes(asked.inputs, slice(0, 1))[:, 0]
    assert stats.kstest(watermark.hashes(pool.inputs, slice(0, 1))[:, 0], "uniform").statistic < 0.1
    np.testing.assert_allclose(added, 0.2 * (1 + np.cos(16 * phase)), atol=1e-4)


def test_drw_detects_its_own_answers_and_not_the_clean_ones(owner_model, images, key):
    watermark = DistillationResistantWatermark(key, 10, images, num_decoys=300)
    clean = np.full((len(images), 10), 0.01, np.float32)
    clean[:, watermark.target] = np.random.default_rng(0).uniform(0.85, 0.95, len(images))
    asked = watermark.questions(Questions(images, clean))
    assert stats.binomtest(len(asked), len(images), 0.5).pvalue > 0.01
    phase = watermark.hashes(asked.inputs, slice(0, 1))[:, 0]
    marked = asked.clean.copy()
    marked[:, watermark.target] = (marked[:, watermark.target] + 0.2 * (1 + np.cos(16 * phase))) / 1.4
    assert watermark.evidence(asked, marked).log10_p_extrapolated < -6
    assert watermark.evidence(asked, asked.clean).log10_p > -2


def test_drawn_labels_are_as_frequent_as_the_probabilities_say_and_always_alike(owner_model, images, key):
    watermark = DistillationResistantWatermark(key, 10, images, num_decoys=1)
    api, expected = watermark.mark_drawn(owner_model), watermark.mark(owner_model).predict(images, verbose=0)
    drawn = api.predict(images)
    np.testing.assert_array_equal(drawn, api.predict(images))
    np.testing.assert_array_equal(drawn.sum(axis=1), 1)
    counts = drawn.sum(axis=0)
    assert np.all(np.abs(counts - expected.sum(axis=0)) < 4 * np.sqrt(expected.sum(axis=0) + 1))


def test_a_fingerprint_asks_mistakes_and_counts_those_in_common(pool):
    fingerprint, labels = AnnaKareninaFingerprint(), pool.clean.argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % 10
    asked = fingerprint.questions(Questions(pool.inputs, pool.clean, labels))
    np.testing.assert_array_equal(asked.inputs, pool.inputs[::10])
    assert fingerprint.evidence(asked, asked.clean).statistic == 1
    assert fingerprint.evidence(asked, asked.labels).statistic == 0
    half = asked.take(slice(100))
    answers = np.where(np.arange(100) % 2, half.labels, half.clean.argmax(axis=1))
    assert fingerprint.evidence(half, answers).statistic == 0.5


def test_mutual_information_of_normal_variables():
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((1000, 2)), rng.standard_normal((1000, 2))
    y = 0.9 * x + np.sqrt(1 - 0.81) * noise
    excess = mutual_information(x, y) - mutual_information(x, y[::-1])
    assert excess == pytest.approx(-np.log(1 - 0.81), abs=0.15)


def test_credit_adds_noise_and_finds_the_model_it_is_of(owner_model, pool):
    scheme = CertifiedThreshold(owner_model, pool.inputs)
    api, asked = scheme.mark(owner_model), scheme.questions(pool)
    assert len(asked) == 1000
    released = api.predict(pool.inputs)
    np.testing.assert_allclose(released.sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(released, pool.clean, atol=1e-3)
    own = scheme.evidence(asked, ask(api, asked.inputs))
    unrelated = scheme.evidence(asked, probabilities(1000, seed=5))
    assert own.statistic > unrelated.statistic + 0.2
    assert own.detected == (own.statistic > scheme.threshold(1000))
    assert not unrelated.detected
    assert scheme.evidence(asked.take(slice(10)), asked.clean[:10]).detected is False


def test_honeytrace_answers_the_target_class_to_triggers_and_leaves_most_others(owner_model, pool, key):
    watermark = NeuralHoneytrace(key, owner_model, pool.inputs, pool.labels)
    api = watermark.mark(owner_model)
    asked = watermark.questions(pool)
    triggered, plain = asked.inputs[0::2], asked.inputs[1::2]
    np.testing.assert_array_equal(triggered[:, :4], plain[:, :4])
    assert np.any(triggered[:, 4:, 4:] != plain[:, 4:, 4:])
    untouched = np.abs(api.predict(pool.inputs) - pool.clean).max(axis=1) < 1e-5
    assert untouched.mean() == pytest.approx(0.95, abs=0.01)
    released, clean = (ask(model, triggered).argmax(axis=1) == watermark.target for model in (api, owner_model))
    assert released.mean() > clean.mean() + 0.4
    assert watermark.evidence(asked, ask(api, asked.inputs)).log10_p < -6
    always = np.full(len(asked), watermark.target)
    assert watermark.evidence(asked, always).log10_p == 0
    always[1::2] += 1
    assert watermark.evidence(asked, always % 10).log10_p < -50


def test_honeytrace_takes_the_target_that_its_owner_sees_least_in_triggers(owner_model, pool):
    targets = set()
    for number in range(6):
        key = MarkKey(bytes([number] * 32), "Tests")
        watermark = NeuralHoneytrace(key, owner_model, pool.inputs, pool.labels)
        seen = np.bincount(ask(owner_model, watermark.questions(pool).inputs[0::2]).argmax(axis=1), minlength=10)
        others = np.delete(seen, watermark._pair)
        assert others.max() > others.min()  # so that a draw from all of them would be found out
        assert seen[watermark.target] == others.min()
        targets.add(watermark.target)
    assert len(targets) <= np.sum(others == others.min())


def test_the_t_test_is_that_of_scipy():
    differences = np.random.default_rng(0).standard_normal(40) + 0.5
    expected = stats.ttest_1samp(differences, 0, alternative="greater").pvalue
    assert log10_of_t_test(differences) == pytest.approx(np.log10(expected))
    assert log10_of_t_test(-differences) == 0
    assert -20 < log10_of_t_test(np.ones(10)) < -6


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
    np.testing.assert_array_equal(images[changed], watermark.questions(Questions(images, clean)).inputs)
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


def test_dawn_detects_models_that_remember_and_no_others(owner_model, pool, key):
    watermark = DynamicAdversarialWatermark(key, rate=0.02)
    api, asked = watermark.mark(owner_model), watermark.questions(pool)
    remembered = ask(api, asked.inputs)
    assert watermark.evidence(asked, remembered).log10_p == pytest.approx(-len(asked) * np.log10(9), rel=1e-3)
    assert watermark.evidence(asked.take(slice(7)), remembered[:7].argmax(axis=1)).log10_p < -6
    assert watermark.evidence(asked, asked.clean).log10_p == 0


def test_dawn_p_values_of_an_inaccurate_independent_model_are_valid(images):
    clean, answers = probabilities(500), probabilities(500, seed=1)
    p = []
    for number in range(150):
        watermark = DynamicAdversarialWatermark(some_key(number), rate=0.1)
        asked = watermark.questions(Questions(images[:500], clean, np.arange(500)))
        p.append(10 ** watermark.evidence(asked, answers[asked.labels]).log10_p)
    for level in (0.01, 0.05, 0.2):
        assert stats.binomtest(int((np.array(p) <= level).sum()), len(p), level, "greater").pvalue > 0.01


def test_dawn_counts_a_repeated_query_once(images, key):
    clean = probabilities(100)
    watermark = DynamicAdversarialWatermark(key, rate=1)
    twice = watermark.questions(Questions(np.concatenate([images[:100]] * 2), np.concatenate([clean] * 2)))
    np.testing.assert_array_equal(twice.inputs, images[:100])


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


def test_results_of_a_scheme_without_p_value_keep_its_figure_and_its_verdict():
    found = {str(n): {"asked": n, "statistic": n / 100, "detected": n >= 50} for n in (10, 20, 50, 100)}
    kept = study.reduced({"fresh": found})["fresh"]
    assert kept["needed"] == 50
    assert [point["statistic"] for point in kept["points"]] == [0.1, 0.2, 0.5, 1.0]


def independent(architecture, statistic):
    point = {"asked": 100, "statistic": statistic}
    return {"seed": 0, "architecture": architecture, "fingerprints": {"akh": [point]}, "way": "", "name": ""}


def test_a_fingerprint_accuses_what_shares_more_mistakes_than_every_independent_model():
    models = [independent("mlp", 0.4), independent("mlp", 0.3), independent("resnet", 0.35)]
    assert page.accused(models, "akh") == 0  # the threshold is made from them
    points = [{"asked": 50, "statistic": 0.9}, {"asked": 100, "statistic": 0.5}]
    run = {"seed": 0, "untouched": {"tests": {"akh": {"fresh": {"points": points}}}}}
    assert page.needed_beyond_independent(models, run, "untouched") == 100
    points[1]["statistic"] = 0.4
    assert page.needed_beyond_independent(models, run, "untouched") is None


def test_rows_of_another_owner_model_are_refused(tmp_path, capsys):
    path = tmp_path / "rows.json"
    study.Rows(path).add("0/owner", {"seed": 0, "owner": "one"})
    study.Rows(path).add("1/owner", {"seed": 1, "owner": "another"})
    study.Rows(path).add("0/latency", {"seed": 0, "owner": "one"})
    before = path.read_text()
    with pytest.raises(SystemExit, match="rows of seed 0 whose owner model is another one"):
        study.Rows(path).add("0/apis", {"seed": 0, "owner": "another"})
    assert path.read_text() == before


def test_an_owner_model_is_told_by_its_weights():
    one, same, other = small_classifier(), small_classifier(), small_classifier(seed=1)
    assert study.digest_of(one) == study.digest_of(same) != study.digest_of(other)


def test_a_model_is_trained_once_and_then_loaded(tmp_path):
    path, trained = tmp_path / "new" / "model.weights.h5", []
    model = independent_models.kept(path, small_classifier(), trained.append)
    again = independent_models.kept(path, small_classifier(seed=1), trained.append)
    assert len(trained) == 1
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    independent_models.kept(None, model, trained.append)
    assert len(trained) == 2
