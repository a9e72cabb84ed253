"""A Spark cluster of two workers, one of which is killed, reduces a log to the bytes that one process reduces it to."""

import base64
import contextlib
import io
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import dynamarks_tf as dm
from dynamarks_tf.distributed.spark import SparkEngine, grouped
from dynamarks_tf.distributed.worker import ReduceFiles, TaskFile
from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs import open_log, reduction_file
from dynamarks_tf.verification.owner import resolve_owner
from dynamarks_tf.verification.reducing import placed
from tests.helpers import ROOT
from tests.helpers.reducing import marked_model, write_log

FILES = 8
PATIENCE_S = 600.0  # a busy machine needs minutes to start two executors with TensorFlow
TOKEN = f"dynamarks-spark-test-{secrets.token_hex(8)}"
# Each file takes the workers so long that one of them can be killed in between.
SLOW = """
    import os
    import time
    from dynamarks_tf.verification.reducing import Reducer

    whole = Reducer.file

    def file(*arguments, **options):
        time.sleep(1)
        found = whole(*arguments, **options)
        with open(os.environ["DYNAMARKS_TEST_DONE"], "a") as done:
            done.write("x")
        return found

    Reducer.file = file
"""


def ours():
    """Processes that this test began, by a word in their environment."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if TOKEN.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                yield int(path.parent.name)


def kill(numbers):
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not happen within {PATIENCE_S:g} s"
        time.sleep(0.1)
    return found


class Cluster:
    """A standalone master and two workers on the loopback interface."""

    def __init__(self, folder, spark_home):
        self._folder, self._home = folder, spark_home
        (folder / "modules").mkdir()
        (folder / "modules" / "slow_reader.py").write_text(textwrap.dedent(SLOW))
        path = os.pathsep.join([str(ROOT), str(folder / "modules")])
        self.environ = {
            "DYNAMARKS_TEST": TOKEN,
            "DYNAMARKS_TEST_DONE": str(folder / "done"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_CONF_DIR": str(folder / "conf"),
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": path,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        (folder / "conf").mkdir()
        (folder / "events").mkdir()
        (folder / "conf" / "spark-defaults.conf").write_text(
            textwrap.dedent(f"""
            spark.driver.host 127.0.0.1
            spark.driver.bindAddress 127.0.0.1
            spark.ui.enabled false
            spark.eventLog.enabled true
            spark.eventLog.compress false
            spark.eventLog.dir file://{folder}/events
            spark.local.dir {folder}/local
            spark.executor.memory 512m
            spark.driver.memory 512m
            """)
        )
        self._master = self._start("master.Master", "--port", "0")
        begun = re.compile(r"spark://127\.0\.0\.1:\d+")
        self.address = until(lambda: begun.search(self.log("master.Master")))[0]
        self.workers = [self._start("worker.Worker", "--port", "0", "-c", "1", "-m", "600m", number=n) for n in "12"]
        until(lambda: self.log("master.Master").count("Registering worker") == 2)

    def _start(self, name, *options, number=""):
        if number:
            options = (*options, "-d", str(self._folder / f"work-{number}"), self.address)
        command = [self._home / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", "--host", "127.0.0.1"]
        with (self._folder / f"{name}{number}.log").open("w") as log:
            return subprocess.Popen(
                [*command, "--webui-port", "0", *options],
                env={**os.environ, **self.environ, "DYNAMARKS_TEST": f"{TOKEN}{number}"},
                stdout=log,
                stderr=log,
            )

    def log(self, name):
        return (self._folder / f"{name}.log").read_text()

    def kill_worker(self, number):
        """Kills a worker and all that it began."""
        marked = f"{TOKEN}{number}\0".encode()
        kill([each for each in ours() if marked in Path(f"/proc/{each}/environ").read_bytes()])


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    pytest.importorskip("pyspark", reason="Spark is not installed: make test-spark")
    pytest.importorskip("pandas", reason="Spark is not installed: make test-spark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    import pyspark
    from pyspark import SparkContext

    try:
        cluster = Cluster(tmp_path, Path(pyspark.__file__).parent)
        for name, value in cluster.environ.items():
            monkeypatch.setenv(name, value)
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            SparkContext._active_spark_context.stop()
        kill(ours())
        SparkContext._gateway = SparkContext._jvm = None


def secret_forms(key, owner):
    """What no worker may see: the key and the tables of signs, in the forms that they might have."""
    secret = bytes(range(32))
    assert dm.MarkKey(secret, key.owner).commitment == key.commitment
    forms = [secret, secret.hex().encode(), base64.b64encode(secret)[:40], base64.urlsafe_b64encode(secret)[:40]]
    book = owner.codebook(key)
    for signs in (book.class_signs, book.amplitude_signs, book.tie_signs, book.class_choice_signs):
        part = signs.ravel()[:30]
        forms += [part.astype(kind).tobytes() for kind in (np.int8, np.int32, np.float32)]
        forms += [np.packbits(signs.ravel()[:256] > 0, bitorder=order).tobytes() for order in ("big", "little")] * (
            signs.size >= 256
        )
        forms.append(str(part.tolist())[1:-1].encode())
    return forms


def contents(data):
    """Some bytes, and if they are an archive, those of its members."""
    yield data
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from contents(archive.read(name))


def test_a_cluster_that_loses_a_worker_makes_the_same_bytes_and_sees_no_secret(cluster, key, tmp_path):
    logs = [write_log(tmp_path / f"{seed}.jsonl", seed) for seed in range(FILES)]
    owner = resolve_owner(marked_model(key), key)
    given = {"owner": owner, "key": key}
    dm.reduce_log(logs, out=tmp_path / "here", **given)
    killed = threading.Event()

    def kill_in_the_middle():
        done = tmp_path / "done"
        until(lambda: done.exists() and done.stat().st_size >= 2)
        cluster.kill_worker("1")
        if done.stat().st_size < FILES:
            killed.set()

    thread = threading.Thread(target=kill_in_the_middle, daemon=True)
    thread.start()
    dm.reduce_log(logs, out=tmp_path / "there", engine=SparkEngine(cluster.address, ("slow_reader",)), **given)
    assert killed.is_set()
    assert "Removing worker" in cluster.log("master.Master") or "DEAD" in cluster.log("master.Master")
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()

    forms = secret_forms(key, owner)
    kits = list(tmp_path.rglob("*.kit"))
    assert kits
    assert list((tmp_path / "events").rglob("*"))
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        for data in contents(path.read_bytes()):
            assert not [form for form in forms if form in data], path


def test_what_is_pickled_for_the_workers_holds_no_secret(key, tmp_path):
    cloudpickle = pytest.importorskip("pyspark.cloudpickle", reason="Spark is not installed: make test-spark")
    owner = resolve_owner(marked_model(key), key)
    logs = open_log([write_log(tmp_path / f"{seed}.jsonl", seed) for seed in range(3)])
    pickled = cloudpickle.dumps(ReduceFiles("name.kit", grouped(placed(logs.files))))
    assert not [form for form in secret_forms(key, owner) if form in pickled]
    assert len(pickled) < 2000


def test_a_worker_says_what_it_cannot_read(key, tmp_path, monkeypatch):
    """Rows go from task to task as they do in Spark, which is not needed for this."""
    pytest.importorskip("pyarrow")
    import pyarrow as pa

    from dynamarks_tf.distributed import kit, worker
    from dynamarks_tf.verification.whole_log import marked_of

    owner = resolve_owner(marked_model(key), key)
    settings = {"activation": "softmax", "from_logits": False, "input": None, "batch_size": 64, "modules": []}
    marked = marked_of(owner, owner.codebook(key).keyed_hash)
    kit.write(tmp_path / "kit", owner.model, marked, {**settings, "allow_code": False})
    fake = type(sys)("pyspark")
    fake.SparkFiles = type("SparkFiles", (), {"get": staticmethod(lambda name: str(tmp_path / name))})
    fake.TaskContext = type("TaskContext", (), {"get": staticmethod(lambda: None)})
    monkeypatch.setitem(sys.modules, "pyspark", fake)
    monkeypatch.setattr(worker, "PIECE_BYTES", 1000)
    paths = [write_log(tmp_path / f"{seed}.jsonl", seed) for seed in range(3)]
    reduce = worker.ReduceFiles("kit", [[TaskFile(str(path), path.stat().st_size, 0)] for path in paths])
    numbers = pa.RecordBatch.from_arrays([pa.array([0, 1, 2])], names=["id"])
    pieces = list(reduce([numbers]))
    assert len(pieces) > 20
    order = np.random.default_rng(0).permutation(len(pieces))
    _, found = worker.merged(row for each in order for row in pieces[each].to_pylist())
    reduction_file.write(found, tmp_path / "there")
    dm.reduce_log(paths, owner=owner, key=key, out=tmp_path / "here")
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    with pytest.raises(LogError, match="lost a part"):
        worker.merged(row for batch in pieces[1:] for row in batch.to_pylist())
    paths[1].unlink()
    with pytest.raises(LogError, match=r"1.jsonl.* \(on "):
        worker.merged(row for batch in worker.merge_parts(reduce([numbers])) for row in batch.to_pylist())
