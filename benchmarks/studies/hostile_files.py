"""What refusing hostile model files costs: prints the table of docs/security-suspects.md.

    python -m benchmarks.studies.hostile_files

Each file is opened in a copy of this process, so that the peak of its memory is its own.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
import time
from pathlib import Path

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.isolated import KINDS
from tests.helpers.hostile_files import CASES

OPENERS = {
    "keras": "keras_model.KerasSuspect",
    "saved_model": "saved_model.SavedModelSuspect",
    "tflite": "tflite.TFLiteSuspect",
    "onnx": "onnx_model.OnnxSuspect",
}


def main() -> None:
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
