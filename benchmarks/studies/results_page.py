"""The page of results and the figures of the README: made from the files of results, never typed.

    python benchmarks/studies/results_page.py          # writes docs/results.md, and the two tables of the README
    python benchmarks/studies/results_page.py --demo dynamarks-demo/report.json    # first takes over a run of the demo

Each table is a short form of the page of its study. A study without results leaves its table empty.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result_file, study_file
from benchmarks.studies import calibration, frontier, keys_per_client, questions, trace
from benchmarks.studies.baselines import page as baselines
from dynamarks_tf._support import files
from dynamarks_tf.audit.results import read, read_all
from dynamarks_tf.audit.tables import Table, rounded, worst
from dynamarks_tf.watermark.layer import SCHEME
from dynamarks_tf.watermark.params import MarkParams

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"
DEMO, BASELINES = RESULTS / "demo.json", RESULTS / "baselines.json"
MAIN = "separable_cnn"  # the surrogate
MAIN_SETS = ("fashion-mnist", "digits-mixed")
OTHER_SETS = ("glyphs-1000", "photos-100")
SIDES = ("clean", "marked")
MISSING = "Not measured in this release.\n"
NOT_MEASURED = "not measured"
KEPT = {
    "full": "the probabilities",
    "1 decimal": "one decimal of them",
    "top 2": "the best two",
    "labels": "labels only; the suspect answers labels only",
    "top 1": "the best one's probability, the rest spread evenly",
    "floor subtracted": "probabilities less each class's floor",
    "tails whitened": "probabilities with whitened tails",
}
FRESH = ("10 fresh", "100 fresh", "1000 fresh")
ASKED = (15, 60, 300, 1000)
PEERS = {  # column of the table: scheme, and how it is tested
    "this package": ("ours", "ours"),
    "[DAWN](https://arxiv.org/abs/1906.00830)": ("dawn", "dawn"),
    "[CosWM](https://arxiv.org/abs/2203.02777)": ("cosine", "cosine"),
    "[DRW](https://arxiv.org/abs/2210.03312)": ("drw", "drw"),
    "[Honeytrace](https://arxiv.org/abs/2501.09328)": ("honeytrace", "honeytrace"),
}
CHANGES = ("outputs, within a budget", "0.5 % of the labels", "outputs", "outputs", "outputs")
P_VALUES = ("exact", "exact by our test", "none", "none", "asymptotic, by our t-test")


def strength() -> str | None:
    """Log10 p by what the attacker kept, untouched and fine-tuned: the worst of the seeds, on the first of the sets."""
    paths = next(filter(None, (sorted(RESULTS.glob(f"robustness-{data}-seed*.json")) for data in MAIN_SETS)), None)
    if paths is None:
        return None
    rows, facts = [row for row in _usual(paths) if row.get("architecture") == MAIN], read(paths[0])["settings"]
    lines = []
    for extraction, words in KEPT.items():
        cells = [words]
        for removal in ("none", "fine-tune all"):
            same = [row for row in rows if (row["extraction"], row["removal"]) == (extraction, removal)]
            labels = extraction == "labels"
            cells.append("-" if labels else " / ".join(_p(worst(same, column)) for column in FRESH))
            cells.append(_p(worst(same, "logged, labels" if labels else "logged")))
        if any(re.search(r"\d", cell) for cell in cells[1:]):
            lines.append(tuple(cells))
    logged = f"{facts['pool']:,} logged"
    header = ("the attacker kept", "10 / 100 / 1,000 fresh", logged, "fine-tuned: fresh", "fine-tuned: logged")
    picture = _picture("Strength of the weaker of two surrogates, by budget and number of classes", "trade-off.svg")
    return f"{Table(header, tuple(lines)).markdown()}{_about(facts, len(paths), facts['data'])}{picture}"


def removal() -> str | None:
    """What removing the mark costs an attacker: the cheapest ways, and a picture of its own study."""
    for data in MAIN_SETS:
        paths = sorted(RESULTS.glob(f"frontier-{data}-seed*.json"))
        if paths:
            rows = list(read_all(paths))
            picture = _picture("Points of accuracy lost until the mark is gone", f"frontier-{data}.svg")
            about = _about(read(paths[0])["settings"], len(paths), data)
            return f"{frontier.cheapest(data, rows).markdown()}{about}{picture}"
    return None


def kinds() -> str | None:
    """Other data: the worst of the seeds; of independent models the smallest log10 p."""
    sets: dict[str, list[Path]] = {}
    others = [path for data in OTHER_SETS for path in RESULTS.glob(f"robustness-{data}-seed*.json")]
    for path in sorted([*RESULTS.glob("kinds-*-seed*.json"), *others]):
        sets.setdefault(read(path)["settings"]["data"], []).append(path)
    lines = []
    for data, paths in sets.items():
        rows, facts = _usual(paths), read(paths[0])["settings"]
        cost = [row["cost"] for row in rows if row["kind"] == "cost"]
        stolen, labels = (
            [row for row in rows if (row.get("extraction"), row.get("removal")) == (kept, "none")]
            for kept in ("full", "labels")
        )
        found = [each for row in rows if row["kind"] == "independent" for each in row["findings"].values()]
        classes = facts.get("classes") or re.search(r"([\d,]+) classes", facts["source"])[1]  # type: ignore[index]
        accuracy = " → ".join(f"{np.mean([each[f'{side}_accuracy'] for each in cost]):.3f}" for side in SIDES)
        fresh = "-" if classes == 2 else _p(worst(stolen, "100 fresh"))
        independent = _p(min((each["log10_p"] for each in found), default=None))
        logged = (_p(worst(stolen, "logged")), _p(worst(labels, "logged, labels")))
        name = data if facts["scheme"] == SCHEME else f"{data}, scheme {facts['scheme']}"
        lines.append((name, str(classes), str(len(paths)), accuracy, fresh, *logged, independent))
    if not lines:
        return None
    header = (
        "data",
        "classes",
        "seeds",
        "accuracy, clean → marked",
        "100 fresh",
        "logged",
        "labels only",
        "independent",
    )
    return Table(header, tuple(lines)).markdown() + "\n"


def number_of_questions() -> str | None:
    """Log10 p after some numbers of questions, and where a sequential test stops."""
    content = _content(questions.STUDY.results)
    if content is None:
        return None
    rows, lines = content["rows"], []
    for form, suspects in (
        ("probabilities", ("probabilities", "probabilities, fine-tuned", "independent")),
        ("labels", ("labels", "labels, fine-tuned", "probabilities", "independent")),
    ):
        for suspect in suspects:
            places = [questions.SETTINGS["questions"].index(count) for count in ASKED]
            weakest = min if suspect == "independent" else max
            cells = [_p(weakest(row[form][suspect][place][1] for row in rows)) for place in places]
            lines.append((questions.SUSPECTS[suspect], form, *cells, questions.stop(rows, form, suspect)))
    header = ("suspect", "it answers", *(f"{count:,}" for count in ASKED), "a sequential test stops after")
    return Table(header, tuple(lines)).markdown() + _about(content["settings"], len(rows))


def comparison() -> str | None:
    """This mark beside published ones; the same table stands in the README."""
    content = _content(BASELINES)
    if content is None:
        return None
    owners = [row["cost"] for row in content["rows"] if row["name"].endswith("/owner")]
    runs = [row for row in content["rows"] if "scheme" in row and row.get("architecture", MAIN) == MAIN]
    lines = {
        "changes": CHANGES,
        "p-value; tests of independent models that accuse": [
            f"{kind}{_accused(content['rows'], detector)}"
            for kind, (_, detector) in zip(P_VALUES, PEERS.values(), strict=True)
        ],
        "fresh questions to 10^-6": [_needed(runs, *peer, "soft", "fresh") for peer in PEERS.values()],
        "the same, surrogate fine-tuned": [
            _needed(runs, *peer, "soft", "fresh", "fine-tuned") for peer in PEERS.values()
        ],
        "logged ones, label-only theft": [_needed(runs, *peer, "labels", "logged") for peer in PEERS.values()],
        "accuracy cost, points": [_cost([cost[peer] for cost in owners]) for peer, _ in PEERS.values()],
    }
    return Table(("", *PEERS), tuple((name, *cells) for name, cells in lines.items())).markdown() + "\n"


def clients() -> str | None:
    """Adjusted log10 p of the client whose answers were used, and of others."""
    traced, by_key = _content(trace.STUDY.results), _content(keys_per_client.STUDY.results)
    lines = []
    if traced is not None:
        (name,) = trace.ATTACKERS["one"]
        for kept in trace.KEPT:
            found = {
                attackers: [
                    row["adjusted_log10_p"]
                    for row in traced["rows"]
                    if (row["attackers"], row["kept"], row["sent"]) == (attackers, kept, "disjoint")
                ]
                for attackers in ("one", "none")
            }
            others = min(p for each in found["one"] for client, p in each.items() if client != name)
            nobody = min(p for each in found["none"] for p in each.values())
            theirs = max(each[name] for each in found["one"])
            lines.append((f"the request log; {kept} stolen", _p(theirs), _p(others), _p(nobody)))
    for count in (10, 100) if by_key is not None else ():
        rows = [row for row in by_key["rows"] if row["queries"] == count]
        stolen = [row for row in rows if row["suspect"] == "stolen"]
        theirs = max(row["attacker_adjusted_log10_p"] for row in stolen)
        others = min(row["others_adjusted_log10_p"] for row in stolen)
        nobody = min(row["others_adjusted_log10_p"] for row in rows if row["suspect"] == "independent")
        lines.append((f"a key for each client; {count} fresh questions", _p(theirs), _p(others), _p(nobody)))
    if not lines:
        return None
    header = ("evidence", "client whose answers were used", "strongest other client", "independent model")
    return Table(header, tuple(lines)).markdown() + "\n"


def independent_models() -> str | None:
    """The share of keys with p at most a, of independent models."""
    content = _content(calibration.RESULTS)
    if content is None:
        return None
    rows, keys = content["rows"], content["settings"]["keys"]
    models = len({row["model"] for row in rows})
    lines = []
    for channel in dict.fromkeys(row["channel"] for row in rows):
        same = [row for row in rows if row["channel"] == channel]
        shares = [f"{calibration.share(same, np.log10(a)):.5f}" for a in calibration.LEVELS]
        lines.append((channel, *shares, f"{min(row['smallest'] for row in same):.2f}"))
    planned = len(calibration.WAYS) * len(calibration.ARCHITECTURES)
    left = "" if models == planned else f" Of the {planned} models that are planned, {planned - models} are missing."
    header = ("channel", *(f"share at a = {a:g}" for a in calibration.LEVELS), "smallest log10 p")
    return f"{Table(header, tuple(lines)).markdown()}\n\n{models} models, {keys:,} keys for each.{left}\n"


def demo() -> str | None:
    """One run of `make demo`; the same table stands in the README."""
    content = _content(DEMO)
    if content is None:
        return None
    lines = []
    for row in content["rows"]:
        fresh = ["not testable" if row[column] is None else _p(row[column]) for column in FRESH[:2]]
        stop = f"{row['questions']:,}" if row["stopped"] else f"none in {row['questions']:,}"
        lines.append((row["suspect"], *fresh, _p(row["logged"]), stop))
    header = ("suspect", "10 fresh questions", "100 fresh", f"{content['logged']:,} logged", "questions needed")
    return Table(header, tuple(lines)).markdown() + "\n"


TABLES: dict[str, Callable[[], str | None]] = {
    "strength": strength,
    "removal": removal,
    "kinds": kinds,
    "questions": number_of_questions,
    "comparison": comparison,
    "clients": clients,
    "independent": independent_models,
    "demo": demo,
}
OF_README = ("comparison", "demo")


def report(page: str) -> str:
    """The page with its tables made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end of {name} -->\n"
        page = study_file.with_table(page, begin, end, table() or MISSING)
    return page


