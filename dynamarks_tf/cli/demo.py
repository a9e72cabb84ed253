"""`dynamarks demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json, say
from dynamarks_tf.errors import ServingError
from dynamarks_tf.watermark.params import DEFAULT_BUDGET, DEFAULT_TIE_MARGIN

if TYPE_CHECKING:
    from dynamarks_tf.demo import DemoResult


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="New folder for the results.  [default: dynamarks-demo]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@click.option("--seed", default=0, show_default=True, help="Seed of training and of the choice of queries.")
@click.option("--budget", default=DEFAULT_BUDGET, show_default=True, help="Largest total variation of the mark.")
@click.option(
    "--tie-margin",
    default=DEFAULT_TIE_MARGIN,
    show_default=True,
    help="Let the key decide ties. 0: theft by labels is not detected.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data.  [default: about 1,400 steps]")
@click.option("--max-images", type=click.IntRange(min=20), help="Maximum number of training images.")
@click.option("--gateway", is_flag=True, help="Query through Envoy, and read the log that its collector wrote.")
@json_option
def demo(
    out: Path | None,
    data: Path | None,
    seed: int,
    budget: float,
    tie_margin: float,
    epochs: int | None,
    max_images: int | None,
    gateway: bool,
    as_json: bool,
) -> int:
    """Mark, serve, steal over the wire and detect, on real images.

    Takes about 10 minutes on 2 cores. Exits with 0 if all verdicts are right, otherwise with 1. Right means: the mark
    is detected in every surrogate of the marked model and in no independent model. The trace finds the client whose
    answers were used, and no other.

    \b
      dynamarks demo --out my-demo --seed 1
    """
    load_tensorflow()
    from dynamarks_tf.demo import run_demo

    result = run_demo(
        out,
        data=data,
        seed=seed,
        budget=budget,
        tie_margin=tie_margin,
        epochs=epochs,
        max_images=max_images,
        gateway=gateway and _has_envoy(),
        say=say,
    )
    if as_json:
        print_json(result.to_dict())
        return 0 if result.as_expected else 1
    _print_table(result)
    say("", f"Everything is in {result.folder}/ (report.json has the details). To repeat the detections:", "")
    for command in result.commands:
        say(f"  {command}")
    return 0 if result.as_expected else 1


def _has_envoy() -> bool:
    from dynamarks_tf.serving.gateway.launcher import find_envoy

    try:
        find_envoy()
    except ServingError as error:
        say(f"{error} The demo goes on without the gateway.")
        return False
    return True


def _print_table(result: DemoResult) -> None:
    from dynamarks_tf.demo import SEQUENTIAL

    queries = [name for name in result.suspects[0].evidence if name != SEQUENTIAL]
    head = "".join(f"{name:>11}" for name in queries)
    say("", f"{'suspect':<42}{'accuracy':>9}{head}  log10 p; mark (logged); questions until p <= 1e-6")
    for suspect in result.suspects:
        found = {name: f"{evidence.log10_p:.2f}" for name, evidence in suspect.evidence.items()}
        values = "".join(f"{found.get(name, '-'):>11}" for name in queries)
        outcome = "DETECTED" if suspect.final.detected() else "not detected"
        stopped = suspect.evidence[SEQUENTIAL]
        asked = f"{stopped.num_queries}" if stopped.detected() else f"not within {stopped.num_queries:,}"
        say(f"{suspect.name:<42}{suspect.accuracy:>9.4f}{values}  {outcome:<14}{asked}")
    _print_clients(result)
    say("", f"{result.dataset}, {result.seconds:.0f} s")


def _print_clients(result: DemoResult) -> None:
    from dynamarks_tf.demo import CLIENTS

    columns = "".join(f"{name:>12}" for name in CLIENTS)
    say("", f"{'adjusted log10 p of each client (trace)':<42}{columns}  clients whose answers were used")
    for suspect in result.suspects:
        if suspect.trace is not None:
            values = "".join(f"{suspect.trace.clients[name].adjusted_log10_p:>12.2f}" for name in CLIENTS)
            say(f"{suspect.name:<42}{values}  {', '.join(suspect.trace.detected()) or 'none found'}")
