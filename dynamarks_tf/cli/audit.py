"""`dynamarks audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json, say
from dynamarks_tf.cli.own_model import load_own_model, own_model_options
from dynamarks_tf.watermark.params import DEFAULT_BUDGET, DEFAULT_TIE_MARGIN, MarkParams

if TYPE_CHECKING:
    from dynamarks_tf._support.input_kind import Kind
    from dynamarks_tf.audit import AuditResult

_DEFAULT_OUT = Path("dynamarks-audit")


def _list(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Prints the names of all attacks."""
    if not wanted:
        return
    load_tensorflow()
    from dynamarks_tf.attacks.architectures import ALL
    from dynamarks_tf.attacks.catalogue import EXTRACTIONS, REMOVALS

    descriptions = {
        "--extraction": {name: attack.description for name, attack in EXTRACTIONS.items()},
        "--removal": {name: attack.description for name, attack in REMOVALS.items()},
        "--architecture": {name: (build.__doc__ or "").splitlines()[0] for name, build in ALL.items()},
    }
    width = max(len(name) for catalogue in descriptions.values() for name in catalogue) + 2
    for title, catalogue in descriptions.items():
        say(f"{title}:")
        for name, description in catalogue.items():
            say(f"  {name:<{width}}{description}")
    context.exit()


@click.command()
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The owner's .keras file.")
@click.option("--data", required=True, help="Images, vectors or text: a name, a folder, .npz, .npy, .csv or .parquet.")
@click.option("--labels", type=click.Path(path_type=Path), help="The .npy file of labels, for inputs in an .npy file.")
@click.option("--out", default=_DEFAULT_OUT, show_default=True, type=click.Path(path_type=Path), help="Results folder.")
@click.option("--quick/--full", "is_quick", default=True, show_default=True, help="A few scenarios, or all.")
@click.option("--budget", multiple=True, type=float, help=f"Of the mark; may be repeated.  [default: {DEFAULT_BUDGET}]")
@click.option("--tie-margin", multiple=True, type=float, help=f"May be repeated.  [default: {DEFAULT_TIE_MARGIN}]")
@click.option("--extraction", multiple=True, help="Only this extraction; may be repeated. --list shows all.")
@click.option("--removal", multiple=True, help="Only this removal attack; may be repeated.")
@click.option("--architecture", multiple=True, help="Only this surrogate; may be repeated.")
@click.option(
    "--seed", multiple=True, type=click.IntRange(min=0), help="May be repeated; the worst counts.  [default: 0]"
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Passes over stolen answers.  [default: quick 6, full 10; more for small tables]",
)
@click.option("--max-queries", type=click.IntRange(min=20), help="Maximum number of queries.  [default: quick 10,000]")
@click.option("--image-size", type=(int, int), help="Height and width, for image folders.")
@click.option("--other-data", help="Inputs of another domain, as --data.")
@click.option("--rival", type=click.Path(path_type=Path), help="Another owner's .keras file for the same classes.")
@click.option("--from-logits", is_flag=True, help="The model ends in logits.")
@click.option("--strength", default=-6.0, show_default=True, help="Target strength: log10 p of the weakest theft.")
@click.option("--accuracy-cost", default=0.3, show_default=True, help="Points of accuracy that the mark may cost.")
@click.option(
    "--list", "lists", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Name all attacks."
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes that run at once.")
@own_model_options
@json_option
def audit(
    model: Path,
    data: str,
    labels: Path | None,
    out: Path,
    is_quick: bool,
    budget: tuple[float, ...],
    tie_margin: tuple[float, ...],
    extraction: tuple[str, ...],
    removal: tuple[str, ...],
    architecture: tuple[str, ...],
    seed: tuple[int, ...],
    epochs: int | None,
    max_queries: int | None,
    image_size: tuple[int, int] | None,
    other_data: str | None,
    rival: Path | None,
    from_logits: bool,
    strength: float,
    accuracy_cost: float,
    jobs: int,
    modules: tuple[str, ...],
    unsafe_load: bool,
    as_json: bool,
) -> int:
    """Run attacks on your own model, and recommend settings.

    Trains surrogates on marked answers, applies removal attacks, tests the results as `verify` would, and recommends
    settings. Needs no key. An interrupted audit continues when the same command is given again.
    Exits with 0 if some setting is strong enough, otherwise with 1.

    \b
      dynamarks audit --model model.keras --data fashion-mnist
      dynamarks audit --model model.keras --data customers.csv
      dynamarks audit --model model.keras --data photos/ --full \\
          --budget 0.02 --budget 0.05 --seed 0 --seed 1 --seed 2
    """
    settings = [
        MarkParams(one, tie_margin=margin)
        for one in budget or (DEFAULT_BUDGET,)
        for margin in tie_margin or (DEFAULT_TIE_MARGIN,)
    ]
    load_tensorflow()
    from dynamarks_tf import datasets
    from dynamarks_tf.audit import run_audit
    from dynamarks_tf.audit.parallel import Processes

    loaded = datasets.load(data, labels=labels, image_size=image_size, verbose=True)
    result = run_audit(
        load_own_model(model, modules, unsafe_load),
        loaded,
        out,
        is_quick=is_quick,
        settings=settings,
        seeds=seed or (0,),
        scenarios=_scenarios(extraction, removal, architecture, settings, loaded.kind),
        epochs=epochs,
        max_queries=max_queries,
        other_domain=None if other_data is None else datasets.load(other_data, verbose=True),
        rival=rival,
        from_logits=from_logits,
        wanted=strength,
        accuracy_cost=accuracy_cost / 100,
        say=say,
        verbose=True,
        jobs=jobs if jobs == 1 else Processes(jobs, modules=modules, allow_code=unsafe_load),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    return 0 if result.recommendation.chosen is not None else 1


def _scenarios(
    extraction: tuple[str, ...],
    removal: tuple[str, ...],
    architecture: tuple[str, ...],
    settings: list[MarkParams],
    kind: Kind,
) -> Any:
    """The scenarios that the options name, or `None` for the ready-made selection."""
    if not (extraction or removal or architecture):
        return None
    from dynamarks_tf.attacks.architectures import MAIN
    from dynamarks_tf.audit import crossed

    return crossed(extraction or ["full", "labels"], removal or ["none"], architecture or [MAIN[kind]], settings)


def _print(result: AuditResult) -> None:
    from rich.console import Console
    from rich.table import Table

    from dynamarks_tf.audit.tables import COLUMNS, rounded

    table = Table("suspect", "removal", "accuracy", *COLUMNS, title="log10 p")
    for row in result.rows:
        if row["kind"] != "cost":
            found = [row["findings"].get(column) for column in COLUMNS]
            table.add_row(
                f"{row['extraction']}, {row['architecture']}" + ("" if row["kind"] == "theft" else " (independent)"),
                row["removal"],
                f"{row['accuracy']:.3f}",
                *("-" if finding is None else rounded(finding["log10_p"], 1) for finding in found),
            )
    Console(width=140).print(table)
    say(f"Recommended: {result.recommendation.description}")
    say(f"Report, results and plots are in {result.folder}/ ({result.seconds:.0f} s).")
