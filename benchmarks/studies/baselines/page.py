"""The page of the study: who wins where, questions asked, false accusations, costs, and the figures behind them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

SHOWN = (10, 100, 1000)  # numbers of fresh queries
COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000)
FINE_TUNED = 3000
LOG10_ALPHA = -6
NUM_INDEPENDENT = 24
STATES = ("untouched", "fine-tuned")
WATERMARKS = ("ours", "ours-no-ties", "dawn", "cosine", "cosine-others", "drw", "honeytrace")
FINGERPRINTS = ("akh", "credit")
MARKED_BY_OTHERS = ("dawn", "cosine", "drw", "honeytrace", "credit")
DETECTORS = {
    "none": ("akh",),
    "ours": ("ours",),
    "ours-no-ties": ("ours-no-ties",),
    "dawn": ("dawn",),
    "cosine": ("cosine", "cosine-others"),
    "drw": ("drw",),
    "drw-drawn": ("drw",),
    "honeytrace": ("honeytrace",),
    "credit": ("credit",),
}
SUSPECTS = (
    ("none", "soft"),
    ("none", "labels"),
    ("ours", "soft"),
    ("ours", "labels"),
    ("drw", "soft"),
    ("dawn", "labels"),
    ("honeytrace", "soft"),
    ("credit", "soft"),
    ("cosine", "soft"),
    ("dawn", "soft"),
    ("honeytrace", "labels"),
    ("drw-drawn", "labels"),
    ("credit", "labels"),
    ("drw", "labels"),
    ("cosine", "labels"),
    ("ours-no-ties", "soft"),
)
TITLES = {
    "ours": "ours, ties 0.5",
    "ours-no-ties": "ours, no ties",
    "dawn": "DAWN, 0.5 %",
    "cosine": "CosWM, 0.05",
    "cosine-others": "CosWM, other classes asked",
    "drw": "DRW, 0.2",
    "drw-drawn": "DRW, labels drawn",
    "honeytrace": "Honeytrace",
    "credit": "CREDIT",
    "akh": "AKH",
    "none": "AKH",
}
KINDS = {
    "ours": ("exact", "yes"),
    "ours-no-ties": ("exact", "yes"),
    "dawn": ("exact by our test; the authors' presumes a random guesser", "yes, by what each client asked"),
    "cosine": ("none; by 1,000 decoy keys exact down to 10^-3, below extrapolated", "not described"),
    "cosine-others": ("none; by 1,000 decoy keys exact down to 10^-3, below extrapolated", "not described"),
    "drw": ("none; by 1,000 decoy keys exact down to 10^-3, below extrapolated", "not described"),
    "honeytrace": ("asymptotic, by our t-test", "not described"),
    "akh": ("none", "no"),
    "credit": ("none; a threshold with a bound", "no"),
}
INTRODUCTION = (
    "# This mark beside published ones",
    "",
    "Written by `python benchmarks/studies/baselines/study.py --report` from its results. The head of",
    "[study.py](../benchmarks/studies/baselines/study.py) states how they were made. Fashion-MNIST; the attacker asks",
    "30,000 images and trains for 10 epochs. Each seed has an owner model and a key of its own.",
    "",
    "- **Ours**: budget 0.05, with tie margin 0.5 and without. `dm.mark`, `dm.verify`.",
    "- **DAWN** (Szyller et al., 2021): wrong answers to a keyed 0.5 % of the inputs.",
    "- **CosWM** (Charette et al., 2022): a cosine of a secret projection of the input is added to the probabilities.",
    "  *Other classes asked* is our test of their mark, not theirs.",
    "- **DRW** (Zhao et al., 2022), the nearest relative: a stronger cosine of a secret hash, in half of one class.",
    "  *Labels drawn*: the API answers labels drawn from these probabilities, as the authors propose.",
    "- **Neural Honeytrace** (Xu et al., 2025): answers near secret trigger images lean to a target class.",
    "- **CREDIT** (Shen et al., 2026): noise in a hidden layer; a threshold on the mutual information of answers.",
    "- **AKH** (Godinot et al., 2024), a fingerprint: does the suspect share the owner model's mistakes?",
    "",
    "All of them are rebuilt here. The classes in [baselines/](../benchmarks/studies/baselines) name their sources and",
    "list where they deviate. We had no access to the full text of some papers, and rebuilt those from their authors'",
    "code. So a weak figure may be the rebuild's: the authors' networks, data and thresholds are others. DynaMarks",
    "(arXiv 2207.13321), whose idea this project follows, is missing: we had its abstract only.",
)
WINNERS = (
    "Computed from the tables below: the worst seed of each scheme counts. A test that accused an independent model",
    "wins no row about questions. AKH changes nothing in the API, so it costs nothing. The questions of CREDIT, and",
    "the extrapolated ones of CosWM and DRW, rest on no proven bound.",
)
PROPERTIES = (
    "- **Ours** and **DAWN** alone have an exact p-value. Ours bounds the change of every answer. DAWN changes few",
    "  answers, and those wrongly; without a log there is nothing to ask.",
    "- **DAWN** knows which of its answers are wrong, and asks for those: so few logged questions are enough. A",
    "  surrogate of probabilities that is fine-tuned forgets many of them.",
    "- **AKH** costs nothing and works for a model that was never marked. It has no p-value and no threshold of its",
    "  own, because independent models of the same task share mistakes. Here its threshold is the largest share of",
    "  the 24 independent models. So it accuses none of these; how many others was not measured.",
    "- **CosWM** and **DRW** cost hardly any accuracy. Their p-value ends at 10^-3; beyond, it is extrapolated.",
    "- **Honeytrace** needs no log. Its t-test presumes that an independent model sees no more of the target class in",
    "  trigger images than in ordinary ones. With a target drawn at random that was not so: a first run accused 17 of",
    "  24 independent models. So the owner now takes the class that its own model sees least in them. The authors'",
    "  attacker asks images of other kinds, which was not measured.",
    "- **CREDIT** compares information. Its threshold is for hidden layers of the authors' networks, and its own API",
    "  did not reach it here. So its verdicts say nothing here; the order of its figures does.",
)
QUESTIONS = (
    "The smallest of 10, 20, 50, 100 ... questions from which on p stays at 10^-6 or below, by seed. A dash: never.",
    "A blank cell cannot be tested. Ours, fresh: the questions of `verify --sequential`, which stops by itself. A",
    "number of questions that is fixed beforehand gives stronger evidence: see below. Ours asks the inputs of which",
    "the clean model is surest, the others in the order of the data. For CosWM and DRW the extrapolated p counts, for",
    "CREDIT its threshold, for AKH the largest share of the 24 independent models. Suspects of labels are asked for",
    "labels where the test allows, which is ours, DAWN, Honeytrace and AKH.",
)
FALSE = (
    "24 models ([independent_models.py](../benchmarks/studies/independent_models.py)): six architectures times four",
    "kinds of training, none of which saw an answer of the owner model. Each seed tests each with all questions.",
    "*Accused*: p <= 10^-6, the extrapolated one for CosWM and DRW; CREDIT's threshold. AKH's threshold is made from",
    "these models, so that it accuses none. Of valid p-values about 5 % are at most 0.05. All tests of a seed share",
    "its key, so they are no independent draws: another key may accuse others.",
    "*Surrogates of the unmarked API*: independent for a watermark, but stolen for a fingerprint.",
)
COSTS = (
    "On 10,000 test images. Time: marked and clean API in turn, one thread, median ratio of 40 rounds (10 and 90 % of",
    "them), in processor time. DAWN, Honeytrace, CREDIT and drawn labels are computed in Python, outside the graph.",
    "AKH changes nothing.",
)
STRENGTH = (
    "log10 p, the *worst* of the seeds. Round brackets: extrapolated by an exponential tail fitted to the decoys, no",
    "bound of anything. Square brackets: the authors' null, as we understand it. *Of n*: the number of questions.",
)
THRESHOLDS = (
    "Two schemes give a figure and no p-value. AKH: the share of the owner model's mistakes that the suspect makes.",
    "CREDIT: mutual information with the owner's answers, in nats. In brackets: how many of the 24 independent models",
    "are below.",
)
APIS = (
    "A perfect surrogate would show these figures. A surrogate that shows less did not learn the mark. For CREDIT, see",
    "the table above.",
)


def report(content: dict[str, Any]) -> str:
    """The page.

    Args:
        content: of the file of results.
    """
    rows = content["rows"]
    lines = [
        *INTRODUCTION,
        *_unfinished(rows),
        "",
        "## Who wins where",
        "",
        *WINNERS,
        "",
        *_winners_table(rows),
        "",
        *PROPERTIES,
        "",
        "## Questions to 10^-6",
        "",
        *QUESTIONS,
        "",
        *_questions_table(rows),
        "",
        "## What the p-value is, and false accusations",
        "",
        *FALSE,
        "",
        *_false_table(rows),
        "",
        "## What each scheme costs",
        "",
        *COSTS,
        "",
        *_cost_table(rows),
        "",
        "## How strong the evidence is",
        "",
        *STRENGTH,
    ]
    for state in STATES:
        after = (
            "Untouched" if state == "untouched" else f"Fine-tuned on {FINE_TUNED:,} true labels, 5 epochs, every layer"
        )
        lines += ["", f"### {after}", "", *_strength_table(rows, state)]
    lines += ["", "## Schemes with a threshold", "", *THRESHOLDS, "", *_threshold_table(rows)]
    apis = [row["tests"] for row in rows if row["name"].endswith("/apis")]
    lines += ["", "## The baselines' tests of their own APIs", "", *APIS, "", *_apis_table(apis)]
    return "\n".join(lines) + "\n"


def accuses(point: dict[str, Any]) -> bool:
    """Whether a scheme's own rule calls the suspect stolen. One without p-value and verdict never does."""
    if "detected" in point:
        return bool(point["detected"])
    return bool(point.get("log10_p_extrapolated", point.get("log10_p", 0)) <= LOG10_ALPHA)


