"""The page of the robustness matrix: docs/robustness.md and its pictures, from the results of robustness.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import result_file
from benchmarks.studies import picture, trade_off
from benchmarks.studies.robustness import GLYPH_TARGETS, MAIN, SETS, TARGETS, TRADE_OFFS, scenarios
from dynamarks_tf._support import files
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS, applicable
from dynamarks_tf.audit import plots, tables
from dynamarks_tf.audit.recommendation import strength, summarize
from dynamarks_tf.audit.results import read, read_all
from dynamarks_tf.audit.scenario import INDEPENDENT_SOURCES
from dynamarks_tf.watermark.layer import SCHEME
from dynamarks_tf.watermark.params import MarkParams

RELEASED = "robustness-released.json"
DETECTED = -6
USELESS = 0.7  # a suspect's accuracy is stated below this
WEAKENED, NOTABLE = 0.8, -20  # figures that lost a fifth are counted, and listed where they are above this
COLUMNS = ("10 fresh", "100 fresh", "1000 fresh", "logged", "logged, labels")

Row = dict[str, Any]
Cells = dict[tuple[str, str, str], dict[str, dict[str, float]]]

# Why a line of the tables is weak, and what would help: by extraction and removal attack, or by one of them.
_FEW = "few answers teach the mark weakly"
_FEW_ANSWERS = ("1,000 queries", "5,000 queries", "5,000 uncertain", "5,000 k-center", "1,000 among true labels")
_DAMAGE = "the network itself is damaged"
_OF_LABELS = "the mark was learned far from images, and what the model is worth comes from the true labels"
_NO_CHANNEL = "labels hold no class channel, and the surrogate follows few ties"
REASONS: dict[str | tuple[str, str], tuple[str, str]] = {
    "new head": (
        "all channels live in what the last layer makes of its inputs; the features hold no evidence that queries show",
        "none known",
    ),
    "prune 60 %": (_DAMAGE, "a longer log"),
    ("full", "prune 60 %"): (_DAMAGE, "not needed: fine-tuned, so that it is usable, it is detected again"),
    "prune 80 %": (_DAMAGE, "not needed: it has no value"),
    ("full", "distil, labels"): (
        "the surrogate learned that a tie is a tie, so its labels pass no secret sign on",
        "none known: labels hold no class channel",
    ),
    ("smoothed", "fine-tune all"): (
        "smoothing lifts every small probability to 0.01, so the mark moves its logarithm less",
        "a larger budget",
    ),
    "sharpened": (
        "sharpening makes the raised probability small, so the surrogate hardly learns it",
        "a larger budget",
    ),
    ("other domain", "fine-tune all"): (
        "the mark was learned on rendered characters, and true labels of clothes outweigh it",
        "fresh queries of the domain that was sent",
    ),
    "other domain": ("the mark was learned on rendered characters only", "fresh queries of the domain that was sent"),
    "labels, no ties": (
        "no marked answer was released: only wrong answers on confident inputs could have an effect",
        "none in this scheme; DAWN gives wrong answers",
    ),
    "top 1, no ties": ("only the amplitude channel is left", "a longer log"),
    "top 1": ("only amplitude and tie channel are left", "a longer log"),
    "5 copies averaged": (
        "copies of an input have other hash values, so the hashed channels average out",
        "a larger budget",
    ),
    "labels": (_NO_CHANNEL, "a longer log; a larger tie margin"),
    "labels, few passes": (_NO_CHANNEL, "a longer log; a larger tie margin"),
    "sells top 1": ("even tails hold no class channel", "a longer log"),
    "mean with independent": ("half of the answer has no mark", "a larger budget"),
    "weights averaged": ("half of the weights never learned a marked answer", "none known"),
    "top 3": ("with more than 32 classes, the largest three hold the hashed channels alone", "a longer log"),
    "contrasted": ("what fine-tuning takes from the mark is taken once more", "a larger budget"),
    "signs subtracted": (
        "an attacker who knows the scheme tells the raised class from its probability, and takes the raise back",
        "a raise whose size varies, so that it does not stand out",
    ),
    "signs subtracted, no ties": (
        "the raise is taken back, and no answer near a tie is learned",
        "a raise whose size varies, so that it does not stand out",
    ),
    "two clients averaged": (
        "half of each answer has another key's mark",
        "one key for all clients, told apart by the log",
    ),
    "two clients, half each": (
        "half of the answers have another key's mark",
        "one key for all clients, told apart by the log",
    ),
    "two clients, smallest": (
        "two keys raise other classes, and the smaller probability is rarely a raised one",
        "one key for all clients, told apart by the log",
    ),
    "random inputs": ("the mark was learned on noise only", "fresh queries of noise"),
    "generated inputs": ("the mark was learned far from images", "a longer log"),
    ("random inputs", "fine-tune all"): (_OF_LABELS, "fresh queries of noise"),
    ("generated inputs", "fine-tune all"): (_OF_LABELS, "a longer log"),
    **{name: (_FEW, "a larger budget") for name in _FEW_ANSWERS},
    **{
        (name, "fine-tune all"): (f"{_FEW}, and the true labels outweigh them", "a larger budget")
        for name in _FEW_ANSWERS
    },
}


def write(folder: Path, docs: Path, *, released: bool) -> None:
    """Writes the page and its pictures to `docs`; before, if wanted, what later figures are held against."""
    if released:
        content = {data: _released(folder, data) for data in SETS if _paths(folder, data)}
        result_file.write(folder / RELEASED, {"format": "dynamarks-robustness-released", "version": 1, **content})
    files.write_atomically(docs / "robustness.md", report(folder, docs).encode())


def _paths(folder: Path, data: str) -> list[Path]:
    return sorted(folder.glob(f"robustness-{data}-seed*.json"))


def report(folder: Path, docs: Path) -> str:
    """The page; its pictures are written to `docs`."""
    parts = [
        "# Robustness: every extraction with every removal attack",
        "",
        "Written by `python benchmarks/studies/robustness.py --report` from",
        "[its results](../benchmarks/studies/results). The head of",
        "[robustness.py](../benchmarks/studies/robustness.py) states how they were made.",
        "",
        "Figures are log10 p, the *worst* of the seeds: the largest for stolen models, the smallest for independent",
        "ones. Each seed has an owner model, a key and surrogates that had no part in choosing the method.",
        "",
        "- *Fresh*: this number of unlabeled test images, chosen by `--max-queries`.",
        "- *Logged*: up to 4 fresh queries for each class, then all queries that the attacker sent. Where 10 or 20 of",
        "  them were enough, these were fresh.",
        "- *Labels*: the logged queries, for a suspect that answers labels only.",
        "- *Queries needed*: for p <= 1e-6, by the worst of the seeds.",
        "",
        "Other watermarks: [baselines.md](baselines.md). What removal costs an attacker: [frontier.md](frontier.md).",
        "`dynamarks audit --list` describes the attacks.",
        "",
        "Surrogates converted to ONNX have no line: Keras converts by `tf2onnx`, on which nothing here depends. The",
        "answers stay the same, and [the tests](../tests/suspects/test_contract.py) hold the reader of ONNX to that.",
    ]
    before = folder / RELEASED
    earlier = json.loads(before.read_text()) if before.exists() else {}
    for data in sorted(SETS, key=lambda data: not _paths(folder, data)):  # those measured on the present scheme first
        parts += _section(data, _paths(folder, data), docs, earlier.get(data))
    parts += _across(folder, docs)
    return "\n".join([*parts, ""])


def _section(data: str, paths: list[Path], docs: Path, before: dict[str, Any] | None) -> list[str]:
    """What is known of a data set: the figures of the last release where there are no others."""
    if not paths:
        return _last_release(data, before)
    rows = sorted(read_all(paths), key=_place)
    facts = read(paths[0])["settings"]
    default = MarkParams()
    usual = [row for row in rows if (row["budget"], row["tie_margin"]) == (default.budget, default.tie_margin)]
    stolen = [row for row in usual if row["kind"] == "theft"]
    independent = [row for row in usual if row["kind"] == "independent"]
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "",
        f"## {data}",
        "",
        f"{facts['source']}. Owner: {facts['owner']}, {facts['owner_epochs']} epochs on one half. The attacker sends "
        f"the other {facts['pool']:,} and trains for {facts['epochs']} epochs. Budget {default.budget} and tie margin "
        f"{default.tie_margin}, the defaults, unless stated otherwise. Seeds: {', '.join(map(str, seeds))}.",
        *_about_scheme(facts),
        *_unfinished(data, rows),
        "",
        tables.costs(row for row in usual if row["kind"] == "cost").markdown(),
    ]
    if independent:  # otherwise these are budgets alone, and no target is about them
        lines += [
            "",
            "### Targets and results",
            "",
            f"The weakest of the extractions and removal attacks named, with a {_main(data)} as the surrogate."
            + (" The targets were set for Fashion-MNIST." if data == "digits-mixed" else ""),
            "",
            *_targets(GLYPH_TARGETS if data == "glyphs-1000" else TARGETS, stolen, data),
            "",
            f"Independent models: {len(independent)} suspects, smallest log10 p {_smallest(independent)} (target: none "
            "below -3).",
            *weak(stolen),
            *weaker(stolen, before),
        ]
    lines += ["", "### Stolen models", "", tables.suspects(stolen).markdown()]
    if independent:
        lines += ["", "### Independent models", "", tables.suspects(independent).markdown()]
    matrix = plots.matrix([row for row in stolen if row["architecture"] == _main(data)], f"robustness-{data}")
    picture.save_svg(matrix, docs)
    lines += ["", f"![log10 p of every extraction and removal attack, {_main(data)}](robustness-{data}.svg)"]
    summaries = [
        s for s in summarize(row for row in rows if _is_plain(row, data)) if s.tie_margin == default.tie_margin
    ]
    if len(summaries) > 1:
        picture.save_svg(plots.trade_off(summaries, f"trade-off-{data}"), docs)
        lines += [
            "",
            "### Strength against budget",
            "",
            "The weaker of two surrogates, of probabilities and of labels, without removal attacks. Their architecture "
            f"is {_of_budgets(data)}.",
            "",
            tables.settings(summaries).markdown(),
            "",
            f"![log10 p of the weaker surrogate by budget](trade-off-{data}.svg)",
        ]
    return lines


def _across(folder: Path, docs: Path) -> list[str]:
    """Strength against budget for several numbers of classes; nothing if only one was studied with several budgets."""
    by_classes: dict[int, list[Row]] = {}
    for data in TRADE_OFFS:
        rows = [row for row in read_all(_paths(folder, data)) if _is_plain(row, data)]
        if len({row["budget"] for row in rows if row["kind"] == "theft"}) > 1:
            by_classes[int(data.rpartition("-")[2])] = rows
    if len(by_classes) < 2:
        return []
    picture.save_svg(trade_off.figure(by_classes), docs)
    return [
        "",
        "## Strength against budget, by the number of classes",
        "",
        "The weaker of two untouched surrogates, of probabilities and of labels, by the strongest kind of queries. "
        "Numbers at the points are points of accuracy that the mark costs. The line is at 10^-6.",
        "",
        "![-log10 p of the weaker surrogate by budget and number of classes](trade-off.svg)",
        "",
        *trade_off.lines(by_classes),
    ]


def weak(stolen: list[Row]) -> list[str]:
    """Every scenario that no kind of queries detects with every seed, why, and what would help."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in stolen:
        groups.setdefault(_name(row), []).append(row)
    weak, logged_only = [], []
    for name, same in groups.items():
        extraction, architecture, removal = name
        found = max(strength(row) for row in same)
        if found > DETECTED:
            reason, helps = next(
                (REASONS[key] for key in ((extraction, removal), removal, extraction) if key in REASONS), ("-", "-")
            )
            accuracy = sum(row["accuracy"] for row in same) / len(same)
            weak.append(f"| {' | '.join(name)} | {accuracy:.3f} | {found:.1f} | {reason} | {helps} |")
        elif max(min(p for column, p in _found(row).items() if "fresh" in column) for row in same) > DETECTED:
            logged_only.append(f"{extraction} ({architecture}{'' if removal == 'none' else f', {removal}'})")
    lines = [
        "",
        "### Where it is weak, and why",
        "",
        "Scenarios that no kind of queries detects at 10^-6 with every seed, by the strongest kind:",
        "",
        "| extraction | architecture | removal | accuracy | log10 p | why | what would help (not measured) |",
        "|---|---|---|---|---|---|---|",
        *weak,
    ]
    shown = "; ".join(logged_only)
    return [*lines, "", f"Scenarios that logged queries detect, and fresh ones do not: {shown}."] if shown else lines


