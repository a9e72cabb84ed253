"""The draw from a committed pool: anybody can repeat it, and a statement fixes all of it but the public value."""

import dataclasses
import json

import numpy as np
import pytest

from dynamarks_tf.case.draw import draw, surest
from dynamarks_tf.errors import ArgumentError, CommitmentError
from dynamarks_tf.keys import commitment
from dynamarks_tf.keys.commitment import Statement, commit
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.pool import CommittedPool, is_public_text
from tests.helpers import ROOT

KEY = MarkKey(bytes(range(32)), "ACME Vision")
POOL = CommittedPool("ab" * 32, 1000, 5, 8)
BEACON = "drand 4812345 9f86d081"
GOLDEN = [857, 643, 149, 37, 698, 510, 39, 648]


def test_the_draw_is_the_one_that_the_documentation_shows_in_ten_lines():
    """The page's code is run as it stands, and gives the golden vector that the page shows."""
    page = (ROOT / "docs" / "provenance.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    found = {}
    exec(compile(code, "docs/provenance.md", "exec"), found)
    assert found["draw"]("ab" * 32, "cd" * 32, BEACON, 1000, 8) == GOLDEN
    assert draw(POOL, "cd" * 32, BEACON).tolist() == GOLDEN
    assert str(GOLDEN) in page


@pytest.mark.parametrize("changed", ["pool", "commitment", "beacon"])
def test_another_pool_key_or_public_value_draws_other_inputs(changed):
    given = {"pool": POOL, "commitment": "cd" * 32, "beacon": BEACON}
    other = {"pool": dataclasses.replace(POOL, sha256="ac" * 32), "commitment": "ce" * 32, "beacon": f"{BEACON}x"}
    assert draw(**{**given, changed: other[changed]}).tolist() != GOLDEN


def test_every_input_is_drawn_as_often_as_any_other():
    pool = CommittedPool("ab" * 32, 20, 10, 10)
    drawn = np.concatenate([draw(pool, "cd" * 32, str(beacon)) for beacon in range(400)])
    assert abs(np.bincount(drawn, minlength=20) - 200).max() < 4 * np.sqrt(400 / 4)


def test_of_those_drawn_the_surest_of_each_class_are_asked_round_by_round():
    classes = np.array([2, 0, 0, 1, 2, 0, 0])
    confidences = np.array([0.5, 0.9, 0.9, 0.3, 0.8, 0.7, 0.99])
    assert surest(classes, confidences, 3).tolist() == [3, 4, 6]
    assert surest(classes, confidences, 5).tolist() == [3, 4, 6, 0, 1]  # of 1 and 2, the one that was drawn first
    assert sorted(surest(classes, confidences, 7)) == list(range(7))


def test_a_statement_fixes_the_pool_and_older_ones_are_still_read(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"model")
    statement = commit(KEY, model=tmp_path / "m.keras", pool=POOL)
    statement.save(tmp_path / "s.json")
    assert Statement.load(tmp_path / "s.json") == statement
    assert statement.to_dict()["version"] == 2
    for name, value in (("size", 1001), ("num_queries", 6), ("num_drawn", 9), ("sha256", "ac" * 32)):
        content = json.loads((tmp_path / "s.json").read_text())
        content["pool"][name] = value
        with pytest.raises(CommitmentError, match="was altered after it was signed"):
            Statement.from_dict(content, "s.json")
    old = commit(KEY, date="2026-01-01").to_dict()
    assert old["version"] == 1
    assert "pool" not in old
    assert Statement.from_dict(old, "old.json").pool is None
    with pytest.raises(ArgumentError, match="must name the model too"):
        commit(KEY, pool=POOL)


@pytest.mark.parametrize(
    "pool", [None, [], {"sha256": "x"}, {"size": 10**12}, {"num_queries": True}, {"num_drawn": 600}, {"more": 1}]
)
def test_a_signed_statement_with_an_impossible_pool_is_refused(pool):
    """Its signer holds a key, and may write anything into it; a pool of 10^12 inputs would keep a reader busy."""
    unsigned = commit(KEY).to_dict()
    content = {**unsigned, "version": 2, "pool": pool}
    if isinstance(pool, dict):
        content["pool"] = {**dataclasses.asdict(POOL), **pool}
    signed = json.dumps({k: v for k, v in content.items() if k != "signature"}, sort_keys=True, separators=(",", ":"))
    content["signature"] = commitment.sign(signed.encode(), KEY)
    with pytest.raises(CommitmentError, match="s.json is damaged: (its entry|it has an unknown entry) pool"):
        Statement.from_dict(content, "s.json")


def test_a_public_value_is_one_line_that_shows_all_of_itself():
    assert is_public_text("Lotto 6/49: 3, 8, 12, 19, 33, 41")
    for text in ("", " a", "a\n", "a\u202eb", "x" * 501, 7, None):
        assert not is_public_text(text)
