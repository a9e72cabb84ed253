"""Atomic writes: the old content or the new, never a part, and no temporary file is left."""

import os
from pathlib import Path

import pytest

from dynamarks_tf._support import files
from tests.helpers.files import mode


def test_write_creates_folders_and_sets_the_mode(tmp_path):
    files.write_atomically(tmp_path / "a" / "b.txt", b"one", mode=0o600)
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"one"
    assert mode(tmp_path / "a" / "b.txt") == 0o600


def test_write_replaces_or_refuses(tmp_path):
    path = tmp_path / "b.txt"
    files.write_atomically(path, b"one")
    files.write_atomically(path, b"two")
    with pytest.raises(FileExistsError):
        files.write_atomically(path, b"three", overwrite=False)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["b.txt"]


def test_a_file_system_without_hard_links_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _raiser(PermissionError(1, "Operation not permitted")))
    path = tmp_path / "b.txt"
    files.write_atomically(path, b"one", overwrite=False)
    with pytest.raises(FileExistsError):
        files.write_atomically(path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["b.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_keeps_the_old_content(tmp_path, monkeypatch, error):
    path = tmp_path / "b.txt"
    files.write_atomically(path, b"one")
    monkeypatch.setattr(os, "fsync", _raiser(error))
    with pytest.raises(type(error)):
        files.write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["b.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_folder_leaves_nothing(tmp_path, error):
    def half_way():
        with files.new_folder(tmp_path / "1") as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(type(error)):
        half_way()
    assert os.listdir(tmp_path) == []


def test_new_folder_has_no_numeric_name_until_it_is_complete_and_is_private(tmp_path):
    with files.new_folder(tmp_path / "1") as folder:
        assert not folder.name.isdigit()
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
    assert os.listdir(tmp_path) == ["1"]
    assert mode(tmp_path / "1") == mode(tmp_path / "1" / "sub") == 0o700
    assert mode(tmp_path / "1" / "sub" / "file") == 0o600


def test_new_folder_never_replaces(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(FileExistsError), files.new_folder(tmp_path / "1"):
        raise AssertionError("must not start")
    with pytest.raises(FileExistsError), files.new_folder(tmp_path / "2"):
        (tmp_path / "2").mkdir()  # another process was faster
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_file_keeps_the_old_one(tmp_path, error):
    path = tmp_path / "m.keras"
    with files.new_file(path) as temporary:
        assert temporary.suffix == ".keras"
        temporary.write_text("one")
    assert mode(path) == 0o600

    def half_way():
        with files.new_file(path) as temporary:
            temporary.write_text("tw")
            raise error

    with pytest.raises(type(error)):
        half_way()
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["m.keras"]


def _raiser(error):
    def fail(*_):
        raise error

    return fail


def test_what_a_killed_writer_left_is_removed_by_the_next_one_if_it_is_old_and_own(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.json.abcd0123.tmp", tmp_path / ".a.json.abcd0124.tmp"
    folder, other = tmp_path / ".a.json.abcd0125.tmp", tmp_path / ".b.json.abcd0126.tmp"
    link = tmp_path / ".a.json.abcd0127.tmp"
    folder.mkdir()
    for path in (old, young, other, folder / "part"):
        path.write_text("x")
    link.symlink_to(other)
    for path in (old, other, folder / "part", folder):
        os.utime(path, (0, 0))
    os.utime(link, (0, 0), follow_symlinks=False)
    files.write_atomically(tmp_path / "a.json", b"new")
    assert {*tmp_path.iterdir()} == {tmp_path / "a.json", young, other, link}