def weaker(stolen: list[Row], before: dict[str, Any] | None) -> list[str]:
    """The figures that are weaker than those of the last release, by the seeds that both have."""
    if before is None:
        return []
    old = {tuple(each["name"]): each["log10_p"] for each in before["cells"]}
    compared, stronger, undetected = 0, 0, 0
    weakened, listed = [], []
    for name, found in _cells(stolen).items():
        for column, now in found.items():
            then = old.get(name, {}).get(column, {})
            common = now.keys() & then.keys()
            if not common:
                continue
            was, is_now = (max(values[seed] for seed in common) for values in (then, now))
            if was > DETECTED:
                continue
            compared += 1
            stronger += WEAKENED * is_now < was
            undetected += is_now > DETECTED
            if is_now > WEAKENED * was:
                weakened.append(column)
                if is_now > NOTABLE:
                    listed.append(f"| {' | '.join(name)} | {column} | {was:.1f} | {is_now:.1f} |")
    fresh = sum("fresh" in column for column in weakened)
    unexplained = f" That explains none of the {fresh} weaker figures of fresh queries." if fresh else ""
    lines = [
        "",
        "### Weaker than in the last release",
        "",
        f"The last release had the scheme {before['scheme']}. Of its figures that detected, {compared} were measured "
        f"again. Now {stronger} are stronger by more than a quarter, and {len(weakened)} weaker by more than a fifth; "
        f"{undetected} detect no longer. Logged queries of that release tested the class channel as well, and were "
        f"combined by Fisher's method; today's are bets that hold at every moment.{unexplained} Owner models, keys and "
        "surrogates are others, too.",
    ]
    if not listed:
        return lines
    header = ["| extraction | architecture | removal | queries | log10 p then | now |", "|---|---|---|---|---|---|"]
    return [*lines, "", f"The weaker figures above {NOTABLE} are:", "", *header, *listed]


