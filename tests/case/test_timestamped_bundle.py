"""What `check` and the report say of the timestamp in a bundle."""

import json
import sys

import pytest

from dynamarks_tf import recheck, report
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import CommitmentError
from dynamarks_tf.keys.timestamp import load_roots
from dynamarks_tf.report import wording
from dynamarks_tf.report.content import bundle_report
from tests.helpers import GOLDEN
from tests.helpers.time_stamping import TimeStampingAuthority

BUNDLE, ROOTS = GOLDEN / "valid" / "bundle-fresh.zip", GOLDEN / "timestamp-roots.pem"
(EXISTED_AT,) = (
    one["expected"]["existed_at"]
    for one in json.loads((GOLDEN / "vectors.json").read_text())["vectors"]
    if one["name"] == "valid/bundle-fresh.zip"
)
UNVERIFIED = f"A timestamp of the statement that says {EXISTED_AT} is there, not verified: no roots of a time-stamping"


def test_check_says_the_date_that_the_timestamp_proves(capsys):
    assert main(["check", str(BUNDLE), "--timestamp-roots", str(ROOTS)]) == 0
    assert f"ok  The statement existed at {EXISTED_AT}: the time-stamping authority CN=" in capsys.readouterr().out
    assert main(["check", str(BUNDLE), "--timestamp-roots", str(ROOTS), "--public"]) == 0
    date = json.loads(capsys.readouterr().out)["checked"]["statement_date"]
    assert (date["moment"], date["obstacle"]) == (EXISTED_AT, None)


def test_without_roots_the_timestamp_is_no_more_than_there(capsys):
    assert main(["check", str(BUNDLE)]) == 0
    assert f"but {UNVERIFIED}" in capsys.readouterr().out


def test_roots_of_another_authority_do_not_bear_it_out(tmp_path):
    roots = load_roots(TimeStampingAuthority(tmp_path / "other").roots)
    with pytest.raises(CommitmentError, match="not signed by an authority that the given roots trust"):
        recheck.recheck(BUNDLE, timestamp_roots=roots)


def test_where_only_numpy_and_cryptography_are_installed_it_is_said_to_be_unread(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    assert recheck.main([str(BUNDLE)]) == 0
    assert (
        "but A timestamp of the statement is there, not verified: rfc3161-client is not in" in capsys.readouterr().out
    )
    assert recheck.main([str(BUNDLE), "--timestamp-roots", str(ROOTS)]) == 2
    assert "only with rfc3161-client: pip install rfc3161-client" in capsys.readouterr().err


def test_the_report_says_it_too(tmp_path):
    report.write_report(tmp_path / "r.html", BUNDLE, timestamp_roots=load_roots(ROOTS))
    page = (tmp_path / "r.html").read_text()
    assert f"The statement existed at {EXISTED_AT}" in page
    assert f"if the suspect was made after {EXISTED_AT[:16].replace('T', ' ')} UTC" in page
    assert json.loads((tmp_path / "r.report.json").read_text())["statement_date"]["moment"] == EXISTED_AT
    unverified = bundle_report(recheck.recheck(BUNDLE), num_decoys=10)
    assert UNVERIFIED in " ".join(wording.meaning(unverified))
    assert UNVERIFIED not in " ".join(wording.caveats(unverified))  # it is said once
    assert "the date in it is the owner’s unverified claim" in " ".join(wording.assumptions(unverified))
