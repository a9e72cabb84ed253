"""What do readers of foreign files and answers make of damaged ones? Mutated inputs, counted by their outcome.

    python benchmarks/studies/fuzz_readers.py                     # 1,000 inputs for each reader; prints a table
    python benchmarks/studies/fuzz_readers.py --only csv --count 100

Each reader gets small valid inputs that were mutated: bits, cuts, copies, huge numbers, deep lists; of archives and
framed records also what is inside, put back with valid checksums and signatures. It may read them or refuse them by an
error of the package. Everything else is counted: other exceptions, warnings of NumPy, inputs that take longer than the
deadline, and the largest memory that one input took.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import re
import signal
import socketserver
import tempfile
import threading
import time
import tracemalloc
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import study_file
from dynamarks_tf._support.storage import local_file
from dynamarks_tf.datasets import load_npy, load_npz
from dynamarks_tf.datasets.table import load_table
from dynamarks_tf.errors import DynaMarksError
from dynamarks_tf.keys import commitment
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.request_logs import open_log, reduction_file
from dynamarks_tf.request_logs.tf_record import frame
from dynamarks_tf.suspects.answer_file import AnswerFileSuspect
from dynamarks_tf.suspects.queries import ArrayQueries, load_queries

RESULTS = Path(__file__).parent / "results" / "fuzz-readers.json"
FORMAT, FORMAT_VERSION = "dynamarks-fuzz-readers", 1
DEADLINE_S = 10.0
_X = np.linspace(0, 1, 24, dtype=np.float32).reshape(12, 2)
_P = np.random.default_rng(0).dirichlet(np.ones(3), len(_X))
_NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"4294967295", b"9223372036854775808", b"9" * 400, b"9" * 5000)
_VALUES = (None, True, -1, 2**63, 10**400, 1e300, float("nan"), "", "\ud800", "x" * 10_000, [], {}, [[]], [[[0]]])
_WORDS = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff" * 8, b"\x00" * 8)

Mutation = Callable[[bytes, random.Random], bytes]


class HangError(BaseException):
    """An input took longer than the deadline. No reader catches it."""


class Reader(NamedTuple):
    """One reader.

    Attributes:
        samples: valid inputs.
        read: reads an input.
        mutations: ways to change a sample.
    """

    samples: list[bytes]
    read: Callable[[bytes], Any]
    mutations: tuple[Mutation, ...]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(changed) + 1)
        end = min(len(changed), place + rng.choice((1, 2, 8, 100)))
        kind = rng.randrange(7)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place:end] = rng.randbytes(end - place)
        elif kind == 2:
            del changed[place:end]
        elif kind == 3:
            changed[place:place] = changed[place:end] * rng.choice((1, 10, 1000))
        elif kind == 4:
            changed[place : place + 4] = rng.choice(_WORDS)
        elif kind == 5:
            changed[place:place] = rng.choice((b"[", b"{", b'{"a":', b'"', b"\\", b",")) * rng.choice((1, 600, 20_000))
        else:
            del changed[place:]
    return bytes(changed)


def with_numbers(data: bytes, rng: random.Random) -> bytes:
    """Text in which a number is another one."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", data))
    if not found:
        return mutated(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_NUMBERS) + data[match.end() :]


def with_values(data: bytes, rng: random.Random) -> bytes:
    """JSON in which some value is another one; of JSON lines, in one line."""
    lines = data.splitlines(keepends=True)
    index = rng.randrange(len(lines)) if data.count(b"\n{") else -1
    try:
        content = json.loads(lines[index] if index >= 0 else data)
    except ValueError:
        return mutated(data, rng)
    holder, key = rng.choice(list(_places(content)))
    if isinstance(holder, dict) and rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(_VALUES)
    text = json.dumps(content).encode()
    return text if index < 0 else b"".join([*lines[:index], text + b"\n", *lines[index + 1 :]])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield value, key
        yield from _places(each)