def _last_release(data: str, before: dict[str, Any] | None) -> list[str]:
    """The figures of the last release, the worst of its seeds, for data that the present one was not measured on."""
    if before is None:
        return []
    lines = [
        "",
        f"## {data}: figures of the last release",
        "",
        f"**Not measured again yet.** These are of the scheme {before['scheme']}, whose logged queries tested the "
        "class channel as well.",
        "",
        f"| extraction | architecture | removal | {' | '.join(COLUMNS)} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for each in before["cells"]:
        cells = [tables.rounded(max(each["log10_p"][column].values()), 1) for column in COLUMNS]
        lines.append(f"| {' | '.join([*each['name'], *cells])} |")
    return lines


def _released(folder: Path, data: str) -> dict[str, Any]:
    """What later figures are held against: log10 p of each scenario, by kind of queries and seed."""
    default = MarkParams()
    stolen = [row for row in read_all(_paths(folder, data)) if row["kind"] == "theft"]
    cells = _cells(row for row in stolen if (row["budget"], row["tie_margin"]) == (default.budget, default.tie_margin))
    scheme = read(_paths(folder, data)[0])["settings"]["scheme"]
    return {"scheme": scheme, "cells": [{"name": [*name], "log10_p": found} for name, found in cells.items()]}


def _cells(stolen: Iterable[Row]) -> Cells:
    """log10 p of each scenario, by kind of queries and seed."""
    cells: Cells = {}
    for row in stolen:
        for column, log10_p in _found(row).items():
            cells.setdefault(_name(row), {}).setdefault(column, {})[str(row["seed"])] = log10_p
    return cells


def _name(row: Row) -> tuple[str, str, str]:
    return row["extraction"], row["architecture"], row["removal"]


def _found(row: Row) -> dict[str, float]:
    return {column: row["findings"][column]["log10_p"] for column in COLUMNS if column in row["findings"]}


def _unfinished(data: str, rows: list[Row]) -> list[str]:
    """Words about the scenarios that are still to be run."""
    planned = scenarios(data)
    lines = []
    for seed in (0, 1, 2):
        done = sum(1 for row in rows if row["kind"] != "cost" and row["seed"] == seed)
        if done < len(planned):
            lines.append(f"seed {seed}: {done} of {len(planned)} scenarios")
    if not lines:
        return []
    return ["", f"**The study is not finished** ({'; '.join(lines)}). The same command goes on with the others."]


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """The order of the catalogue: extraction, architecture, removal attack, seed."""
    extractions, removals, built = (
        [*applicable(EXTRACTIONS, "images"), *INDEPENDENT_SOURCES],
        [*REMOVALS],
        [*ARCHITECTURES],
    )
    if row["kind"] == "cost":
        return (-1, 0, 0, row["seed"])
    return (
        extractions.index(row["extraction"]),
        built.index(row["architecture"]),
        removals.index(row["removal"]),
        row["seed"],
    )


def _main(data: str) -> str:
    return TRADE_OFFS.get(data, MAIN)


def _of_budgets(data: str) -> str:
    return TRADE_OFFS.get(data, "mlp")


def _is_plain(row: Row, data: str) -> bool:
    """Rows of the trade-off: the cost of a setting, and untouched surrogates, which were studied with every setting."""
    is_theft = row["kind"] == "theft" and row["architecture"] == _of_budgets(data) and row["removal"] == "none"
    return row["kind"] == "cost" or (is_theft and row["extraction"] in ("full", "labels"))


def _about_scheme(facts: dict[str, Any]) -> list[str]:
    """What has changed in the mark since these results were made."""
    if facts["scheme"] == SCHEME:
        return []
    return [
        "",
        f"Made with scheme {facts['scheme']}, before the key was bound to the clean model: "
        "secret signs are others today.",
    ]


def _targets(
    targets: list[tuple[list[str], list[str], str, float]], stolen: list[dict[str, Any]], data: str
) -> list[str]:
    lines = ["| extraction | removal | queries | target | measured | seeds | |", "|---|---|---|---|---|---|---|"]
    for extractions, removals, column, limit in targets:
        same = [
            row
            for row in stolen
            if row["extraction"] in extractions and row["removal"] in removals and row["architecture"] == _main(data)
        ]
        if not same:
            continue
        worst = max(same, key=lambda row: row["findings"][column]["log10_p"])
        found = worst["findings"][column]["log10_p"]
        seeds = len({row["seed"] for row in same})
        where = "" if len(extractions) * len(removals) == 1 else f" ({worst['extraction']}, {worst['removal']})"
        where += f", a model of accuracy {worst['accuracy']:.2f}" if worst["accuracy"] < USELESS else ""
        outcome = "reached" if found <= limit else "**missed**"
        lines.append(
            f"| {'; '.join(extractions)} | {'; '.join(removals)} | {column} | <= {limit:g} | {found:.1f}{where} "
            f"| {seeds} | {outcome} |"
        )
    return lines


def _smallest(rows: list[dict[str, Any]]) -> str:
    found = [finding["log10_p"] for row in rows for finding in row["findings"].values()]
    return f"{min(found):.2f}" if found else "-"
