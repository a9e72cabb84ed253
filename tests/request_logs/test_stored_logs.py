"""Where logs may live: URLs, globs, folders of replicas; compressed ones; and what is said of what is not there."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import subprocess
import sys
import tracemalloc
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from backports import zstd

from dynamarks_tf._support import storage
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import QueryLog, open_log
from dynamarks_tf.request_logs.prediction_log import encode
from tests.helpers.logs import record, stored

PACK = {"gz": gzip.compress, "zst": zstd.compress}
SECRETS = ("AKIA", "pa/ss", "t0ken")


def lines(*numbers: int) -> bytes:
    """A log with one request for each number, at that time."""
    return b"".join(json.dumps({"inputs": [[n]], "time": 1000 + n}).encode() + b"\n" for n in numbers)


def rows(log: QueryLog) -> list[int]:
    return [int(n) for batch in log.batches(3) for n in batch[:, 0]]


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture(scope="module")
def records(make_messages: Any) -> Callable[..., bytes]:
    def build(*numbers: int) -> bytes:
        inputs = [{"i": np.array([[n]], np.float32)} for n in numbers]
        return b"".join(
            record(encode(*make_messages(inputs=each), time=1000 + n)) for each, n in zip(inputs, numbers, strict=True)
        )

    return build


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Writes files to a disk or to a server: `place(**{"a/b": content})`; returns the path or URL of them all."""
    root = str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4()}"

    def write(files: dict[str, bytes]) -> str:
        for name, content in files.items():
            with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
                file.write(content)
        return root

    return write


# Places


@pytest.mark.parametrize("name", ["", "requests-*", "requests-0000000[12]-*", "**"])
def test_folders_and_globs(place: Any, records: Any, name: str) -> None:
    root = place({"requests-00000002-b.tfrecord": records(2, 3), "requests-00000001-a.tfrecord": records(0, 1)})
    log = open_log(f"{root}/{name}" if name else root)
    assert rows(log) == rows(log) == [0, 1, 2, 3]
    assert [path.rsplit("/", 1)[1][:17] for path in log.paths] == ["requests-00000001", "requests-00000002"]
    first = log.files[0].file
    assert (first.last_name, first.size) == ("requests-00000001-a.tfrecord", len(records(0, 1)))
    assert first.sha256() == hashlib.sha256(records(0, 1)).hexdigest()
    assert rows(open_log(log.paths[1])) == [2, 3]


@pytest.mark.parametrize("name", ["logs", "logs/replica-*", "logs/*/requests-*"])
def test_folders_of_replicas_are_merged_by_time(place: Any, records: Any, name: str) -> None:
    """Rotated, some of them compressed since."""
    root = place(
        {
            "logs/replica-a/requests-00000001-x.tfrecord.gz": gzip.compress(records(0, 3)),
            "logs/replica-a/requests-00000002-x.tfrecord": records(4, 7),
            "logs/replica-b/requests-00000001-x.tfrecord.zst": zstd.compress(records(1, 2)),
            "logs/replica-b/requests-00000002-x.tfrecord": records(5, 6),
            "notes.txt": b"no log",
        }
    )
    assert rows(open_log(f"{root}/{name}")) == list(range(8))


def test_characters_of_globs_in_a_name(place: Any) -> None:
    root = place({"log[1].jsonl": lines(1), "log1.jsonl": lines(2)})
    assert rows(open_log(f"{root}/log[1].jsonl")) == [1]
    assert rows(open_log(f"{root}/log[0-9].jsonl")) == [2]


def test_all_formats_at_a_server(place: Any, tmp_path: Path) -> None:
    event = {"specversion": "1.0", "type": "org.kubeflow.serving.inference.request"}
    np.savez(tmp_path / "log.npz", inputs=np.array([[4.0], [5.0]]))
    events = [{**event, "id": str(n), "data": {"instances": [[n]]}} for n in (1, 2)]
    text = "\n".join(map(json.dumps, events)).encode()
    arrays = (tmp_path / "log.npz").read_bytes()
    root = place({"events": text, "events.gz": gzip.compress(text), "npz": arrays, "npz.zst": zstd.compress(arrays)})
    for name, expected in {"events": [1, 2], "events.gz": [1, 2], "npz": [4, 5], "npz.zst": [4, 5]}.items():
        log = open_log(f"{root}/{name}")
        assert rows(log) == rows(log) == expected


def test_a_log_that_grows_at_a_server(place: Any) -> None:
    root = place({"log": lines(1)})
    log = open_log(f"{root}/log")
    place({"log": lines(1, 2)})
    assert rows(log) == [1]
    assert rows(open_log(f"{root}/log")) == [1, 2]


