"""Progress display: plain lines where there is no terminal, nothing when switched off."""

import sys

import pytest

from dynamarks_tf._support import progress


def test_lines_without_a_terminal(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert list(progress.track("abcd", "querying", 4, unit="requests")) == list("abcd")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("querying: done, 4 requests in ")
    assert any("2 of 4 requests, about" in line for line in lines[:-1])
    assert "\r" not in err


def test_unknown_total_and_silence(capsys):
    assert list(progress.track("ab", "x", enabled=False)) == ["a", "b"]
    assert capsys.readouterr().err == ""
    list(progress.track(iter("ab"), "counting"))
    assert "counting: done, 2 batches" in capsys.readouterr().err


def test_a_failure_is_not_reported_as_done(capsys):
    with pytest.raises(ValueError, match="broken"), progress.Meter("training"):
        raise ValueError("broken")
    assert "done" not in capsys.readouterr().err


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress.track(range(3), "querying", 3)) == [0, 1, 2]
    assert "done, 3" not in capsys.readouterr().err
