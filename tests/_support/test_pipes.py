"""A pipe that somebody sends in place of a file is refused at once: reading it would never end."""

import os
import threading

import pytest

from dynamarks_tf._support.files import file_sha256
from dynamarks_tf.case.bundle import Bundle
from dynamarks_tf.cli.inspect import describe_file
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.timestamp import load_reply, load_roots
from dynamarks_tf.request_logs import open_log
from dynamarks_tf.suspects import as_suspect

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no such pipes")
READERS = {
    "bundle": ("b.zip", Bundle),
    "statement": ("s.json", Statement.load),
    "timestamp": ("s.tsr", load_reply),
    "roots": ("r.pem", load_roots),
    "anything": ("x.json", describe_file),
    "digest": ("x", file_sha256),
    **{f"suspect {suffix}": (f"s.{suffix}", as_suspect) for suffix in "keras h5 tflite onnx npz csv jsonl".split()},
    **{f"log {suffix}": (f"l.{suffix}", lambda path: list(open_log(path))) for suffix in ("jsonl", "tfrecord", "npz")},
}


@pytest.mark.parametrize("name", READERS)
def test_pipe_in_place_of_a_file_is_refused_at_once(tmp_path, name):
    file_name, read = READERS[name]
    os.mkfifo(tmp_path / file_name)
    said = []

    def refused():
        try:
            read(tmp_path / file_name)
        except Exception as error:
            said.append(str(error))

    thread = threading.Thread(target=refused, daemon=True)
    thread.start()
    thread.join(20)
    assert said
    assert "no regular file" in said[0] or "a pipe or device, no file" in said[0] or "nothing that can be" in said[0]