def repacked(inner: Mutation) -> Mutation:
    """Changes one member of an archive and puts it back with a valid checksum, deflated or not."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(members))
        members[name] = inner(members[name], rng)
        buffer = io.BytesIO()
        kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for each, content in members.items():
                archive.writestr(each, content)
        return buffer.getvalue()

    return mutate


def array(data: bytes, rng: random.Random) -> bytes:
    """An array whose header declares something else, of the same length."""
    size = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + size].decode("latin-1")
    shape = rng.choice(("(10000000000,)", "(0, 10000000)", "(-1, 3)", "()", "(99999999999999999999, 2)", "(12, 3, 1)"))
    descr = rng.choice(("<f8", ">f4", "|O", "<U100000000", "|S0", "|V8", "<c16", "<M8[ns]", "[('a','<f8')]", "<i8"))
    pattern, text = rng.choice(((r"\(.*?\)", shape), (r"'[<>|]..?'", repr(descr)), ("False", "True"), ("'", "(" * 99)))
    header = re.sub(pattern, lambda _: text, header, count=1).rstrip()[: size - 1]
    return data[:10] + header.ljust(size - 1).encode("latin-1") + b"\n" + data[10 + size :]


def reframed(data: bytes, rng: random.Random) -> bytes:
    """A TFRecord file one of whose records holds something else, with valid checksums."""
    records, start = [], 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 8], "little")
        records.append(data[start + 12 : start + 12 + size])
        start += size + 16
    index = rng.randrange(len(records))
    records[index] = mutated(records[index], rng)
    return b"".join(b"".join(frame(each)) for each in records)


def packed(data: bytes, rng: random.Random) -> bytes:
    """A compressed file, damaged on one of both sides."""
    import gzip

    return mutated(gzip.compress(data), rng) if rng.random() < 0.5 else gzip.compress(mutated(data, rng))


def file_readers(folder: Path) -> dict[str, Reader]:
    """Readers of files that need no TensorFlow."""

    def of(suffix: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        def reading(data: bytes) -> Any:
            path = folder / f"input{suffix}"
            path.write_bytes(data)
            return read(path)

        return reading

    key = MarkKey(bytes(range(32)), "ACME")
    statement = json.dumps(commitment.commit(key, date="2026-01-01").to_dict()).encode()
    archive = (repacked(mutated), repacked(array), repacked(array), mutated)
    text = (mutated, with_numbers, with_values)
    inputs, labels = np.tile(_X, (2, 1)), np.arange(24) % 3
    events = [
        {"specversion": "1.0", "id": str(n), "type": "org.kubeflow.serving.inference.request", "data": {"instances": x}}
        for n, x in enumerate([_X[:2].tolist(), _X[2:].tolist()])
    ]
    logged = [{"inputs": _X[:5].tolist(), "client": "a", "time": 1.5, "version": 1}, {"inputs": _X[5:].tolist()}]
    named = {name: column for name, column in zip("abc", _P.T, strict=True)}
    rows = [{name: float(column[n]) for name, column in named.items()} for n in range(len(_X))]
    numbers = "a,b,label\n" + "".join(f"{x[0]},{x[1]},{y}\n" for x, y in zip(inputs, labels, strict=True))
    answered = "a,b,c\n" + "".join(",".join(map(str, p)) + "\n" for p in _P)

    def answers(path: Path) -> Any:
        return AnswerFileSuspect(path, ArrayQueries(_X)).predict(_X)

    def log(path: Path) -> Any:
        opened = open_log(path)
        return opened.clients(), sum(map(len, opened.batches(64)))

    return {
        "key": Reader([key.to_json()], lambda data: MarkKey.from_json(data, "k"), text),
        "statement": Reader([statement], of(".json", Statement.load), text),
        "npz answers": Reader([_npz(answers=_P), _npz(answers=labels[:12])], of(".npz", answers), archive),
        "npz data set": Reader([_npz(x=inputs, y=labels)], of(".npz", load_npz), archive),
        "npz queries": Reader([_npz(x=_X), _npz(x=np.array(["a", "bc"]))], of(".npz", load_queries), archive),
        "npz log": Reader(
            [_npz(inputs=_X, client=np.array(["a", "b"] * 6), time=np.arange(12.0), version=1)],
            of(".npz", log),
            archive,
        ),
        "npy data set": Reader(
            [_npy(_X)], of(".npy", lambda path: load_npy(path, _saved(folder / "y.npy", labels[:12]))), (mutated, array)
        ),
        "csv answers": Reader([answered.encode()], of(".csv", answers), (mutated, with_numbers)),
        "csv data set": Reader([numbers.encode()], of(".csv", load_table), (mutated, with_numbers)),
        "jsonl answers": Reader([_lines(rows)], of(".jsonl", answers), text),
        "jsonl log": Reader([_lines(logged)], of(".jsonl", log), (*text, packed)),
        "CloudEvents log": Reader([_lines(events)], of(".jsonl", log), (*text, packed)),
        **_parquet_readers(of, answers, named),
    }


def _parquet_readers(of: Any, answers: Callable[[Path], Any], named: dict[str, Any]) -> dict[str, Reader]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return {}

    def table(**columns: Any) -> bytes:
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), buffer)
        return buffer.getvalue()

    return {
        "parquet answers": Reader([table(**named), table(answers=list(_P))], of(".parquet", answers), (mutated,)),
        "parquet data set": Reader(
            [table(text=["a", "b"] * 12, label=[0, 1, 2] * 8)], of(".parquet", load_table), (mutated,)
        ),
    }


def log_readers(folder: Path) -> dict[str, Reader]:
    """Readers of logged tensors, which need TensorFlow's messages."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    from dynamarks_tf.request_logs.prediction_log import encode

    records = b""
    for start in (0, 4, 8):
        request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(_X[start : start + 4]))
        response.outputs["p"].CopyFrom(tf.make_tensor_proto(_P[start : start + 4]))
        records += b"".join(frame(encode(request, response, client="a", time=1.0 + start)))

    def log(data: bytes) -> Any:
        path = folder / "log.tfrecord"
        path.write_bytes(data)
        return sum(map(len, open_log(path).batches(64)))

    return {"TFRecord log": Reader([records], log, (mutated, reframed, reframed, packed))}


