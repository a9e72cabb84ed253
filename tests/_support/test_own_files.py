"""What lies on the disk is believed only where nobody else can have put it there."""

import os
import stat
import time
import tracemalloc

import pytest

from dynamarks_tf._support import files
from dynamarks_tf._support.own_files import NotOwnError, check_own_folder, read_own
from dynamarks_tf.audit.results import Results
from dynamarks_tf.errors import ArgumentError, KeyFileError, LogError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs.rotation import RotatingFiles
from dynamarks_tf.request_logs.writer import PredictionLogWriter
from tests.helpers.files import posix

pytestmark = posix
STRANGER = 54321


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def given_away(path, monkeypatch):
    """As if the file were another user's, also where the tests do not run as root."""
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    if os.lstat(path).st_uid == 0:
        os.chown(path, STRANGER + 1, -1)


CASES = {
    "link": (lambda path, _: link(path), "is a symbolic link, which others may have set"),
    "dangling link": (lambda path, _: (link(path), path.with_name("elsewhere").unlink()), "is a symbolic link"),
    "pipe": (lambda path, _: pipe(path), "is no regular file"),
    "folder": (lambda path, _: (path.unlink(), path.mkdir()), "is no regular file|Is a directory"),
    "group": (lambda path, _: path.chmod(0o660), r"can be changed by others \(mode 0660\)\. .*chmod go-w"),
    "all": (lambda path, _: path.chmod(0o606), r"can be changed by others \(mode 0606\)"),
    "stranger": (given_away, "belongs to another user"),
    "large": (lambda path, _: path.write_bytes(bytes(2**20 + 1)), "is larger than 1,048,576 bytes"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_key_file_that_others_could_have_made_is_refused_at_once(case, tmp_path, monkeypatch):
    path = MarkKey(bytes(range(32)), "ACME").save(tmp_path / "acme.key")
    change, message = CASES[case]
    change(path, monkeypatch)
    start = time.monotonic()
    with pytest.raises(KeyFileError, match=message):
        MarkKey.load(path)
    assert time.monotonic() - start < 1


def test_a_folder_that_others_could_have_made_is_refused(tmp_path, monkeypatch):
    for name in ("link", "open", "file", "stranger"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "link").rmdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").rmdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LogError, match="Requests cannot be logged to .*open can be changed by others"):
        PredictionLogWriter(tmp_path / "open")
    for name in ("link", "open", "file"):
        with pytest.raises(OSError, match="symbolic link|can be changed by others|no folder|Not a directory"):
            RotatingFiles(tmp_path / name, max_bytes=1)
    given_away(tmp_path / "stranger", monkeypatch)
    with pytest.raises(NotOwnError, match="belongs to another user"):
        check_own_folder(tmp_path / "stranger")


def test_results_of_an_audit_that_others_could_have_made_are_not_gone_on_with(tmp_path):
    results = Results(tmp_path / "results.json", {"seed": 0})
    results.add({"kind": "cost"}, {})
    assert Results(tmp_path / "results.json", {"seed": 0}).has(kind="cost")
    (tmp_path / "results.json").chmod(0o666)
    with pytest.raises(ArgumentError, match=r"cannot be trusted\. .*can be changed by others \(mode 0666\)"):
        Results(tmp_path / "results.json", {"seed": 0})


def test_new_folders_are_closed_to_others_whatever_the_umask_is(tmp_path):
    old = os.umask(0)
    try:
        files.write_atomically(tmp_path / "a/b/secret", b"x", mode=0o600)
        files.write_atomically(tmp_path / "c/d/public", b"x")
        with files.new_file(tmp_path / "e/f/secret") as temporary:
            temporary.write_bytes(b"x")
        with files.new_folder(tmp_path / "g/h/secret") as folder:
            (folder / "x").write_bytes(b"x")
        RotatingFiles(tmp_path / "i/j", max_bytes=1)
    finally:
        os.umask(old)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*/*")}
    assert modes == {"a/b": 0o700, "c/d": 0o755, "e/f": 0o700, "g/h": 0o700, "i/j": 0o700}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert read_own(tmp_path / "a/b/secret", 1) == b"x"


def test_memory_is_taken_for_what_a_file_holds_not_for_what_it_may_hold(tmp_path):
    files.write_atomically(tmp_path / "small", b"x", mode=0o600)
    tracemalloc.start()
    assert read_own(tmp_path / "small", 2**40) == b"x"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