def readme(page: str) -> str:
    """The README with its tables made anew; they are found by the first two cells of their headers."""
    for name in OF_README:
        table = TABLES[name]()
        if table is not None:
            first, second = (re.escape(cell.strip()) for cell in table.split("|")[1:3])
            old = re.compile(rf"^\| *{first} *\| *{second} *\|.*?\n(?=\n)", re.MULTILINE | re.DOTALL)
            if len(old.findall(page)) != 1:
                raise ValueError(f"The README must have one table that begins with: {table.splitlines()[0]}")
            page = old.sub(lambda _, made=table: made, page)
    return page


def keep_demo(path: Path) -> None:
    """Takes over a run of the demo from its `report.json`."""
    made = json.loads(path.read_text())
    rows = []
    for suspect in made["suspects"]:
        found = suspect["evidence"]
        rows.append(
            {
                "suspect": suspect["name"],
                **{column: found[column]["log10_p"] if column in found else None for column in FRESH[:2]},
                "logged": found["logged"]["log10_p"],
                "questions": found["sequential"]["num_queries"],
                "stopped": found["sequential"]["detected"],
            }
        )
    log = made["suspects"][0]["evidence"]["logged"]["plan"]["log"]
    content = {"format": "dynamarks-demo-figures", "version": 1, "dataset": made["dataset"]}
    versions = made["suspects"][0]["evidence"]["logged"]["versions"]
    result_file.write(DEMO, {**content, "versions": versions, "logged": log["num_queries"], "rows": rows})


