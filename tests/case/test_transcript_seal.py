"""An interrupted test is gone on with only by the key that it was begun with, in a folder that is one's own."""

import hashlib
import json
import os

import numpy as np
import pytest

from dynamarks_tf._support.digests import json_digest
from dynamarks_tf.case.plan import TestPlan
from dynamarks_tf.case.transcript import Transcript, TranscriptBatch
from dynamarks_tf.errors import TranscriptError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.seal import Seal
from dynamarks_tf.watermark.params import MarkParams

KEY, OTHER = (MarkKey(bytes(range(start, start + 32)), "ACME") for start in (0, 1))
ROWS, COLUMNS = MarkParams().table_shape(10)
PLAN = TestPlan(
    *(KEY.commitment, "1" * 64, None, False, "probability", 10, "softmax", 1, True, 0.05, 0.5, True, ROWS, COLUMNS),
    *(False, 4, False, (), False, ("class",), 4, "2" * 64, "all", None, 0, None, False, True, (), 1e-6, "exact/1"),
)
QUERIES = np.arange(4.0).reshape(2, 2)
ANSWERS = np.full((2, 10), 0.1)


def begun(folder, key=KEY):
    return Transcript(folder, PLAN, "suspect", 2, seal=Seal(key), keep_queries=False)


@pytest.fixture
def folder(tmp_path):
    with_answers = begun(tmp_path / "case.zip.partial")
    with_answers.add(QUERIES, ANSWERS, ANSWERS, asked_at="2026-01-02T03:04:05.000+00:00")
    with_answers.close()
    return tmp_path / "case.zip.partial"


def go_on(folder, key=KEY):
    transcript = begun(folder, key)
    try:
        return transcript.recorded(QUERIES)
    finally:
        transcript.close()


def rewrite(path, **changes):
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, **changes}))


def other_answers(folder):
    """Whoever can write there puts answers of their choice, and makes digests and chain anew, as anybody can."""
    data = TranscriptBatch(ANSWERS, ANSWERS[:, ::-1] * np.linspace(0.5, 1.5, 10), None).to_bytes()
    (folder / "batches/000000.npz").write_bytes(data)
    record = json.loads((folder / "batches/000000.json").read_bytes())
    record["answers_sha256"] = hashlib.sha256(data).hexdigest()
    chained = {name: value for name, value in record.items() if name not in ("chain", "mac")}
    rewrite(folder / "batches/000000.json", **record | {"chain": json_digest(chained)})


def planted_by_another_key(folder):
    for path in sorted(folder.rglob("*.*")):
        path.unlink()
    planted = begun(folder, OTHER)
    planted.add(QUERIES, ANSWERS, ANSWERS, asked_at="2026-01-02T03:04:05.000+00:00")
    planted.close()


def linked(path):
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


CHANGES = {
    "answers": (other_answers, "was not written with this key: its code"),
    "another key": (planted_by_another_key, "was not written with this key"),
    "head": (lambda at: rewrite(at / "transcript.json", fixed_at="2026-01-01T00:00:00+00:00"), "with this key"),
    "head's chain": (lambda at: rewrite(at / "transcript.json", chain="0" * 64), "it has an unknown entry chain"),
    "no code": (lambda at: rewrite(at / "batches/000000.json", mac="0" * 64), "batch 0, was not written with this key"),
    "time": (lambda at: rewrite(at / "batches/000000.json", asked_at=5), "its entry asked_at is 5, not a date or time"),
    "folder is a link": (linked, "is a symbolic link"),
    "folder is open": (lambda at: at.chmod(0o777), r"can be changed by others \(mode 0777\)"),
    "batches are open": (lambda at: (at / "batches").chmod(0o770), "can be changed by others"),
    "head is a link": (lambda at: linked(at / "transcript.json"), "is a symbolic link"),
    "record is a link": (lambda at: linked(at / "batches/000000.json"), "is a symbolic link"),
    "answers are a pipe": (lambda at: pipe(at / "batches/000000.npz"), "is no regular file"),
    "record is open": (lambda at: (at / "batches/000000.json").chmod(0o666), "can be changed by others"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_planted_or_changed_answers_are_refused(change, folder):
    alter, message = CHANGES[change]
    alter(folder)
    with pytest.raises(TranscriptError, match=message):
        go_on(folder)


def test_the_same_key_goes_on_and_another_does_not(folder):
    found = go_on(folder)
    assert found is not None
    np.testing.assert_array_equal(found.suspect, ANSWERS)
    with pytest.raises(TranscriptError, match="was not written with this key"):
        go_on(folder, OTHER)


def test_the_folder_of_another_user_is_refused(folder, monkeypatch):
    if os.geteuid() == 0:
        os.chown(folder, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(TranscriptError, match=r"belongs to another user .* It looks like an interrupted test"):
        go_on(folder)


def test_codes_follow_from_the_key_and_reveal_nothing_of_it():
    assert Seal(KEY)("0" * 64) == Seal(KEY)("0" * 64) != Seal(OTHER)("0" * 64)
    assert repr(Seal(KEY)) == "<Seal>"
    with pytest.raises(TypeError, match="not pickled"):
        Seal(KEY).__reduce__()
