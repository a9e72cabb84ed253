"""`reduce_log`: one file for every suspect, whatever parts it was made of and however often it was interrupted."""

import dataclasses
import json
import warnings

import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import reduction_file
from dynamarks_tf.request_logs.pauses import Times
from dynamarks_tf.verification import reduce_log as module
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.verification.reducing import Reducer
from tests.helpers.reducing import CLASSES, marked_model, write_log


@pytest.fixture(scope="module")
def api(key):
    return marked_model(key)


@pytest.fixture(scope="module")
def owner(api, key):
    return resolve_owner(api, key)


@pytest.fixture
def log(tmp_path):
    """Three replicas that answered at the same times."""
    return [write_log(tmp_path / f"{name}.jsonl", seed) for seed, name in enumerate("cab")]


def test_verify_and_trace_find_the_same_in_the_reduced_log(log, owner, api, key, tmp_path):
    def suspect(x):
        return 0.7 * np.asarray(api(x)) + 0.3 / CLASSES

    reduced = dm.reduce_log(log, owner=owner, key=key, out=tmp_path / "log.reduced")
    again = dm.open_log(tmp_path / "log.reduced")
    assert again.reduction.num_queries == 3 * 80
    for queries in (reduced, again):
        whole, part = (
            dm.verify(suspect, owner=owner, key=key, queries=each) for each in (dm.open_log(log[::-1]), queries)
        )
        assert part.plan == whole.plan
        assert [c.log10_p for c in part.channels] == pytest.approx([c.log10_p for c in whole.channels], rel=1e-9)
    traced = [dm.trace(suspect, owner=owner, key=key, log=each).clients for each in (dm.open_log(log), again)]
    assert {name: dataclasses.astuple(found) for name, found in traced[0].items()} == {
        name: dataclasses.astuple(found) for name, found in traced[1].items()
    }


def test_parts_of_a_log_are_merged_to_the_same_bytes(log, owner, key, tmp_path):
    given = {"owner": owner, "key": key}
    dm.reduce_log(log, out=tmp_path / "whole", **given)
    dm.reduce_log(log[1:], out=tmp_path / "first-days", **given)
    dm.reduce_log([log[0], tmp_path / "first-days"], out=tmp_path / "with-a-day", **given)
    assert (tmp_path / "with-a-day").read_bytes() == (tmp_path / "whole").read_bytes()
    dm.reduce_log(log[:1], out=tmp_path / "last-day", **given)
    with pytest.warns(UserWarning, match="given twice: it has the content of a.jsonl, which a reduced log holds"):
        dm.reduce_log([tmp_path / "first-days", tmp_path / "last-day", log[1]], out=tmp_path / "days", **given)
    assert (tmp_path / "days").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.fixture
def interrupted(log, owner, key, tmp_path, monkeypatch):
    """A reduction that ended during its third file, and the files that are read from then on."""
    read = []
    original = Reducer.file

    def file(self, file, **options):
        read.append(file.file.last_name)
        if read == ["a.jsonl", "b.jsonl", "c.jsonl"]:
            raise KeyboardInterrupt
        return original(self, file, **options)

    monkeypatch.setattr(Reducer, "file", file)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SAVES", 0)
    with pytest.raises(KeyboardInterrupt):
        dm.reduce_log(log, owner=owner, key=key, out=tmp_path / "out")
    read.clear()
    return read


def test_an_interrupted_reduction_goes_on_where_it_stopped(interrupted, log, owner, key, tmp_path):
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").stat().st_mode & 0o077 == 0
    dm.reduce_log(log, owner=owner, key=key, out=tmp_path / "out")
    assert interrupted == ["c.jsonl"]
    assert not (tmp_path / "out.partial").exists()
    dm.reduce_log(log, owner=owner, key=key, out=tmp_path / "at-once")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "at-once").read_bytes()


