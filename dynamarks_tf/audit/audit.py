"""`dynamarks audit`: would this model's mark survive? Attacks are run on the owner's own model and data."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dynamarks_tf._support import files
from dynamarks_tf._support.input_kind import Kind
from dynamarks_tf.attacks.query_sets import adapted
from dynamarks_tf.audit import plots, tables
from dynamarks_tf.audit.attack_runner import BATCH_SIZE, AttackRunner, Jobs
from dynamarks_tf.audit.parallel import Processes
from dynamarks_tf.audit.recommendation import (
    DEFAULT_ACCURACY_COST,
    DEFAULT_STRENGTH,
    Recommendation,
    recommend,
)
from dynamarks_tf.audit.results import Results, read_all
from dynamarks_tf.audit.scenario import Scenario, full, left_out, quick
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.report import style, write
from dynamarks_tf.report.page import render
from dynamarks_tf.report.style import Figure
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.watermark import marking
from dynamarks_tf.watermark.layer import SCHEME
from dynamarks_tf.watermark.model_digest import model_sha256
from dynamarks_tf.watermark.outputs import OutputKind, find_output_kind
from dynamarks_tf.watermark.params import MarkParams

QUICK_QUERIES, QUICK_EPOCHS = 10_000, 6
FULL_EPOCHS = 10
_FEWEST_STEPS, _MOST_EPOCHS = 1500, 100  # vectors, text: few steps teach a surrogate classes, but not yet the mark
_CHECKED_LABELS, _FEWEST_LABELS = 2000, 50
_LABELED_SHARE, _MOST_LABELED = 0.3, 3000


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """The outcome of an audit.

    Attributes:
        rows: one for each scenario, seed and setting of the mark, and one for the cost of each setting.
        recommendation: the settings to use.
        folder: folder of report, results and plots.
        seconds: duration of the audit.
    """

    rows: tuple[dict[str, Any], ...]
    recommendation: Recommendation
    folder: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}


def run_audit(
    model: keras.Model | str | os.PathLike[str],
    data: ImageData,
    folder: str | os.PathLike[str],
    *,
    is_quick: bool = True,
    settings: Sequence[MarkParams] = (MarkParams(),),
    seeds: Sequence[int] = (0,),
    scenarios: Sequence[Scenario] | None = None,
    epochs: int | None = None,
    max_queries: int | None = None,
    other_domain: ImageData | None = None,
    rival: keras.Model | str | os.PathLike[str] | None = None,
    from_logits: bool = False,
    wanted: float = DEFAULT_STRENGTH,
    accuracy_cost: float = DEFAULT_ACCURACY_COST,
    say: Callable[[str], None] = print,
    verbose: bool = False,
    jobs: int | Jobs = 1,
) -> AuditResult:
    """Attacks a model as an attacker would, and measures how strong the evidence would be.

    For each scenario a surrogate is trained on marked answers and a removal attack is applied to it. The result is
    tested in every way that `verify` offers. The audit uses keys of its own: it does not need the owner's real key.

    Args:
        model: the owner's Keras model or `.keras` file. A mark that is on it already is stripped.
        data: images, vectors or text that an attacker could have, at best other than those that the model was trained
            on. The attacker sends the training inputs, and fine-tunes on some of the test inputs with their true
            labels. The other test inputs are fresh queries.
        folder: folder for results, report and plots. An interrupted audit continues from the results there.
        is_quick: whether to run a few scenarios with at most 10,000 queries, in minutes, or all of them.
        settings: of the mark, to be compared.
        seeds: each gives other keys and weights; the report shows the worst.
        scenarios: replaces the ready-made selection; `settings` is then ignored.
        epochs: passes over the transfer set; if omitted, 6 in a quick audit and 10 in a full one. For vectors and text
            up to 100, where these would make fewer than 1,500 steps of training.
        max_queries: maximum number of training inputs that the attacker sends.
        other_domain: inputs for an attacker who has none of the domain.
        rival: another owner's model for the same classes, or its `.keras` file, for attacks that mix two APIs.
        from_logits: whether the model answers with logits. Known from its `DynaMarkLayer` if it is marked.
        wanted: target strength for the recommendation: the log10 p that every theft must reach.
        accuracy_cost: largest loss of accuracy, as a share of all answers, for the recommendation.
        say: receives each line for people.
        verbose: whether to show progress on standard error.
        jobs: how many processes train surrogates at once, or the processes themselves (`audit.parallel.Processes`). The
            rows are the same. Each needs the memory of one audit; with one GPU, leave it at 1.

    Returns:
        The rows and the recommendation. Report, results and plots are in `folder`.

    Raises:
        ArgumentError: data and model do not fit together, no scenario is left, or the folder holds another audit.

    Example:

    >>> result = run_audit(model, datasets.load("fashion-mnist"), "audit")
    >>> print(result.recommendation.description)
    """
    start = time.monotonic()
    processes = None if jobs == 1 else Processes(jobs) if isinstance(jobs, int) else jobs
    owner, from_logits = _clean(model, from_logits)
    data = _fitted(owner, data)
    _check_labels(owner, data)
    other_domain = None if other_domain is None else _other(other_domain, data)
    out = Path(folder)
    limit = max_queries or (QUICK_QUERIES if is_quick else len(data.x_train))
    epochs = epochs or _epochs(data.kind, min(limit, len(data.x_train)), is_quick=is_quick)
    opened = marking.load_model(rival) if isinstance(rival, (str, os.PathLike)) else rival
    said = " ".join(part for part in (f"{data.describe()}.", left_out(data.kind)) if part)
    say(said)
    paths = []
    for seed in seeds:
        runner = _attack_runner(
            owner,
            data,
            seed,
            limit,
            epochs,
            other_domain=other_domain,
            rival=opened,
            from_logits=from_logits,
            verbose=verbose,
        )
        chosen = scenarios or _selection(settings, runner, min(limit, len(data.x_train)), is_quick=is_quick)
        described = {
            "scheme": SCHEME,
            "seed": seed,
            "data": data.describe(),
            "other_data": None if other_domain is None else other_domain.describe(),
            "model_sha256": model_sha256(owner),
            "rival_sha256": None if opened is None else model_sha256(opened),
            "from_logits": from_logits,
            "queries": min(limit, len(data.x_train)),
            "epochs": epochs,
        }
        results = Results(out / f"results-seed{seed}.json", described)
        paths.append(results.path)
        waiting = [scenario for scenario in chosen if not results.has(**scenario.to_dict())]
        if waiting:
            needed = _minutes(runner.estimated_seconds(waiting))
            say(f"seed {seed}: {len(waiting)} of {len(chosen)} scenarios to go; training takes about {needed}")
        runner.run(chosen, results, jobs=processes)
    rows = tuple(read_all(paths))
    recommendation = recommend(rows, wanted=wanted, accuracy_cost=accuracy_cost)
    seconds = time.monotonic() - start
    _write_report(out, rows, recommendation, said, say)
    return AuditResult(rows, recommendation, out, seconds)


def _clean(model: Any, from_logits: bool) -> tuple[keras.Model, bool]:
    """The clean model, and whether it answers logits.

    Raises:
        ArgumentError: it has another form than one input and one softmax over classes.
    """
    loaded = marking.load_model(model) if isinstance(model, (str, os.PathLike)) else model
    inputs: list[Any] = list(getattr(loaded, "inputs", None) or ())
    outputs: list[Any] = list(getattr(loaded, "outputs", None) or ())
    if len(inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ArgumentError(
            "An audit takes a model with one input and one output of shape (batch, classes). This one has inputs of "
            f"{[tuple(one.shape) for one in inputs]} and outputs of {[tuple(one.shape) for one in outputs]}."
        )
    layer = marking.find_mark(loaded)
    if layer is not None:
        clean, kind = marking.stripped(loaded), OutputKind(layer.activation, layer.from_logits)
    else:
        clean, kind = loaded, find_output_kind(loaded, from_logits=from_logits or None)
    if kind.activation != "softmax":
        raise ArgumentError(
            "An audit takes classifiers with one softmax; this model ends in sigmoids, for which there are no attacks "
            "here. `mark` and `verify` take it."
        )
    return clean, kind.from_logits


def _fitted(owner: keras.Model, data: ImageData) -> ImageData:
    """The data in the shape that the owner takes.

    Raises:
        ArgumentError: the data is of another kind, shape or number of classes.
    """
    wanted, dtype = tuple(owner.inputs[0].shape[1:]), str(owner.inputs[0].dtype)
    takes = "text" if dtype == "string" else f"numbers ({dtype})"
    if (dtype == "string") != (data.kind == "text"):
        raise ArgumentError(f"The model takes {takes}; {data.name} holds {data.kind}. Give data of the model's kind.")
    if data.kind == "vectors" and not dtype.startswith(("float", "bfloat")):
        raise ArgumentError(
            f"The model takes {takes}, such as token ids, for which there are no attacks here. An audit takes a model "
            "of text itself, with its TextVectorization inside, or of vectors of real numbers."
        )
    if data.kind == "text" and wanted == (1,):
        data = dataclasses.replace(data, x_train=data.x_train[:, np.newaxis], x_test=data.x_test[:, np.newaxis])
    given = data.x_train.shape[1:]
    if len(wanted) != len(given) or any(w not in (None, g) for w, g in zip(wanted, given, strict=True)):
        hint = {
            "images": "Give images of that size (--image-size for image folders), or a model that resizes them itself.",
            "vectors": "Give a table with as many columns, beside the labels and in the order of the model's.",
            "text": "Give a model that takes one text each.",
        }[data.kind]
        raise ArgumentError(
            f"The model takes inputs of shape {wanted}; the {data.kind} of {data.name} have {given}. {hint}"
        )
    classes = int(owner.outputs[0].shape[-1])
    if data.num_classes > classes:
        raise ArgumentError(
            f"The model has {classes} classes; {data.name} has {data.num_classes:,}. Class indices start at 0."
        )
    return data


def _check_labels(owner: keras.Model, data: ImageData) -> None:
    """Refuses labels of a table that are plainly numbered otherwise than the model's classes."""
    if data.kind == "images":
        return
    sample = slice(0, _CHECKED_LABELS)
    labels = data.y_test[sample]
    right = float((KerasSuspect(owner).predict(data.x_test[sample]).argmax(axis=1) == labels).mean())
    if len(labels) >= _FEWEST_LABELS and right < 1 / data.num_classes:
        names = f" ({', '.join(ascii(name[:20]) for name in data.class_names[:5])})" if data.class_names else ""
        raise ArgumentError(
            f"The model is right on {right:.0%} of {data.name}, less often than a guess. Its columns or its "
            f"classes{names} seem to be in another order than the model's. Give the labels as the model's class "
            "indices, and the columns in its order."
        )


