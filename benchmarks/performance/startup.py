"""How long the commands that need no model take, as a ratio to `python -c pass`.

    python benchmarks/performance/startup.py [--rounds 11]

Each round starts `python -c pass` and every command once, one after the other; the ratio is taken within the round, so
that other work on the machine affects both. Printed: the median of the ratios, their quartiles, the median time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dynamarks_tf.keys.key import MarkKey

COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "keygen": ["keygen", "--owner", "ACME", "--out", "new.key", "--force"],
    "commit": ["commit", "acme.key"],
    "inspect of a key": ["inspect", "acme.key"],
    "verify --help": ["verify", "--help"],
    "completion bash": ["completion", "bash"],
}


def seconds(words: list[str], folder: str) -> float:
    """Seconds that Python takes with these arguments, in a folder."""
    start = time.perf_counter()
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="rounds (default 11)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        MarkKey.generate("ACME").save(Path(folder) / "acme.key")
        for words in COMMANDS.values():  # fills the disk cache
            seconds(["-m", "dynamarks_tf", *words], folder)
        times = []
        for _ in range(rounds):
            base = seconds(["-c", "pass"], folder)
            times.append([base, *(seconds(["-m", "dynamarks_tf", *words], folder) for words in COMMANDS.values())])
    table = np.array(times)
    print(f"python -c pass: {np.median(table[:, 0]) * 1000:.0f} ms, median of {rounds} rounds\n")
    print("| command | ratio | quartiles | ms |\n|---|---|---|---|")
    for name, column in zip(COMMANDS, table[:, 1:].T, strict=True):
        low, middle, high = np.quantile(column / table[:, 0], [0.25, 0.5, 0.75])
        print(f"| `{name}` | {middle:.1f} | {low:.1f} to {high:.1f} | {np.median(column) * 1000:.0f} |")


if __name__ == "__main__":
    main()