def largest(points: Iterable[dict[str, Any]], count: int) -> dict[str, Any] | None:
    """The point with the most queries, up to `count`; `None` if all have more."""
    return max((point for point in points if point["asked"] <= count), key=lambda point: point["asked"], default=None)


def _unfinished(rows: list[dict[str, Any]]) -> list[str]:
    """Which seeds were measured, and what is still missing."""
    lines = [""]
    for seed in sorted({row["seed"] for row in rows}):
        same = [row for row in rows if row["seed"] == seed]
        done = {(row.get("scheme"), row.get("theft")) for row in same}
        missing = [f"{scheme}/{theft}" for scheme, theft in SUSPECTS if (scheme, theft) not in done]
        count = len(_independent(same))
        missing += [] if count >= NUM_INDEPENDENT else [f"{NUM_INDEPENDENT - count} independent models"]
        lines.append(f"- Seed {seed}: {'complete' if not missing else 'missing ' + ', '.join(missing)}.")
    return lines


def _runs(rows: list[dict[str, Any]], scheme: str, theft: str, state: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row.get("scheme"), row.get("theft")) == (scheme, theft) and state in row]


def _independent(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "way" in row]


def _winners_table(rows: list[dict[str, Any]]) -> list[str]:
    """Which scheme is best by each measure, and where ours stands."""
    lines = ["| measure | best | ours | others |", "|---|---|---|---|"]
    for theft, answers in (("soft", "probabilities"), ("labels", "labels")):
        for kind in ("fresh", "logged"):
            for state in STATES:
                found: dict[str, float] = {}
                barred: set[str] = set()
                for scheme, detectors in DETECTORS.items():
                    runs = _runs(rows, scheme, theft, state)
                    for detector in detectors if runs else ():
                        needed = [_needed(rows, run, detector, theft, kind, state) for run in runs]
                        name = TITLES[scheme if scheme == "drw-drawn" else detector]
                        if count := accused(rows, detector):
                            name += f" (accuses independent models in {count} of {len(_independent(rows))} tests)"
                            barred.add(name)
                        if all(needed):  # an empty cell: cannot be tested
                            found[name] = max(
                                math.inf if each == "-" else int(each.replace(",", "")) for each in needed
                            )
                lines.append(
                    _winners_line(f"questions, {kind}: trained on {answers}, {state}", found, "{:,.0f}", barred)
                )
    owners = [row["cost"] for row in rows if row["name"].endswith("/owner")]
    lost, mean, most = {}, {}, {}
    for scheme in (each for each in DETECTORS if each != "none" and owners):
        costs, name = [cost[scheme] for cost in owners], TITLES[scheme]
        lost[name] = max(0.0, *(100 * (cost["clean_accuracy"] - cost["marked_accuracy"]) for cost in costs))
        mean[name] = max(cost["mean_total_variation"] for cost in costs)
        most[name] = max(cost["max_total_variation"] for cost in costs)
    lines.append(_winners_line("accuracy lost, points", lost, "{:.1f}"))
    lines.append(_winners_line("mean total variation", mean, "{:.4f}"))
    lines.append(_winners_line("largest total variation", most, "{:.3f}"))
    ratios = [row["ratios"] for row in rows if row["name"].endswith("/latency")]
    for batch in ("batch 1", "batch 256") if ratios else ():
        times = {TITLES[each]: max(ratio[batch][each][0] for ratio in ratios) for each in DETECTORS if each != "none"}
        lines.append(_winners_line(f"time, {batch}", times, "{:.2f}"))
    return lines


