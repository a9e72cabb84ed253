"""The page of the study: what each mark costs, how strong its evidence is, and what independent models show."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynamarks_tf.watermark.layer import SCHEME

SHOWN = (10, 100, 1000)  # numbers of fresh queries
COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000)
FINE_TUNED = 3000
SCHEMES = ("ours", "ours-no-ties", "cosine", "cosine-equal", "dawn")
DETECTORS = {
    "none": ("ours", "ours-no-ties", "cosine", "cosine-others", "dawn"),
    "ours": ("ours",),
    "ours-no-ties": ("ours-no-ties",),
    "cosine": ("cosine", "cosine-others"),
    "cosine-equal": ("cosine-equal", "cosine-equal-others"),
    "dawn": ("dawn",),
}
TITLES = {
    "ours": "ours, ties 0.5",
    "ours-no-ties": "ours, no ties",
    "cosine": "CosWM, 0.05",
    "cosine-others": "CosWM, 0.05, other classes asked",
    "cosine-equal": "CosWM, mean TV as ours",
    "cosine-equal-others": "CosWM, mean TV as ours, other classes asked",
    "dawn": "DAWN, 0.5 %",
}
TRAINED_ON = {"soft": "probabilities", "labels": "labels"}
INTRODUCTION = (
    "# This mark beside published ones",
    "",
    "Written by `python benchmarks/studies/baselines/study.py --report` from its results. The head of",
    "[study.py](../benchmarks/studies/baselines/study.py) states how they were made. Fashion-MNIST; the attacker asks",
    "30,000 images and trains for 10 epochs. Each seed has a key of its own. The number of seeds stands in brackets",
    "behind the architecture of the surrogate.",
    "",
    "- **Ours**: budget 0.05, with tie margin 0.5 and without. `dm.mark`, `dm.verify`.",
    "- **CosWM** (Charette et al., AAAI 2022): a cosine of a secret projection of the input is added to the",
    "  probabilities. Amplitude 0.05 and frequency 30 are as published. A second amplitude gives the mean total",
    "  variation of ours. *Other classes asked* is our test of their mark, not theirs",
    "  ([why](../benchmarks/studies/baselines/cosine.py)).",
    "- **DAWN** (Szyller et al., ACM Multimedia 2021): wrong answers to a keyed 0.5 % of the inputs.",
    "",
    "Both are rebuilt. [cosine.py](../benchmarks/studies/baselines/cosine.py) and",
    "[dawn.py](../benchmarks/studies/baselines/dawn.py) list where they deviate from the papers. DynaMarks (arXiv",
    "2207.13321), whose idea this project follows, is missing: only its abstract was available.",
    "",
    "The tables hold log10 p, the *worst* of the seeds.",
    "",
    "- CosWM states no p-value. Its first figure is the rank of the key among 1,000 decoy keys, which cannot fall",
    "  below -3.0. The figure in round brackets is an **extrapolation** by an exponential tail fitted to the decoys,",
    "  and no bound.",
    "- DAWN's first figure is our exact test of its mark: binomial over the queries on which suspect and owner",
    "  disagree. The figure in square brackets has a random guesser as its null, which is the authors' test as we",
    "  understand it.",
    "- Each query is one question to the suspect. CosWM asks inputs of its target class. DAWN asks the inputs that",
    "  were answered wrongly, of which 30,000 logged requests hold about 150. *Of n* states how many there were.",
    "- *Needed*: the smallest of 10, 20, 50, 100, 200 ... from which on p stays at 10^-6 or below, by seed. For CosWM",
    "  the extrapolation counts.",
)
SUMMARY = (
    "- **DAWN asks the fewest queries of a surrogate that was trained on labels and remembers them.** Fifty inputs",
    "  that it answered wrongly detect the separable network; our tie channel asks thousands of logged inputs. Its",
    "  answers also change less on average. The price is 0.4 to 0.5 points of accuracy, against at most 0.2 for ours,",
    "  and answers that are wrong outright. The MLP hardly remembers the mark, fine-tuning removes most of it, and",
    "  without logs there is nothing to ask.",
    "- **CosWM costs the least accuracy**, nearly none. No surrogate here learned its signal, though our rebuilt test",
    "  detects it in the API itself. (Its authors train the model with the signal. Here it is added to a trained",
    "  model, as the other marks are.)",
    "- **Ours** is the only mark that fresh queries detect. It is also the only one detected in every surrogate of",
    "  probabilities, fine-tuned or not. In batches of one it adds 15 percent to the processor time of this small",
    "  API. DAWN's hashing adds as much, CosWM nothing. In batches of 256 it adds two percent, where DAWN adds eight.",
)
COSTS = (
    "On 10,000 test images. Time: marked and clean API in turn, one thread, median ratio of 40 rounds (10 and 90 % of",
    "them), in processor time. DAWN's hashing runs in Python, outside the graph.",
)
APIS = (
    "A perfect surrogate would show these figures: the rebuilt tests detect their marks where they are. A surrogate",
    "that shows nothing did not learn the mark.",
)
INDEPENDENT = (
    "Models trained on true labels and surrogates of the unmarked API, untouched and fine-tuned, each with several",
    "numbers of queries. With this many tests, the smallest p of a valid test is small by chance: about one over",
    "their number.",
)


def report(content: dict[str, Any]) -> str:
    """The page: costs, then strength, the worst of the seeds, then independent models.

    Args:
        content: of the file of results.
    """
    owners = [row for row in content["rows"] if row["name"].endswith("/owner")]
    latencies = [row for row in content["rows"] if row["name"].endswith("/latency")]
    runs = [row for row in content["rows"] if "scheme" in row]
    lines = [
        *INTRODUCTION,
        *_about_scheme(content["settings"]),
        "",
        "## Summary",
        "",
        *SUMMARY,
        "",
        "## What each mark costs",
        "",
        *COSTS,
        "",
        *_cost_table(owners, latencies),
    ]
    for state in ("untouched", "fine-tuned"):
        after = "" if state == "untouched" else f", every layer, {FINE_TUNED:,} true labels, 5 epochs, full rate"
        lines += ["", f"## How strong the evidence is: {state}{after}", "", *_strength_table(runs, state)]
    apis = [row["tests"] for row in content["rows"] if row["name"].endswith("/apis")]
    lines += ["", "## The baselines' tests of their own APIs", "", *APIS, "", *_apis_table(apis)]
    lines += ["", "## Independent models", "", *INDEPENDENT, "", *_independent_table(runs)]
    return "\n".join(lines) + "\n"


def _about_scheme(settings: dict[str, Any]) -> list[str]:
    """What has changed in our mark since these results were made."""
    if settings["scheme"] == SCHEME:
        return []
    return [
        "",
        f"Ours was scheme {settings['scheme']} here, before the key was bound to the clean model.",
    ]


def _cost_table(owners: list[dict[str, Any]], latencies: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| scheme | accuracy of the API, change in points by seed | top-1 changed | mean, largest TV "
        "| time over the clean API's, by seed, batch 1; 256 |",
        "|---|---|---|---|---|",
    ]
    for scheme in SCHEMES:
        costs = [row["cost"][scheme] for row in owners]
        points = ", ".join(f"{100 * (cost['marked_accuracy'] - cost['clean_accuracy']):+.2f}" for cost in costs)
        changed = np.mean([1 - cost["top1_agreement"] for cost in costs])
        mean, largest = (np.mean([cost[f"{which}_total_variation"] for cost in costs]) for which in ("mean", "max"))
        times = "; ".join(
            ", ".join("{:.2f} ({:.2f}-{:.2f})".format(*row["ratios"][batch][scheme]) for row in latencies)
            for batch in ("batch 1", "batch 256")
        )
        lines.append(f"| {_title(scheme, owners)} | {points} | {changed:.2%} | {mean:.4f}, {largest:.4f} | {times} |")
    return lines


def _strength_table(runs: list[dict[str, Any]], state: str) -> list[str]:
    lines = [
        "| test | trained on | accuracy | fresh 10 | fresh 100 | fresh 1,000 | logged, all | fresh needed "
        "| logged needed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for architecture in sorted({run["architecture"] for run in runs}, reverse=True):
        for theft, answers in TRAINED_ON.items():
            for scheme in SCHEMES:
                chosen = [
                    run[state]
                    for run in runs
                    if (run["scheme"], run["theft"], run["architecture"]) == (scheme, theft, architecture)
                ]
                for detector in DETECTORS[scheme] if chosen else ():
                    tests = [run["tests"][detector] for run in chosen]
                    label = f"{TITLES[detector]}, {architecture} ({len(chosen)})"
                    accuracy = np.mean([run["accuracy"] for run in chosen])
                    lines.append(f"| {label} | {answers} | {accuracy:.3f} | {_strength_cells(tests, 'logged')} |")
                    if all("logged, labels only" in test for test in tests):
                        cells = _strength_cells(tests, "logged, labels only")
                        lines.append(f"| the same, suspect answers labels only | {answers} | | {cells} |")
    return lines


def _apis_table(apis: list[dict[str, Any]]) -> list[str]:
    head = "| test | fresh 10 | fresh 100 | fresh 1,000 | logged, all | fresh needed | logged needed |"
    lines = [head, "|---" * 7 + "|"]
    for detector in ("cosine", "cosine-others", "cosine-equal", "cosine-equal-others", "dawn") if apis else ():
        lines.append(f"| {TITLES[detector]} | {_strength_cells([tests[detector] for tests in apis], 'logged')} |")
    return lines


def _strength_cells(tests: list[dict[str, Any]], logged: str) -> str:
    cells = []
    has_fresh = logged == "logged"
    for count in SHOWN:
        cells.append(_worst([largest(test["fresh"]["points"], count) for test in tests]) if has_fresh else "-")
    cells.append(_worst([largest(test[logged]["points"], COUNTS[-1]) for test in tests]))
    for queries in ("fresh", logged):
        needed = [test[queries]["needed"] for test in tests] if has_fresh or queries == logged else [None]
        cells.append(", ".join("-" if count is None else f"{count:,}" for count in needed))
    return " | ".join(cells)


def largest(points: list[dict[str, float]], count: int) -> dict[str, float]:
    """The point with the most queries, up to `count`."""
    return max((point for point in points if point["asked"] <= count), key=lambda point: point["asked"])


def _worst(points: list[dict[str, float]]) -> str:
    """The largest log10 p; in brackets extrapolation or [authors' null]; the number of queries if it differs."""
    text = f"{max(point['log10_p'] for point in points):.1f}"
    if "log10_p_extrapolated" in points[0]:
        text += f" ({max(point['log10_p_extrapolated'] for point in points):.1f})"
    if "log10_p_published" in points[0]:
        text += f" [{max(point['log10_p_published'] for point in points):.1f}]"
    asked = {int(point["asked"]) for point in points}
    return text if asked <= {*COUNTS} else f"{text} of {min(asked):,}"


def _independent_table(runs: list[dict[str, Any]]) -> list[str]:
    lines = ["| test | suspects | tests | smallest log10 p | smallest extrapolated |", "|---|---|---|---|---|"]
    states = [run[state] for run in runs if run["scheme"] == "none" for state in ("untouched", "fine-tuned")]
    for detector in DETECTORS["none"]:
        found = [state["tests"][detector] for state in states]
        count = sum(test["tests"] for test in found)
        smallest = min(test["log10_p"] for test in found)
        extrapolated = [test["log10_p_extrapolated"] for test in found if "log10_p_extrapolated" in test]
        beyond = f"{min(extrapolated):.1f}" if extrapolated else "-"
        lines.append(f"| {TITLES[detector]} | {len(states)} | {count} | {smallest:.1f} | {beyond} |")
    return lines


def _title(scheme: str, owners: list[dict[str, Any]]) -> str:
    if scheme != "cosine-equal":
        return TITLES[scheme]
    return f"{TITLES[scheme]}: " + ", ".join(f"{row['epsilon']:.4f}" for row in owners)