def test_what_another_reduction_left_is_refused(interrupted, log, owner, key, other_key, tmp_path):
    given = {"owner": owner, "key": key, "out": tmp_path / "out"}
    with pytest.raises(LogError, match=r"another log. Of its 2 files, 1 are not among those given.*: b.jsonl. Delete"):
        dm.reduce_log(log[:2], **given)
    with pytest.raises(LogError, match=r"out.partial was left .* another owner model, another key"):
        dm.reduce_log(log, **given | {"owner": marked_model(other_key), "key": other_key})
    with pytest.raises(LogError, match=r"of the input None, not 'x'"):
        dm.reduce_log(log, **given, input="x")
    (tmp_path / "out.partial").write_bytes(b"PK")
    with pytest.raises(LogError, match=r"out.partial, which an interrupted reduction left, cannot be read. Delete"):
        dm.reduce_log(log, **given)


def problems(found, **given):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dm.reduce_log(found, **given)
    return [str(each.message) for each in caught if each.category is UserWarning]


def test_files_that_are_not_as_they_should_be(log, owner, key, tmp_path):
    outputs = iter(range(100))

    def reduced(*files):
        return problems(files, owner=owner, key=key, out=tmp_path / f"out-{next(outputs)}")

    assert reduced(*log) == []
    (twice,) = reduced(*log, log[1])
    assert twice == f"{log[1]} was given more than once; it is read once."
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(log[0].read_bytes())
    (twice,) = reduced(*log, copy)
    assert twice == f"{copy} was given twice: it has the content of {log[0]}. It is counted once."
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(log[0].read_bytes()[:-30])
    (text,) = reduced(log[1], cut)
    assert "cut.jsonl: the last line, at offset" in text
    assert str(tmp_path) not in text
    backwards = write_log(tmp_path / "backwards.jsonl", 7, step=-20.0)
    (text,) = reduced(log[0], backwards)
    assert text.startswith("backwards.jsonl: its times step back by up to 780 s: a clock was set, or clocks disagree.")
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"inputs": [[1.0, 2.0]], "time": 5}) + "\n")
    (text,) = reduced(log[0], other)
    assert text.startswith("1 logged requests were left out, 40 were taken. The first: other.jsonl, offset 0: ")
    with pytest.raises(LogError, match=r"No request in .* can be used. The first: other.jsonl, offset 0: "):
        reduced(other)
    empty = tmp_path / "requests-00000001-x.tfrecord"
    empty.touch()
    with pytest.raises(LogError, match="There is no request in"):
        reduced(empty)


def test_files_without_times(log, owner, key, tmp_path):
    untimed = [write_log(tmp_path / f"untimed-{seed}.jsonl", seed, start=None) for seed in range(2)]
    given = {"owner": owner, "key": key}
    assert problems(untimed[:1], out=tmp_path / "one", **given) == []
    (text,) = problems(untimed, out=tmp_path / "two", **given)
    assert text.startswith(
        "None of the 2 files records times. They count in the order given: untimed-0.jsonl, untimed-1"
    )
    with pytest.raises(LogError, match=r"1 of 4 files record no times: untimed-0.jsonl. .* The 3 files with times can"):
        dm.reduce_log([*log, untimed[0]], out=tmp_path / "mixed", **given)
    for others in ([log[0]], [untimed[1]]):
        with pytest.raises(LogError, match=r"record no times: untimed-0.jsonl.* Reduce all files together"):
            dm.reduce_log([tmp_path / "one", *others], out=tmp_path / "mixed", **given)