def _winners_line(measure: str, found: dict[str, float], form: str, barred: Collection[str] = ()) -> str:
    """One measure: smaller is better; those barred cannot be best."""

    def shown(names: list[str]) -> str:
        figures = {name: "never" if found[name] == math.inf else form.format(found[name]) for name in names}
        return "; ".join(f"{name} {figure}" for name, figure in figures.items())

    order = sorted(found, key=lambda name: found[name])
    able = [name for name in order if found[name] < math.inf and name not in barred]
    best = [name for name in able if form.format(found[name]) == form.format(found[able[0]])]
    ours = [name for name in order if name.startswith("ours")]
    others = [name for name in order if name not in best and name not in ours]
    none = "none" if found else "not measured yet"
    return f"| {measure} | {shown(best) or none} | {shown(ours)} | {shown(others)} |"


def _questions_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| scheme | surrogate | probabilities: fresh | logged | labels: fresh | logged |",
        "|---|---|---|---|---|---|",
    ]
    for scheme, detectors in DETECTORS.items():
        for detector in detectors:
            for state in STATES if any(row.get("scheme") == scheme for row in rows) else ():
                cells = []
                for theft in ("soft", "labels"):
                    found = _runs(rows, scheme, theft, state)
                    for kind in ("fresh", "logged"):
                        needed = [_needed(rows, run, detector, theft, kind, state) for run in found]
                        cells.append(", ".join(filter(None, needed)))
                name = TITLES[scheme if scheme == "drw-drawn" else detector]
                lines.append(f"| {name} | {state} | {' | '.join(cells)} |")
    return lines


