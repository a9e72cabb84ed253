"""What refusing hostile model files costs: prints the tables of docs/security-suspects.md.

    python -m benchmarks.studies.hostile_files              # each hostile file: refusal, memory, time
    python -m benchmarks.studies.hostile_files --fuzz 1500  # damaged files of each kind: what becomes of them

Each file is opened in a copy of this process, so that the peak of its memory is its own.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.keras_file import check_keras_file
from dynamarks_tf.suspects.admission.onnx_file import check_onnx_file
from dynamarks_tf.suspects.admission.saved_model import check_saved_model
from dynamarks_tf.suspects.admission.tflite_file import check_tflite_file
from dynamarks_tf.suspects.isolated import KINDS
from tests.helpers.hostile_files import CASES

CHECKS = {
    "keras": check_keras_file,
    "saved_model": check_saved_model,
    "tflite": check_tflite_file,
    "onnx": check_onnx_file,
}
NAMES = {"SavedModel": "saved_model", "Keras:": "keras", "HDF5:": "keras", "TFLite:": "tflite", "ONNX:": "onnx"}
OPENERS = {
    "keras": "keras_model.KerasSuspect",
    "saved_model": "saved_model.SavedModelSuspect",
    "tflite": "tflite.TFLiteSuspect",
    "onnx": "onnx_model.OnnxSuspect",
}


def main() -> None:
    """Prints a row for each file, or for each kind of damaged files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fuzz", type=int, metavar="COUNT", help="damaged files of each kind")
    count = parser.parse_args().fuzz
    if count is None:
        show_refusals()
        return
    print("| damaged files | read | refused | other exceptions | slowest, s |\n|---|---|---|---|---|")
    for kind in CHECKS:
        outcomes, slowest = fuzz(kind, count)
        print(f"| {kind} | {outcomes['read']:,} | {outcomes['refused']:,} | {outcomes['raw']:,} | {slowest:.2f} |")


def show_refusals() -> None:
    """Prints a row for each file."""
    for module in ("tensorflow", "keras", "onnx", "onnxruntime", "h5py", "ai_edge_litert.schema_py_generated"):
        importlib.import_module(module)
    print("| file | size | refused because | peak memory, MB | seconds |\n|---|---|---|---|---|")
    for name, (write, _) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            writing = os.fork()
            if not writing:  # a copy that has computed something cannot be copied again
                (Path(folder) / ".path").write_text(str(write(Path(folder))))
                os._exit(0)
            os.waitpid(writing, 0)
            path = Path((Path(folder) / ".path").read_text())
            opening = os.fork()
            if not opening:
                print(row(name, path), flush=True)
                os._exit(0)
            os.waitpid(opening, 0)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes changed, inserted, left out or copied."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 2, 4, 16))):
        place, length = rng.randrange(len(data)), rng.randrange(1, 9)
        way = rng.randrange(4)
        if way == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[place:place] = rng.randbytes(length)
        elif way == 2 and len(data) > 8:
            del data[place : place + length]
        else:
            data[place : place + length] = data[rng.randrange(len(data)) :][:length]
    return bytes(data)


def fuzz(kind: str, count: int) -> tuple[Counter[str], float]:
    """Damages files of a kind and checks them.

    Args:
        kind: one of `CHECKS`.
        count: number of files.

    Returns:
        How many were `read`, `refused` in words, or raised another exception (`raw`), and the longest time in seconds.
    """
    importlib.import_module("keras")  # not in the time of the first file
    check, rng, slowest = CHECKS[kind], random.Random(0), 0.0
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder, samples = Path(place), []
        for number, (name, (write, _)) in enumerate(CASES.items()):
            (folder / str(number)).mkdir()
            path = write(folder / str(number)) if NAMES[name.split()[0]] == kind else None
            if path is not None and path.stat().st_size < 50_000:
                samples.append(path / "saved_model.pb" if path.is_dir() else path)
        (folder / "damaged").mkdir()
        for _ in range(count):
            sample = rng.choice(samples)
            target = folder / "damaged" / sample.name
            target.write_bytes(damaged(sample.read_bytes(), rng))
            start = time.perf_counter()
            try:
                check(target.parent if kind == "saved_model" else target, "SUSPECT")
                outcomes["read"] += 1
            except SuspectError:
                outcomes["refused"] += 1
            except Exception:
                outcomes["raw"] += 1
            slowest = max(slowest, time.perf_counter() - start)
            target.unlink()
    return outcomes, slowest


def row(name: str, path: Path) -> str:
    """Opens a file, which is refused, and describes it."""
    module, _, opener = OPENERS[KINDS.get(path.suffix, "saved_model")].partition(".")
    opened = getattr(importlib.import_module(f"dynamarks_tf.suspects.{module}"), opener)
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before, start = memory("VmRSS"), time.perf_counter()
    try:
        opened(path, description="SUSPECT")
    except SuspectError as error:
        reason = re.sub(r"^SUSPECT (is refused: )?|If (you trust|it needs).*", "", str(error)).strip()
    seconds = time.perf_counter() - start
    peak = (memory("VmHWM") - before) / 1e3
    return f"| {name} | {size:,} | {reason.replace('|', '')} | {peak:.0f} | {seconds:.2f} |"


def memory(entry: str) -> int:
    """Kilobytes of memory, by the name in the status of this process."""
    return int(re.search(rf"{entry}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


if __name__ == "__main__":
    main()