def _content(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _p(log10_p: float | None) -> str:
    return "-" if log10_p is None else rounded(log10_p, 1)


def _usual(paths: list[Path]) -> list[dict[str, Any]]:
    """The rows of an audit's results with the default settings of the mark."""
    default = MarkParams()
    rows = read_all(paths)
    return [row for row in rows if (row["budget"], row["tie_margin"]) == (default.budget, default.tie_margin)]


def _about(settings: dict[str, Any], seeds: int, data: str = "fashion-mnist") -> str:
    """What stands below a table: how many owner models, and whether data and mark are the usual ones."""
    other = "" if data == "fashion-mnist" else f" The data are {settings['source']}."
    changed = "" if settings["scheme"] == SCHEME else f" Made with scheme {settings['scheme']}, before the present one."
    return f"\n\nOwner models and keys: {seeds}.{other}{changed}\n"


def _picture(words: str, pattern: str) -> str:
    """The first picture of the pages with such a name; nothing if there is none."""
    found = sorted(PAGE.parent.glob(pattern))
    return f"\n![{words}]({found[0].name})\n" if found else ""


def _needed(
    runs: Iterable[dict[str, Any]], scheme: str, detector: str, theft: str, queries: str, state: str = "untouched"
) -> str:
    """How many questions a scheme's test needs, over the seeds."""
    same = [run[state] for run in runs if (run["scheme"], run["theft"]) == (scheme, theft) and state in run]
    tests = [run["tests"][detector] for run in same]
    if not tests:
        return NOT_MEASURED
    kinds = ("sequential" if queries == "fresh" else f"{queries}, labels only", queries)
    tested = [test[kind] for test in tests if (kind := next((each for each in kinds if each in test), None))]
    if not tested:
        return "no test"
    needed = [test["needed"] for test in tested]
    found = sorted({count for count in needed if count is not None})
    span = " to ".join(f"{count:,}" for count in dict.fromkeys((found[0], found[-1]))) if found else ""
    return span if None not in needed else f"{span}, or never" if span else "never"


def _accused(rows: list[dict[str, Any]], detector: str) -> str:
    """How many independent models a scheme's test accuses, at 10^-6; nothing if that was not measured."""
    models = [row for row in rows if "way" in row and detector in row["independent"]]
    return f"; {baselines.accused(rows, detector)} of {len(models)}" if models else ""


def _cost(costs: list[dict[str, float]]) -> str:
    """The accuracy that the users of the API lose, in points, over the seeds."""
    if not costs:
        return NOT_MEASURED
    points = sorted(100 * (cost["clean_accuracy"] - cost["marked_accuracy"]) for cost in costs)
    return " to ".join(dict.fromkeys(f"{point + 0:.2f}" for point in (points[0], points[-1])))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, metavar="REPORT", help="the report.json of a run of `make demo`")
    options = parser.parse_args()
    if options.demo:
        keep_demo(options.demo)
    for path, made in ((PAGE, report), (README, readme)):
        files.write_atomically(path, made(path.read_text()).encode())


if __name__ == "__main__":
    main()