def _needed(rows: list[dict[str, Any]], run: dict[str, Any], detector: str, theft: str, kind: str, state: str) -> str:
    tests = run[state]["tests"][detector]
    if detector == "akh":
        count = needed_beyond_independent(rows, run, state) if kind == "fresh" else None
        return "" if kind == "logged" else _number(count)
    if detector.startswith("ours"):
        if theft == "labels" and kind == "fresh":
            return ""
        kind = {"fresh": "sequential", "logged": "logged, labels only" if theft == "labels" else "logged"}[kind]
    return _number(tests[kind]["needed"]) if kind in tests else ""


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def needed_beyond_independent(rows: list[dict[str, Any]], run: dict[str, Any], state: str) -> int | None:
    """From how many questions on AKH's share exceeds that of every independent model."""
    others = [row["fingerprints"]["akh"] for row in _independent(rows) if row["seed"] == run["seed"]]
    found = None
    for point in sorted(run[state]["tests"]["akh"]["fresh"]["points"], key=lambda point: -point["asked"]):
        same = [each["statistic"] for points in others for each in points if each["asked"] == point["asked"]]
        if not same or point["statistic"] <= max(same):
            break
        found = int(point["asked"])
    return found


def _false_table(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "| scheme | p-value | traces the client | accused, fresh; logged | p <= 0.05, fresh; logged | smallest log10 p "
        "| accused surrogates of the unmarked API |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {TITLES[each]} | {' | '.join(KINDS[each])} | {' | '.join(_false_cells(rows, each))} |"
            for each in (*WATERMARKS, *FINGERPRINTS)
        ),
    ]


