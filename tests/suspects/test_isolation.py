"""A suspect's process: what it can reach, how it ends, and that its answers come back as they were."""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dynamarks_tf.cli.inspect import describe_file
from dynamarks_tf.errors import ArgumentError, ModelError, SuspectError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.isolated import IsolatedSuspect
from dynamarks_tf.suspects.isolation import frames, launcher
from dynamarks_tf.suspects.isolation.launcher import Process
from dynamarks_tf.verification.provenance import suspect_sha256
from tests.helpers.hostile_files import CASES, onnx_with_weights_beside, saved_model
from tests.helpers.waiting import eventually

Array = np.ndarray[Any, Any]
PROGRAMS = "tests.helpers.hostile_programs"
ROW = np.ones((1, 2), np.float32)


def run(program: str, path: Path, *, seconds: float = 60.0, **options: Any) -> dict[str, Any]:
    process = Process(f"{PROGRAMS}:{program}", path, "suspect.keras", seconds=seconds, options=options)
    process.close()
    return process.opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "suspects").mkdir()
    path = tmp_path / "suspects" / "suspect.keras"
    path.write_bytes(b"model")
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel that reads `secret` and writes `written` beside it, when it is asked to."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret").write_text("key")
    return saved_model(folder / "model")


@pytest.mark.parametrize("copies", [True, False])
def test_program_reaches_its_own_file_alone(file: Path, monkeypatch: pytest.MonkeyPatch, copies: bool) -> None:
    monkeypatch.setenv("DYNAMARKS_API_KEY", "s3cret")
    if not copies:  # as on systems that cannot copy a process
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        monkeypatch.setitem(launcher.sys.modules, "keras", None)
    secret = file.parent.parent / "acme.key"
    secret.write_text("key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        options = {"secret": str(secret), "port": server.getsockname()[1], "parent": os.getpid()}
        said = run("tries", file, **options)
    found = said["result"]
    assert found["reads its own file"] == found["writes into its own folder"] == "done"
    assert "DYNAMARKS_API_KEY" not in found["environment"]
    assert found["folder"] not in (os.getcwd(), str(file.parent))
    assert not Path(found["folder"]).exists()
    if set(said["confined"]) != {"files", "network"}:
        pytest.skip("this system has no Landlock or no user namespaces")
    forbidden = {name: value for name, value in found.items() if name.startswith(("reads ", "lists ", "writes b"))}
    forbidden |= {name: found[name] for name in ("connects", "runs a program", "stops the parent")}
    assert forbidden.pop("reads its own file") == "done"
    assert "done" not in forbidden.values(), forbidden
    assert [path.name for path in file.parent.parent.iterdir()] == ["suspects", "acme.key"]


def test_program_that_never_ends_is_stopped(file: Path) -> None:
    start = time.monotonic()
    with pytest.raises(
        SuspectError, match=r"suspect\.keras was stopped: loading it took more than 0\.5 s\. .*--timeout"
    ):
        run("loops", file, seconds=0.5)
    assert time.monotonic() - start < 20


def test_program_that_takes_memory_gets_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "usable_memory", lambda: 1 << 28)
    assert run("takes_memory", file, size=1 << 26)["result"] == 1 << 26
    with pytest.raises(SuspectError, match="MemoryError"):
        run("takes_memory", file, size=1 << 30)


def test_program_that_crashes_is_explained(file: Path) -> None:
    with pytest.raises(
        SuspectError, match=r"gave no answer: its process ended while loading it\. It crashed, or needed"
    ):
        run("crashes", file)


def test_saved_model_that_reads_writes_and_loops(hostile: Path) -> None:
    """Even if its operators are allowed, the system keeps it from files, and the deadline ends it."""
    with pytest.raises(SuspectError, match="is the operator (Read|Write)File, which may reach files"):
        as_suspect(hostile, signature="harmless")

    def allowed(signature: str, timeout_s: float = 6.0) -> IsolatedSuspect:
        suspect = as_suspect(hostile, signature=signature, timeout_s=timeout_s, run_untrusted_code=True)
        assert isinstance(suspect, IsolatedSuspect)
        return suspect

    suspect = allowed("harmless")
    np.testing.assert_array_equal(suspect.predict(ROW), 2 * ROW)
    suspect.close()
    if "files" in suspect.confined:
        for signature in ("read", "write"):
            with pytest.raises(SuspectError, match=r"could not answer a batch of shape \(1, 2\).*[Pp]ermission"):
                allowed(signature).predict(ROW)
    assert sorted(path.name for path in hostile.parent.iterdir()) == ["model", "secret"]
    looping = allowed("loop", 0.2)
    with pytest.raises(SuspectError, match="was stopped: answering a batch took more than 2 s"):
        looping.predict(ROW)
    with pytest.raises(SuspectError, match="is closed; make a new suspect"):
        looping.predict(ROW)


def test_vocabulary_of_a_saved_model_is_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("shirt\nbag\n")

    class Lookup(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
            words = tf.lookup.TextFileInitializer(str(tmp_path / "words.txt"), tf.string, line, tf.int64, number)
            self.table = tf.lookup.StaticHashTable(words, -1)

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="x")])
        def call(self, x: Any) -> Any:
            return {"number": self.table.lookup(x)}

    module = Lookup()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.call)
    (tmp_path / "words.txt").unlink()
    suspect = as_suspect(tmp_path / "model")
    assert suspect.predict(np.array([b"bag", b"hat", b"shirt"], object)).tolist() == [1, -1, 0]
    words = tmp_path / "model" / "assets" / "words.txt"
    before = suspect_sha256(str(tmp_path / "model"), suspect)
    words.write_text("bag\nshirt\n")
    assert suspect_sha256(str(tmp_path / "model"), suspect) != before