def _other(other: ImageData, data: ImageData) -> ImageData:
    """The data of another domain in the shape of the owner's inputs; only images are resized."""
    if other.kind != data.kind:
        raise ArgumentError(f"The data of the other domain holds {other.kind}; the model takes {data.kind}.")
    shape = data.x_train.shape[1:]
    if data.kind == "images":
        return dataclasses.replace(other, x_train=adapted(other.x_train, shape))
    if data.kind == "text":
        return dataclasses.replace(other, x_train=other.x_train.reshape(len(other.x_train), *shape))
    if other.x_train.shape[1:] != shape:
        raise ArgumentError(
            f"The vectors of {other.name} have {other.x_train.shape[1:]}; those of {data.name} {shape}."
        )
    return other


def _epochs(kind: Kind, num_queries: int, *, is_quick: bool) -> int:
    """Passes over the transfer set that an attacker would make."""
    usual = QUICK_EPOCHS if is_quick else FULL_EPOCHS
    steps = -(-num_queries // BATCH_SIZE)
    return usual if kind == "images" else max(usual, min(_MOST_EPOCHS, -(-_FEWEST_STEPS // steps)))


def _attack_runner(
    owner: keras.Model,
    data: ImageData,
    seed: int,
    limit: int,
    epochs: int,
    *,
    other_domain: ImageData | None,
    **options: Any,
) -> AttackRunner:
    order = np.random.default_rng(seed).permutation(len(data.x_train))[:limit]
    labeled = min(int(len(data.x_test) * _LABELED_SHARE), _MOST_LABELED)
    return AttackRunner(
        owner,
        pool=data.x_train[order],
        pool_labels=data.y_train[order],
        labeled=(data.x_test[:labeled], data.y_test[:labeled]),
        fresh=(data.x_test[labeled:], data.y_test[labeled:]),
        other_domain=None if other_domain is None else other_domain.x_train[:limit],
        seed=seed,
        epochs=epochs,
        **options,
    )


def _selection(
    settings: Sequence[MarkParams], runner: AttackRunner, pool_size: int, *, is_quick: bool
) -> list[Scenario]:
    if is_quick:
        return quick(settings, runner.kind)
    return full(settings, available=runner.available, pool_size=pool_size, kind=runner.kind)


def _write_report(
    out: Path,
    rows: Sequence[dict[str, Any]],
    recommendation: Recommendation,
    data: str,
    say: Callable[[str], None],
) -> None:
    """Writes report.md, report.html and the figures; without the libraries for the latter two, a line names them."""
    sections = _sections(rows, recommendation)
    figures = _figures(rows, recommendation)
    try:
        style.check_installed()
        write.save_figures(figures, out)
        page = render("audit.html.j2", figures, recommendation=recommendation, data=data, sections=sections)
        files.write_atomically(out / "report.html", page.encode())
    except ArgumentError as error:
        figures = {}
        say(f"no figures and no report.html: {error}")
    lines = [
        "# Audit: would the mark survive?",
        "",
        data,
        "",
        f"**Recommended:** {recommendation.description}",
    ]
    for title, found in sections.items():
        lines += ["", f"## {title}", *(line for table in found for line in ("", table.markdown()))]
    lines += ["", *(f"![{name}]({name}.png)" for name in figures)]
    lines += [
        "",
        "log10 p: the worst of the seeds, which is the largest for thefts and the smallest for independent models.",
        "*Fresh*: the given number of unlabeled inputs, none of them sent to the marked model. *Logged*: up to 4 fresh",
        "ones for each class, then all inputs that the attacker sent. *Labels*: the logged inputs, with a suspect that",
        "answers with labels only.",
        "",
    ]
    files.write_atomically(out / "report.md", "\n".join(lines).encode())


def _sections(rows: Sequence[dict[str, Any]], recommendation: Recommendation) -> dict[str, list[tables.Table]]:
    """The tables of the report by the title above them."""
    costs = tables.costs(row for row in rows if row["kind"] == "cost")
    sections = {"Settings": [tables.settings(recommendation.settings), costs]}
    titles = {"theft": "Thefts", "independent": "Independent models"}
    for budget, margin, kind, same in _groups(rows, [*titles]):
        sections[f"{titles[kind]}: budget {budget:g}, tie margin {margin:g}"] = [tables.suspects(same)]
    return sections


def _figures(rows: Sequence[dict[str, Any]], recommendation: Recommendation) -> dict[str, Figure]:
    figures = [
        plots.matrix(thefts, f"thefts-budget{budget:g}-ties{margin:g}", by=("extraction", "architecture", "removal"))
        for budget, margin, _, thefts in _groups(rows, ["theft"])
    ]
    if len(recommendation.settings) > 1:
        figures.append(plots.trade_off(recommendation.settings, "trade-off"))
    return {figure.name: figure for figure in figures}


def _groups(
    rows: Sequence[dict[str, Any]], kinds: Sequence[str]
) -> Iterator[tuple[float, float, str, list[dict[str, Any]]]]:
    """The rows of each setting of the mark and each kind, where there are any, with budget, tie margin and kind."""
    for budget, margin in sorted({(row["budget"], row["tie_margin"]) for row in rows}):
        for kind in kinds:
            same = [r for r in rows if (r["budget"], r["tie_margin"], r["kind"]) == (budget, margin, kind)]
            if same:
                yield budget, margin, kind, same


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
