"""The owner's side, resolved once for several tests."""

import pytest

import dynamarks_tf as dm
from dynamarks_tf.errors import CommitmentError, ModelError
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.watermark import marking


def test_a_resolved_owner_serves_several_tests_and_is_loaded_once(
    monkeypatch, tmp_path, marked_model, surrogate, unmarked_surrogate, key, digits
):
    marked_model.save(tmp_path / "marked.keras")
    options = {"key": key, "queries": digits.x_test[:100]}
    expected = dm.verify(surrogate, owner=tmp_path / "marked.keras", **options)
    loaded = []
    load_model = marking.load_model
    monkeypatch.setattr(marking, "load_model", lambda path, **_: loaded.append(path) or load_model(path))
    owner = resolve_owner(tmp_path / "marked.keras", key)
    found = [dm.verify(suspect, owner=owner, **options) for suspect in (surrogate, unmarked_surrogate)]
    assert len(loaded) == 1
    assert found[0].plan == expected.plan
    assert found[0].log10_p == expected.log10_p
    assert not found[1].detected()


def test_a_resolved_owner_goes_with_its_key_and_its_statement(
    tmp_path, marked_model, surrogate, key, other_key, digits
):
    marked_model.save(tmp_path / "marked.keras")
    marked_model.save(tmp_path / "other.keras")
    owner = resolve_owner(tmp_path / "marked.keras", key)
    with pytest.raises(ModelError, match="resolved with another key than the one given. Use the same key."):
        dm.verify(surrogate, owner=owner, key=other_key, queries=digits.x_test[:20])
    (tmp_path / "other.keras").write_bytes(b"x")
    bundle = dm.BundleOptions(tmp_path / "bundle.zip", statement=dm.commit(key, model=tmp_path / "other.keras"))
    with pytest.raises(CommitmentError, match="Use the file that was committed to"):
        dm.verify(surrogate, owner=owner, key=key, queries=digits.x_test[:20], bundle=bundle)