def accused(rows: list[dict[str, Any]], detector: str) -> int:
    """How many tests of independent models accuse, by fresh or by logged questions; each seed tests each model."""
    models = _independent(rows)
    if detector == "akh":  # whose threshold is made from them
        return 0
    if detector in FINGERPRINTS:
        return sum(accuses(row["fingerprints"][detector][-1]) for row in models)
    tests = [row["independent"].get(detector, {}).values() for row in models]
    return sum(any(map(accuses, points)) for points in tests)


def _false_cells(rows: list[dict[str, Any]], detector: str) -> list[str]:
    models = _independent(rows)
    if detector == "akh":
        return ["none can be", "", "", "stolen, for it"]
    if detector in FINGERPRINTS:
        return [f"{accused(rows, detector)} of {len(models)}", "", "", "stolen, for it"]
    kinds = [
        kind for kind in ("fresh", "logged") if all(kind in row["independent"].get(detector, {}) for row in models)
    ]
    points = [[row["independent"][detector][kind] for row in models] for kind in kinds]
    surrogates = [
        point
        for theft in ("soft", "labels")
        for state in STATES
        for run in _runs(rows, "none", theft, state)
        for point in run[state]["independent"].get(detector, {}).values()
    ]
    low = math.log10(0.05)
    return [
        "; ".join(f"{sum(map(accuses, of_kind))} of {len(of_kind)}" for of_kind in points),
        "; ".join(f"{sum(point['log10_p'] <= low for point in of_kind)}" for of_kind in points),
        f"{min((point['log10_p'] for of_kind in points for point in of_kind), default=0):.1f}",
        f"{sum(map(accuses, surrogates))} of {len(surrogates)} tests",
    ]


def _cost_table(rows: list[dict[str, Any]]) -> list[str]:
    owners = [row["cost"] for row in rows if row["name"].endswith("/owner")]
    ratios = [row["ratios"] for row in rows if row["name"].endswith("/latency")]
    lines = [
        "| scheme | accuracy of the API, change in points by seed | top-1 changed | mean, largest TV "
        "| time over the clean API's, by seed, batch 1; 256 |",
        "|---|---|---|---|---|",
    ]
    for scheme in DETECTORS:
        if scheme == "none":
            continue
        costs = [cost[scheme] for cost in owners]
        points = ", ".join(f"{100 * (cost['marked_accuracy'] - cost['clean_accuracy']):+.2f}" for cost in costs)
        changed = np.mean([1 - cost["top1_agreement"] for cost in costs])
        mean, most = (np.mean([cost[f"{which}_total_variation"] for cost in costs]) for which in ("mean", "max"))
        times = "; ".join(
            ", ".join("{:.2f} ({:.2f}-{:.2f})".format(*ratio[batch][scheme]) for ratio in ratios)
            for batch in ("batch 1", "batch 256")
        )
        lines.append(f"| {TITLES[scheme]} | {points} | {changed:.2%} | {mean:.4f}, {most:.4f} | {times} |")
    return lines


