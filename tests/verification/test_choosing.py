"""Which queries are asked, and that neither models nor logs are asked more often than that takes."""

import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.cli.main import main
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.verification import choosing
from dynamarks_tf.verification.choosing import KeptAnswers
from dynamarks_tf.watermark import marking
from tests.helpers import verifying

SETTINGS = dm.MarkParams(budget=0.1, tie_margin=0)


@pytest.fixture
def rows_asked(monkeypatch):
    """How many inputs each Keras model was asked, by the model's name."""
    asked = {}
    predict = KerasSuspect.predict

    def counting(self, batch):
        asked[self.description] = asked.get(self.description, 0) + len(batch)
        return predict(self, batch)

    monkeypatch.setattr(KerasSuspect, "predict", counting)
    return asked


@pytest.mark.parametrize("max_queries", [None, 40])
@pytest.mark.parametrize("logged", [False, True])
def test_the_clean_model_answers_each_query_once_and_what_is_asked_of_a_log_twice(
    rows_asked, digits, owner_model, surrogate, key, max_queries, logged
):
    options = {"owner": owner_model, "key": key, "params": SETTINGS, "max_queries": max_queries, "batch_size": 32}
    result = verifying.verify(surrogate, queries=digits.x_test[:150], logged=logged, **options)
    assert rows_asked["Keras model 'surrogate'"] == result.num_queries
    assert rows_asked["Keras model 'classifier'"] == 150 + (result.num_queries if logged else 0)
    if not logged:
        assert result.num_queries == (max_queries or 150)
    else:
        assert 20 < result.num_queries <= 40 if max_queries else 100 < result.num_queries <= 150


def test_answers_kept_from_the_choice_are_those_that_asking_gives(digits, owner_model, surrogate, key):
    """The evidence is the same as for the chosen inputs alone."""
    options = {"owner": owner_model, "key": key, "params": SETTINGS}
    chosen = verifying.verify(surrogate, queries=digits.x_test, max_queries=60, seed=3, **options)
    clean = np.asarray(owner_model.predict(digits.x_test, verbose=0))
    indices = choosing.confident_balanced_choice(clean.argmax(axis=1), clean.max(axis=1), 60, 3)
    alone = verifying.verify(surrogate, queries=digits.x_test[indices], **options)
    assert chosen.log10_p == pytest.approx(alone.log10_p, abs=1e-4)
    assert chosen.fidelity == alone.fidelity


@pytest.mark.parametrize("limit", [64, 2**20], ids=["in a file", "in memory"])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kept_answers_come_back_to_the_bit(monkeypatch, limit, shape, dtype):
    monkeypatch.setattr(choosing, "_IN_MEMORY", limit)
    answers = np.random.default_rng(0).random((50, *shape)).astype(dtype)
    kept = KeptAnswers()
    for start in range(0, 50, 7):
        kept.add(answers[start : start + 7])
    np.testing.assert_array_equal(kept.rows(5, 23), answers[5:23])
    indices = np.array([0, 3, 4, 30, 49])
    np.testing.assert_array_equal(kept.of(indices).rows(1, 5), answers[indices[1:]])


def test_the_command_loads_the_owner_model_once(monkeypatch, tmp_path, digits, marked_model, surrogate, key):
    marked_model.save(tmp_path / "marked.keras")
    surrogate.save(tmp_path / "surrogate.keras")
    key.save(tmp_path / "acme.key")
    np.savez(tmp_path / "log.npz", inputs=digits.x_test[:40])
    loaded = []
    load_model = marking.load_model
    monkeypatch.setattr(
        marking, "load_model", lambda path, **options: loaded.append(path) or load_model(path, **options)
    )
    monkeypatch.chdir(tmp_path)
    words = "verify surrogate.keras --owner marked.keras --key acme.key --log log.npz --max-queries 20"
    assert main(words.split()) in (0, 1)
    assert [path.name for path in loaded] == ["marked.keras"]