def told(call, *args, **given):
    """The gaps in time that a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call(*args, **given)
    return found, [text for each in caught if "holds no request" in (text := str(each.message))]


def test_a_missing_day_is_told_of_whole_and_reduced_logs(owner, api, key, tmp_path):
    days = [write_log(tmp_path / f"{day}.jsonl", day, start=day * 86_400.0, step=2160.0) for day in (3, 4, 5, 7, 8, 9)]
    given = {"owner": owner, "key": key}
    whole, gaps = told(dm.reduce_log, days, out=tmp_path / "whole", **given)
    (text,) = gaps
    assert whole.reduction.gaps_told() == text
    assert (
        "no request from 1970-01-06 23:24 UTC to 1970-01-08 00:00 UTC (25 hours, between 5.jsonl and 7.jsonl)" in text
    )
    parts = [tmp_path / "early", tmp_path / "late"]
    assert told(dm.reduce_log, days[:3], out=parts[0], **given)[1] == []
    assert told(dm.reduce_log, days[3:], out=parts[1], **given)[1] == []
    assert told(dm.reduce_log, parts, out=tmp_path / "merged", **given)[1] == gaps
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    for log in (dm.open_log(days), dm.open_log(parts)):
        assert told(dm.verify, api, queries=log, **given)[1] == gaps
    for paths in (days, parts):
        assert told(dm.trace, api, log=paths, **given)[1] == gaps


def test_requests_without_a_time_may_fill_a_gap(owner, key, tmp_path):
    days = [write_log(tmp_path / f"{day}.jsonl", day, start=day * 86_400.0, step=2160.0) for day in (3, 4, 6, 7)]
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(day.read_bytes() for day in days))
    assert "in log.jsonl" in told(dm.reduce_log, log, owner=owner, key=key, out=tmp_path / "timed")[1][0]
    with log.open("ab") as file:
        file.write(write_log(tmp_path / "untimed.jsonl", 1, count=1, start=None).read_bytes())
    assert told(dm.reduce_log, log, owner=owner, key=key, out=tmp_path / "untimed")[1] == []


def test_logs_that_an_older_release_reduced_tell_no_gap(owner, key, tmp_path):
    days = [write_log(tmp_path / f"{day}.jsonl", day, start=day * 86_400.0, step=2160.0) for day in (3, 5)]
    dm.reduce_log(days, owner=owner, key=key, out=tmp_path / "new")
    older = dm.open_log(tmp_path / "new").reduction
    older = dataclasses.replace(older, files=tuple(dataclasses.replace(each, times=None) for each in older.files))
    reduction_file.write(older, tmp_path / "older")
    assert reduction_file.read(tmp_path / "older").files == older.files
    both = dm.open_log([tmp_path / "older", tmp_path / "new"])
    assert all(each.times is not None for each in both.reduction.files)


def test_a_reduced_log_with_impossible_times_is_refused(log, owner, key, tmp_path):
    found = dm.reduce_log(log[:1], owner=owner, key=key, out=tmp_path / "good").reduction
    damaged = dataclasses.replace(found.files[0], times=Times(2.0, 1.0))
    reduction_file.write(dataclasses.replace(found, files=(damaged,)), tmp_path / "damaged")
    with pytest.raises(LogError, match="is no reduced log, or is damaged"):
        dm.open_log(tmp_path / "damaged")


def test_a_reduced_log_of_another_key_and_an_output_that_exists_are_refused(log, owner, key, other_key, tmp_path):
    dm.reduce_log(log[:1], owner=owner, key=key, out=tmp_path / "one")
    other = marked_model(other_key)
    with pytest.raises(LogError, match=r"/one was reduced with another owner model, another key or"):
        dm.reduce_log([tmp_path / "one", log[1]], owner=other, key=other_key, out=tmp_path / "two")
    with pytest.raises(LogError, match="was reduced with another owner model"):
        dm.verify(other, owner=other, key=other_key, queries=dm.open_log(tmp_path / "one"))
    with pytest.raises(LogError, match="one exists; a reduced log is not overwritten"):
        dm.reduce_log(log[:1], owner=owner, key=key, out=tmp_path / "one")


def test_the_command(log, api, key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    api.save("marked.keras")
    key.save("acme.key")
    given = ["--owner", "marked.keras", "--key", "acme.key"]
    files = [part for path in log for part in ("--log", str(path))]
    assert main(["reduce", *files, *given, "--out", "log.reduced", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["files"], facts["queries"]) == (3, 240)
    assert main(["verify", "marked.keras", *given, "--log", "log.reduced"]) in (0, 1)
    assert main(["reduce", *files, *given, "--out", "log.reduced"]) == 2
    assert "error: log.reduced exists" in capsys.readouterr().err
    assert main(["reduce", *files, *given, "--out", "x", "--master", "yarn"]) == 2
    assert "--master is for --engine spark" in capsys.readouterr().err