def bundle_readers(folder: Path) -> dict[str, Reader]:
    """Readers of evidence bundles and of reduced logs, which are made by a small model."""
    import keras

    import dynamarks_tf as dm
    from dynamarks_tf.case import bundle as bundles
    from dynamarks_tf.recheck import recheck

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(10, activation="softmax")])
    key = MarkKey(bytes(range(32)), "ACME")
    marked = dm.mark(model, key)
    statement = commitment.commit(key, date="2026-01-01")
    path, reduced = folder / "sample.zip", folder / "sample.reduced"
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.savez(folder / "x.npz", inputs=x)
    options = {"owner": marked, "key": key}
    dm.verify(
        lambda batch: np.asarray(model(batch)),
        queries=x,
        bundle=dm.BundleOptions(path, statement=statement, include_queries=True),
        **options,
    )
    dm.reduce_log(folder / "x.npz", out=reduced, **options)

    def resigned(data: bytes, rng: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if name != bundles.MANIFEST}
        name = rng.choice(list(members))
        if name.endswith(".npz"):
            members[name] = rng.choice((mutated, repacked(mutated), repacked(array)))(members[name], rng)
        else:
            members[name] = rng.choice((mutated, with_numbers, with_values))(members[name], rng)
        target = folder / "forged.zip"
        target.unlink(missing_ok=True)
        bundles.write_bundle(
            target,
            members,
            (),
            commitment=key.commitment,
            public_key=commitment.public_key(key),
            sign=lambda each: commitment.sign(each, key),
        )
        return target.read_bytes()

    def read(data: bytes) -> Any:
        (folder / "input.zip").write_bytes(data)
        return recheck(folder / "input.zip", key=key)

    def read_reduced(data: bytes) -> Any:
        (folder / "input.reduced").write_bytes(data)
        return reduction_file.read(local_file(folder / "input.reduced"))

    return {
        "bundle": Reader([path.read_bytes()], read, (mutated, resigned, resigned, resigned)),
        "reduced log": Reader([reduced.read_bytes()], read_reduced, (mutated, repacked(mutated), repacked(array))),
    }