def _strength_table(rows: list[dict[str, Any]], state: str) -> list[str]:
    lines = [
        "| test | trained on | accuracy | fresh 10 | fresh 100 | fresh 1,000 | logged, all |",
        "|---|---|---|---|---|---|---|",
    ]
    for theft, answers in (("soft", "probabilities"), ("labels", "labels")):
        for scheme, detectors in DETECTORS.items():
            found = _runs(rows, scheme, theft, state)
            for detector in detectors if found else ():
                tests = [run[state]["tests"][detector] for run in found]
                if detector in FINGERPRINTS:
                    continue
                accuracy = np.mean([run[state]["accuracy"] for run in found])
                name = TITLES[scheme if scheme == "drw-drawn" else detector]
                lines.append(f"| {name} | {answers} | {accuracy:.3f} | {_strength_cells(tests)} |")
                if all("logged, labels only" in test for test in tests):
                    cell = _worst([largest(test["logged, labels only"]["points"], COUNTS[-1]) for test in tests])
                    lines.append(f"| the same, suspect answers labels only | {answers} | | | | | {cell} |")
    return lines


def _apis_table(apis: list[dict[str, Any]]) -> list[str]:
    lines = ["| test | fresh 10 | fresh 100 | fresh 1,000 | logged, all |", "|---|---|---|---|---|"]
    for scheme in MARKED_BY_OTHERS if apis else ():
        for detector in DETECTORS[scheme]:
            if detector not in FINGERPRINTS:
                lines.append(f"| {TITLES[detector]} | {_strength_cells([tests[detector] for tests in apis])} |")
    return lines


def _strength_cells(tests: list[dict[str, Any]]) -> str:
    cells = [_worst([_of_kind(test, "fresh", count) for test in tests]) for count in SHOWN]
    return " | ".join([*cells, _worst([_of_kind(test, "logged", COUNTS[-1]) for test in tests])])


def _of_kind(test: dict[str, Any], kind: str, count: int) -> dict[str, Any] | None:
    return largest(test[kind]["points"], count) if kind in test else None


def _worst(points: list[dict[str, Any] | None]) -> str:
    """The largest log10 p; in brackets extrapolation or [authors' null]; the number of queries if it differs."""
    found = [point for point in points if point is not None]
    if not found:
        return ""
    text = f"{max(point['log10_p'] for point in found):.1f}"
    if "log10_p_extrapolated" in found[0]:
        text += f" ({max(point['log10_p_extrapolated'] for point in found):.1f})"
    if "log10_p_published" in found[0]:
        text += f" [{max(point['log10_p_published'] for point in found):.1f}]"
    asked = {int(point["asked"]) for point in found}
    return text if asked <= {*COUNTS} else f"{text} of {min(asked):,}"


def _threshold_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| scheme | seed | threshold | its own API | 24 independent models | surrogate of probabilities; fine-tuned "
        "| surrogate of labels; fine-tuned |",
        "|---|---|---|---|---|---|---|",
    ]
    for detector, scheme in (("akh", "none"), ("credit", "credit")):
        for owner in (row for row in rows if row["name"].endswith("/owner")):
            seed = owner["seed"]
            same = [row["fingerprints"][detector][-1]["statistic"] for row in _independent(rows) if row["seed"] == seed]
            if not same:
                continue
            cells = []
            for theft in ("soft", "labels"):
                found = [
                    run[state]["tests"][detector]["fresh"]["points"][-1]["statistic"]
                    for state in STATES
                    for run in _runs(rows, scheme, theft, state)
                    if run["seed"] == seed
                ]
                cells.append("; ".join(f"{each:.3f} ({sum(other < each for other in same)})" for each in found))
            threshold, own = ("none", "all") if detector == "akh" else (f"{owner['threshold']:.3f}", "not measured")
            for tests in (row["tests"] for row in rows if row["name"] == f"{seed}/apis" and detector in row["tests"]):
                own = f"{tests[detector]['fresh']['points'][-1]['statistic']:.3f}"
            span = f"{min(same):.3f} to {max(same):.3f}"
            lines.append(f"| {TITLES[detector]} | {seed} | {threshold} | {own} | {span} | {' | '.join(cells)} |")
    return lines
