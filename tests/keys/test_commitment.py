"""The published statement: opened by its own key only, and refused after any change."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.errors import CommitmentError, FormatError
from dynamarks_tf.keys.commitment import Statement, commit
from dynamarks_tf.keys.key import MarkKey

KEY = MarkKey(bytes(range(32)), "Bäckerei Äpfel")
OTHER = MarkKey(bytes(range(1, 33)), "Bäckerei Äpfel")


def test_statement_round_trip_and_opening(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"model")
    statement = commit(KEY, model=tmp_path / "m.keras", date="2026-01-01T00:00:00+00:00")
    statement.save(tmp_path / "s.json")
    loaded = Statement.load(tmp_path / "s.json")
    assert loaded == statement
    loaded.check_opened_by(KEY)
    # sha256 of b"model"
    assert loaded.model_sha256 == "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    assert commit(KEY, date=statement.date).model_sha256 is None


def test_statement_is_deterministic_and_shows_no_secret():
    one, two = (commit(KEY, date="2026-01-01") for _ in range(2))
    assert one == two
    shown = json.dumps(one.to_dict()) + repr(one)
    assert bytes(range(32)).hex() not in shown
    assert "AAECAwQFBgc" not in shown


def test_another_key_does_not_open_it():
    with pytest.raises(CommitmentError, match="commits to the key .* given is the key .* Use the key that was"):
        commit(KEY).check_opened_by(OTHER)
    with pytest.raises(CommitmentError, match="commits to the key"):
        commit(KEY).check_opened_by(MarkKey(bytes(range(32)), "Somebody Else"))


def test_a_commitment_copied_into_a_statement_of_another_key_is_refused():
    import dataclasses

    copier = commit(OTHER)
    forged = dataclasses.replace(copier, commitment=KEY.commitment, key_id=KEY.key_id)
    assert not forged.has_valid_signature()
    resigned = dataclasses.replace(commit(KEY), public_key=copier.public_key)
    with pytest.raises(CommitmentError, match="was not signed by this key"):
        resigned.check_opened_by(KEY)


@given(st.sampled_from(["owner", "key_id", "commitment", "model_sha256", "date", "public_key", "signature"]))
def test_any_change_is_noticed(tmp_path, name):
    content = commit(KEY, date="2026-01-01").to_dict()
    old = content[name] or "0" * 64
    content[name] = old[:-3] + ("b" if old[-3] != "b" else "c") + old[-2:]
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CommitmentError, match="was altered after it was signed|its entry date is"):
        Statement.load(path)


def test_files_that_are_not_a_statement(tmp_path):
    path = tmp_path / "s.json"
    commit(KEY).save(path)
    with pytest.raises(CommitmentError, match="a statement is not overwritten"):
        commit(KEY).save(path)
    content = json.loads(path.read_text())
    for changed, error, message in (
        ({**content, "version": 3}, FormatError, "statement of version 3"),
        ({**content, "format": "x"}, FormatError, "is not a commitment statement"),
        ({k: v for k, v in content.items() if k != "date"}, CommitmentError, "is damaged: its entry date is missing"),
        ({**content, "signature": 7}, CommitmentError, "is damaged: its entry signature is 7, not base64"),
        (
            {**content, "owner": ["A"]},
            CommitmentError,
            r"its entry owner is \['A'\], not a name of 1 to 500 characters",
        ),
        ({**content, "date": 2026}, CommitmentError, "its entry date is 2026, not a date or time in ISO 8601"),
        ({**content, "note": ""}, CommitmentError, "it has an unknown entry note"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(error, match=message):
            Statement.load(path)
    path.write_text("{")
    with pytest.raises(CommitmentError, match="cannot be read as a commitment statement: it is no JSON"):
        Statement.load(path)
    with pytest.raises(CommitmentError, match="Cannot read the model file"):
        commit(KEY, model=tmp_path / "none.keras")