@contextlib.contextmanager
def answer_readers() -> Iterator[dict[str, Reader]]:
    """Readers of the answers of servers, over loopback."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

    from dynamarks_tf.suspects import as_suspect, retries

    retries.FIRST_WAIT_S = 1e-3
    answer = b""

    class Http(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(5)
            head = b""
            while b"\r\n\r\n" not in head:
                part = self.request.recv(65536)
                if not part:
                    return
                head += part
            length = int((re.search(rb"(?i)content-length: *(\d+)", head) or [b"", b"0"])[1])
            body = head.partition(b"\r\n\r\n")[2]
            while len(body) < length:
                body += self.request.recv(65536)
            with contextlib.suppress(OSError):
                self.request.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + (_METADATA if not length else answer)
                )

    class Grpc(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            if details.method.endswith("GetModelMetadata"):
                return grpc.unary_unary_rpc_method_handler(lambda *_: metadata)
            return grpc.unary_unary_rpc_method_handler(lambda *_: answer)

    signatures = get_model_metadata_pb2.SignatureDefMap()
    definition = signatures.signature_def["serving_default"]
    definition.inputs["x"].dtype = definition.outputs["probabilities"].dtype = tf.float32.as_datatype_enum
    for size in (-1, 2):
        definition.inputs["x"].tensor_shape.dim.add(size=size)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(signatures)
    metadata = response.SerializeToString()
    predicted = predict_pb2.PredictResponse()
    predicted.outputs["probabilities"].CopyFrom(tf.make_tensor_proto(_P.astype(np.float32)))
    listed = predict_pb2.PredictResponse()
    listed.outputs["probabilities"].CopyFrom(predicted.outputs["probabilities"])
    listed.outputs["probabilities"].ClearField("tensor_content")
    listed.outputs["probabilities"].float_val.extend(_P.ravel().tolist())

    def body(content: Any) -> bytes:
        text = json.dumps(content).encode()
        return b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text

    def resized(inner: Mutation) -> Mutation:
        def mutate(data: bytes, rng: random.Random) -> bytes:
            text = inner(data.partition(b"\r\n\r\n")[2], rng)
            return b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text

        return mutate

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    http = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Http)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([Grpc()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    address = f"http://127.0.0.1:{http.server_address[1]}"
    rest = as_suspect(f"{address}/v1/models/clf", timeout_s=5.0, most_values=4096)
    v2 = as_suspect(f"{address}/v2/models/clf", timeout_s=5.0, most_values=4096)
    over_grpc = as_suspect(f"grpc://127.0.0.1:{port}/clf", timeout_s=5.0, most_values=4096)

    def reading(suspect: Any) -> Callable[[bytes], Any]:
        def read(data: bytes) -> Any:
            nonlocal answer
            answer = data
            return suspect.predict(_X)

        return read

    text = (mutated, resized(mutated), resized(with_numbers), resized(with_values))
    tensor = {"name": "p", "shape": [12, 3], "datatype": "FP32", "data": _P.ravel().tolist()}
    named = [{"label": name, "score": float(score)} for name, score in zip("abc", _P[0], strict=True)]
    try:
        yield {
            "HTTP answer": Reader(
                [body({"outputs": _P.tolist()}), body({"outputs": [named] * 12})], reading(rest), text
            ),
            "HTTP answer, V2": Reader([body({"outputs": [tensor]})], reading(v2), text),
            "gRPC answer": Reader(
                [predicted.SerializeToString(), listed.SerializeToString()], reading(over_grpc), (mutated,)
            ),
        }
    finally:
        for suspect in (rest, v2, over_grpc):
            suspect.close()
        http.shutdown()
        http.server_close()
        server.stop(0).wait()


_STATUS = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
_SIGNATURE = {
    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "2"}]}}},
    "outputs": {"probabilities": {"dtype": "DT_FLOAT"}},
}
_DESCRIBED = json.dumps(
    {
        "metadata": {"signature_def": {"signature_def": {"serving_default": _SIGNATURE}}},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, 3]}],
    }
).encode()
_METADATA = b"Content-Length: %d\r\n\r\n" % len(_DESCRIBED) + _DESCRIBED


def tried(name: str, reader: Reader, count: int, seed: int, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Lets a reader read mutated inputs.

    Args:
        name: of the reader.
        reader: the reader.
        count: how many inputs.
        seed: of the mutations.
        deadline_s: seconds that an input may take.

    Returns:
        What came out, and the first inputs that were neither read nor refused.
    """
    rng = random.Random(f"{seed} {name}")
    outcomes, raw = Counter[str](), Counter[str]()
    slowest, largest = 0.0, 0
    for sample in reader.samples:
        reader.read(sample)
    tracemalloc.start()
    try:
        for _ in range(count):
            data = rng.choice(reader.mutations)(rng.choice(reader.samples), rng)
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.perf_counter()
            outcome, problem = _outcome(reader, data, deadline_s)
            slowest = max(slowest, time.perf_counter() - began)
            largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
            outcomes[outcome] += 1
            if problem:
                raw[problem] += 1
    finally:
        tracemalloc.stop()
    return {
        "reader": name,
        "inputs": count,
        **{each: outcomes[each] for each in ("read", "refused", "raw exceptions", "warnings", "hangs")},
        "peak MB": largest / 1e6,
        "slowest s": slowest,
        "problems": [f"{times} x {problem}" for problem, times in raw.most_common(10)],
    }