def test_local_logs_do_not_load_fsspec(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(lines(1))
    program = (
        "import sys; from dynamarks_tf.request_logs import open_log; next(open_log(sys.argv[1]).batches(1)); "
        "assert not {'fsspec', 'backports.zstd', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "log"], check=True)


# Compressed files


@pytest.mark.parametrize("kind", PACK)
def test_compressed_by_content_also_in_several_parts(place: Any, kind: str) -> None:
    root = place({"log.txt": PACK[kind](lines(*range(500))) + PACK[kind](lines(500, 501))})
    log = open_log(f"{root}/log.txt")
    assert rows(log) == rows(log) == list(range(502))


@pytest.mark.parametrize("kind", PACK)
def test_a_cut_compressed_file_gives_what_stands_before(tmp_path: Path, kind: str, records: Any) -> None:
    path = tmp_path / "log"
    whole = PACK[kind](lines(*np.random.default_rng(0).permutation(2**20)[:8000].tolist()))  # several blocks
    counts = []
    for part in (0.5, 1):
        path.write_bytes(whole[: int(len(whole) * part) - 1])
        with pytest.warns(UserWarning, match="log: the end of the compressed file is missing, as after a crash"):
            counts.append(sum(open_log(path).clients().values()))
    assert 0 < counts[0] < counts[1] <= 8000
    path.write_bytes(whole[:7])
    with pytest.raises(LogError, match="the end of the compressed file is missing"):
        open_log(path)
    path = tmp_path / f"requests-1-a.tfrecord.{kind}"  # the other files of its folder are still read
    path.write_bytes(PACK[kind](records(1))[:7])
    (tmp_path / "requests-2-a.tfrecord").write_bytes(records(2))
    with pytest.warns(UserWarning, match="requests-1-a.tfrecord.*: the end of the compressed file is missing"):
        assert rows(open_log(tmp_path)) == [2]


@pytest.mark.parametrize("kind", PACK)
def test_a_corrupt_compressed_file_is_an_error(tmp_path: Path, kind: str) -> None:
    options: Any = {"gz": {}, "zst": {"options": {zstd.CompressionParameter.checksum_flag: 1}}}[kind]
    changed = bytearray(PACK[kind](lines(*range(1000)), **options))
    changed[len(changed) // 2] ^= 0x55
    path = tmp_path / "log"
    path.write_bytes(changed)
    with pytest.raises(LogError, match="log is corrupt and cannot be unpacked|line at offset .* is corrupt"):
        rows(open_log(path))


@pytest.mark.parametrize("kind", PACK)
def test_a_small_file_that_unpacks_to_much(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LARGEST_PACKED_ENTRY", 2**22)
    monkeypatch.setattr(storage, "MOST_UNPACKED", 2**23)
    monkeypatch.setattr(storage, "MOST_RATIO", 1)
    monkeypatch.setattr(storage, "MOST_SPOOLED", 2**21)
    path = tmp_path / "log"
    for content, message in (
        (b'{"inputs": [["' + b"a" * 2**25, "log unpacks to more than 8388608 bytes"),
        (lines(1) + (b" " * 2**16 + b"\n") * 2**9, "log unpacks to more than 8388608 bytes"),
    ):
        path.write_bytes(PACK[kind](content))
        tracemalloc.start()
        with pytest.raises(LogError, match=message):
            rows(open_log(path))
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()
    np.savez(tmp_path / "log.npz", inputs=np.zeros((2**20, 1), np.float32))
    path.write_bytes(PACK[kind]((tmp_path / "log.npz").read_bytes()))
    with pytest.raises(LogError, match="more than 2097152 bytes to be copied. Download and unpack it first"):
        rows(open_log(path))


# What is wrong


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "Cannot read .*missing: No such file"),
        ("missing/*.jsonl", r"Nothing matches .*missing/\*.jsonl. Put a glob in quotes"),
        ("empty", "empty holds no request log: neither it nor a folder in it has files called requests-NUMBER-TIME"),
        ("emp*", "empty holds no request log"),
    ],
)
def test_nothing_there(place: Any, name: str, message: str) -> None:
    root = place({"empty/deeper/still/notes.txt": b"no log"})
    with pytest.raises(LogError, match=message):
        open_log(f"{root}/{name}")


def test_missing_packages_and_unknown_protocols(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="the protocol gopher:// is unknown. Accepted are paths and .* s3://BUCKET/KEY"):
        open_log("gopher://host/log")
    for module in ("s3fs", "gcsfs", "adlfs", "backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    for url, extra in (("s3://b/log", "s3"), ("gs://b/log", "gs"), ("abfs://c@a.dfs.core.windows.net/l", "abfs")):
        with pytest.raises(LogError, match=rf"{url} needs the driver of .*: pip install 'dynamarks_tf\[{extra}\]'"):
            open_log(url)
    (tmp_path / "log").write_bytes(PACK["zst"](lines(1)))
    with pytest.raises(LogError, match=r"pip install 'dynamarks_tf\[zstd\]'. Or unpack it"):
        open_log(tmp_path / "log")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(LogError, match=r"memory://log needs the package fsspec: .*'dynamarks_tf\[remote\]'"):
        open_log("memory://log")


@pytest.mark.parametrize("method", ["info", "ls", "_open"])
def test_a_server_that_refuses(monkeypatch: pytest.MonkeyPatch, records: Any, method: str) -> None:
    """The words of its driver may hold secrets."""
    folder = f"memory://{uuid.uuid4()}"
    with fsspec.open(f"{folder}/requests-1-a.tfrecord", "wb") as file:
        file.write(records(1))
    memory = type(fsspec.filesystem("memory"))
    for error, reason in (
        (PermissionError("key AKIA"), "Permission denied"),
        (PermissionError(13, "key AKIA"), "Permission denied"),
        (RuntimeError("no credentials t0ken"), "RuntimeError"),
    ):

        def refuse(*arguments: Any, error: Exception = error, **options: Any) -> Any:
            raise error

        monkeypatch.setattr(memory, method, refuse)
        with pytest.raises(LogError, match=f"^Cannot read {folder.replace('//', '//+')}[^ ]*: {reason}$"):
            open_log(folder)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://AKIA:pa/ss@bucket/log", "s3://***@bucket/log"),
        ("https://t0ken@host/log?sig=t0ken&x=a@b", "https://***@host/log?..."),
        ("sftp://AKIA:pa/ss@host:22/log.gz", "sftp://***@host:22/log.gz"),
        ("simplecache::s3://AKIA:pa/ss@bucket/log", "simplecache::s3://***@bucket/log"),
        ("zip://a/b.gz::https://t0ken@host/log", "zip://***@host/log"),
        ("abfs://container@account.dfs.core.windows.net/log?t0ken", "abfs://container@account.dfs.core.windows.net/log?..."),
        ("memory://a/b@c/log\n", "memory://a/b@c/log\\n"),
    ],
)  # fmt: skip
def test_secrets_in_urls_are_never_shown(url: str, shown: str) -> None:
    assert storage.without_secrets(url) == shown
    if "t0ken" in url or "AKIA" in url:
        with pytest.raises(LogError) as caught:
            open_log(url.replace("://", "x://"))
        assert not any(secret in str(caught.value) + repr(caught.value.__cause__) for secret in SECRETS)