def test_layers_of_the_caller_are_known_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layers_of_the_caller.py").write_text(
        "import keras\n\n\n@keras.saving.register_keras_serializable('caller')\nclass Halved(keras.layers.Layer):\n"
        "    def call(self, x):\n        return x / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    layer = importlib.import_module("layers_of_the_caller").Halved()
    keras.Sequential([keras.Input((2,)), layer]).save(tmp_path / "suspect.keras")
    suspect = as_suspect(tmp_path / "suspect.keras")
    np.testing.assert_array_equal(suspect.predict(ROW), ROW / 2)
    suspect.close()
    del keras.saving.get_custom_objects()["caller>Halved"]
    with pytest.raises(
        SuspectError, match="Halved of layers_of_the_caller is not known here. If it needs layers of its"
    ):
        as_suspect(tmp_path / "suspect.keras")


def test_inspect_opens_no_hostile_file(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(SuspectError, match="is the operator (Read|Write)File"):
        describe_file(hostile)
    write, reason = CASES["Keras: layer that opens a SavedModel"]
    with pytest.raises(ModelError, match=f"{reason}.*--unsafe-load"):
        describe_file(write(tmp_path))


def test_only_files_have_code_to_run() -> None:
    with pytest.raises(
        ArgumentError, match=r"`run_untrusted_code` \(--run-untrusted-code\) does not go with A function"
    ):
        as_suspect(lambda batch: batch, run_untrusted_code=True)


def test_digest_of_an_onnx_model_covers_its_tensors(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = onnx_with_weights_beside(tmp_path / "model.onnx", "weights.bin")
    digests, answers = [], []
    for value in (1, 2):
        (tmp_path / "weights.bin").write_bytes(np.full(4, value, np.float32).tobytes())
        suspect = as_suspect(path)
        answers.append(suspect.predict(np.zeros((1, 4), np.float32)).tolist())
        digests.append(suspect_sha256(str(path), suspect))
        suspect.close()
    assert answers == [[[1] * 4], [[2] * 4]]
    assert len(set(digests)) == 2


def test_processes_end_with_their_suspect(file: Path) -> None:
    process = Process(f"{PROGRAMS}:Sleeper", file, "suspect", seconds=60)
    pid = int(process.ask(np.zeros(1), 1)[1][0])  # type: ignore[index]
    process.close()
    eventually(lambda: not Path(f"/proc/{pid}/cwd").exists())


# Frames


def exchanged(array: Array, **options: Any) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=frames.send, args=(ours, {"a": 1}, array))
        sender.start()
        try:
            return frames.receive(theirs, frames.Deadline(10), **options)
        finally:
            theirs.close()
            sender.join()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3)[:, ::2],
        np.array([True, False]),
        np.array([[b"a\0", b""], [b"\xff", b"text"]], object),
        np.array(["shirt", "\u00fc"], object),
        np.array(["bag", "shoe"]),
        np.zeros((0, 4), np.int64),
        np.array([], object),
        np.float64(0.5).reshape(()),
    ],
)
def test_arrays_arrive_as_they_were(array: Array) -> None:
    header, back = exchanged(array)
    assert header == {"a": 1}
    assert back.dtype == (object if array.dtype.kind == "U" else array.dtype)
    np.testing.assert_array_equal(back, array)
    assert [type(value) for value in back.ravel().tolist()] == [type(value) for value in array.ravel().tolist()]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"type": "<f4", "shape": [3, 10], "bytes": 120}, r"answers of shape \(3, 10\) to 2 inputs"),
        ({"type": "<f4", "shape": [2, 1 << 40], "bytes": 1 << 43}, "an array of 8,796,093,022,208 bytes; accepted are"),
        ({"type": "str", "shape": [2, 1 << 40], "bytes": 0}, "bytes; accepted are"),
        ({"type": "<f4", "shape": [2, 10], "bytes": 8}, "shape and size contradict each other"),
        ({"type": "|O", "shape": [2], "bytes": 16}, "type, shape or size that is not accepted"),
        ({"type": "<f4", "shape": [2, -1], "bytes": 8}, "type, shape or size that is not accepted"),
        ({"type": "<f4", "shape": [2, True], "bytes": 8}, "type, shape or size that is not accepted"),
        ({"type": ["<f4"], "shape": [2], "bytes": 8}, "type, shape or size that is not accepted"),
        ({"type": "<f4", "shape": [2, 0, 10**30], "bytes": 0}, "an axis of 1,000,000,000"),
        ({"type": "str", "shape": [2, 1 << 25], "bytes": 0}, "bytes; accepted are"),
        ([], "an array without type, shape and size"),
    ],
)
def test_declared_sizes_are_checked_before_anything_is_read(form: Any, text: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        content = frames.json.dumps({"array": form}).encode()
        ours.sendall(len(content).to_bytes(4, "big") + content)
        with pytest.raises(frames.FrameError, match=text):
            frames.receive(theirs, frames.Deadline(10), rows=2)


def test_message_that_trickles_ends_at_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\0\0")
        with pytest.raises(TimeoutError):
            frames.receive(theirs, frames.Deadline(0.1))
        ours.sendall(b"\xff\xff")
        ours.sendall(b"\xff\xff")
        with pytest.raises(frames.FrameError, match="a header of"):
            frames.receive(theirs, frames.Deadline(10))