def _outcome(reader: Reader, data: bytes, deadline_s: float) -> tuple[str, str]:
    """What a reader makes of an input, and what was wrong with that."""

    def late(*_: Any) -> None:
        raise HangError

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            reader.read(data)
        return "read", ""
    except DynaMarksError:
        return "refused", ""
    except RuntimeWarning as warning:
        return "warnings", f"{warning}"
    except HangError:
        return "hangs", "hang"
    except Exception as error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        place = trace and f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        return "raw exceptions", f"{type(error).__name__} at {place}: {str(error)[:80]!a}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def table(rows: list[dict[str, Any]]) -> str:
    """The results for people, in Markdown."""
    columns = [name for name in rows[0] if name != "problems"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (f"{value:.2g}" if isinstance(value, float) else str(value) for value in map(row.get, columns))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _saved(path: Path, values: Any) -> Path:
    np.save(path, values)
    return path


def _lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description="Mutated inputs for every reader.")
    parser.add_argument("--count", type=int, default=1000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="readers whose name holds this; then nothing is written")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, answer_readers() as answers:
        folder = Path(name)
        parts = (file_readers(folder), log_readers(folder), bundle_readers(folder), answers)
        for reader, each in itertools.chain.from_iterable(part.items() for part in parts):
            if options.only and options.only not in reader:
                continue
            rows.append(tried(reader, each, options.count, options.seed))
            print(rows[-1], flush=True)
    print(table(rows))
    if not options.only:
        settings = {"seed": options.seed, "deadline_s": DEADLINE_S}
        study_file.write(RESULTS, FORMAT, FORMAT_VERSION, settings, rows)


if __name__ == "__main__":
    main()