def test_no_secret_in_what_a_log_tells_of_itself() -> None:
    root = f"memory://AKIA:pa/ss@{uuid.uuid4()}"
    with fsspec.open(f"{root}/log.jsonl?t0ken", "wb") as file:
        file.write(lines(1) + b'{"inputs')
    log = open_log(f"{root}/log.jsonl?t0ken")
    with pytest.warns(UserWarning, match=r"log.jsonl\?...: the last line") as caught:
        assert rows(log) == [1]
    assert log.files[0].file.last_name == "log.jsonl?..."
    told = repr([log.paths, log.problems, caught[0].message, log.files[0].file])
    assert not any(secret in told for secret in SECRETS)


def test_missing_numbers_are_told(place: Any, records: Any) -> None:
    names = (3, 4, 6, 10, 12, 14, 16, 18)
    root = place({f"clf/requests-{n:08}-x.tfrecord": records(n) for n in names})
    message = r"clf seems incomplete: .* with number 5, 7 to 9, 11, 13, 15 and 1 more gaps. .* restore the files"
    with pytest.warns(UserWarning, match=message) as caught:
        log = open_log(root)
    for each in (log, log.taking((1,))):
        assert rows(each) == list(names)
        assert each.problems == [str(caught[0].message)]


def test_a_file_given_twice_is_read_once(place: Any, records: Any) -> None:
    first = "requests-00000001-x.tfrecord"
    root = place({first: records(1), f"{first}.gz": PACK["gz"](records(1)), "requests-00000002-x.tfrecord": records(2)})
    with pytest.warns(UserWarning, match=f"{first}.gz is left out: .*{first} is the same file") as caught:
        assert rows(open_log(root)) == [1, 2]
    assert len(caught) == 1
    for twice in ([f"{root}/{first}"] * 2, [f"{root}/{first}", f"{root}/*1-x.tfrecord"]):
        with pytest.warns(UserWarning, match=f"{first} was given more than once; it is read once"):
            log = open_log(twice)
        assert rows(log) == [1]


def test_a_compressed_log_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    text = lines(*itertools.repeat(1, 2000))
    peaks = []
    for copies in (30, 300):
        path.write_bytes(PACK["zst"](text * copies))
        log = open_log(path)
        tracemalloc.start()
        opened = stored(path).open()
        assert sum(len(block) for block in iter(lambda: opened.read(2**16), b"")) == len(text) * copies  # noqa: B023
        opened.close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(next(log.batches(10))) == 10
    assert peaks[1] < 1.2 * peaks[0] < 2**23
