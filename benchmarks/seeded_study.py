"""A study that is repeated with several seeds: its command line, its file of results and its table in a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import fused_normalization, study_file
from dynamarks_tf._support import files

DOCS = Path(__file__).parents[1] / "docs"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class SeededStudy:
    """A study that is repeated with several seeds.

    Attributes:
        script: its file in `benchmarks/studies`. Results lie in the folder `results` beside it, under its name.
        page: the page of the documentation that holds its table.
        settings: what is measured, as the results keep it.
        study: measures with one seed, and returns rows, each with its `seed`.
        table: the rows as Markdown.
        seeds: that are run if none is asked for.
        version: of the format of the results.
        threads: of TensorFlow; 0: one for each core.
    """

    script: str
    page: str
    settings: dict[str, Any]
    study: Callable[[int], Rows]
    table: Callable[[Rows], str]
    seeds: tuple[int, ...] = (10, 11, 12)
    version: int = 1
    threads: int = 0

    @property
    def results(self) -> Path:
        """The file of results."""
        return Path(self.script).parent / "results" / f"{self._name}.json"

    def rows(self) -> Rows:
        """The rows of the results."""
        rows: Rows = json.loads(self.results.read_text())["rows"]
        return rows

    def report(self, page: str) -> str:
        """The page with its table made anew from the results."""
        begin = f"<!-- table: python benchmarks/studies/{Path(self.script).name} --report -->\n"
        return study_file.with_table(page, begin, "<!-- end of table -->\n", self.table(self.rows()))

    def keep(self, rows: Rows) -> Rows:
        """Writes rows of some seeds into the results, where those of other seeds stay.

        Returns:
            All rows, by seed.
        """
        seeds = {row["seed"] for row in rows}
        kept = [row for row in self.kept() if row["seed"] not in seeds]
        merged = sorted([*kept, *rows], key=lambda row: int(row["seed"]))
        study_file.write(self.results, self._format, self.version, self.settings, merged)
        return merged

    def kept(self) -> Rows:
        """The rows that are there already. Ends the program if they are of other settings."""
        if not self.results.exists():
            return []
        before = json.loads(self.results.read_text())
        wanted = {"format": self._format, "version": self.version, "settings": json.loads(json.dumps(self.settings))}
        different = [entry for entry, value in wanted.items() if before.get(entry) != value]
        if different:
            sys.exit(f"{self.results} is of another study ({', '.join(different)}): move it away, and run this again")
        return self.rows()

    def main(self, description: str | None) -> None:
        """The command line.

        Args:
            description: the text of the script, for `--help`.
        """
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        seeds = ", ".join(map(str, self.seeds))
        parser.add_argument("--seed", type=int, action="append", help=f"repeatable  [default: {seeds}]")
        parser.add_argument("--threads", type=int, default=self.threads, help="of TensorFlow; 0: one for each core")
        parser.add_argument("--report", action="store_true", help=f"write the table into docs/{self.page}")
        options = parser.parse_args()
        if options.report:
            page = DOCS / self.page
            files.write_atomically(page, self.report(page.read_text()).encode())
            return
        self.kept()  # refuses before hours have gone by
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
        fused_normalization.install()
        for seed in options.seed or self.seeds:
            rows = self.keep(self.study(seed))  # after each seed: what is done is kept
            print(self.table(rows))

    @property
    def _name(self) -> str:
        return Path(self.script).stem.replace("_", "-")

    @property
    def _format(self) -> str:
        return f"dynamarks-{self._name}-study"
