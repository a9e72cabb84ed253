"""`dynamarks demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamarks_tf.cli.quiet import load_tensorflow
from dynamarks_tf.params import DEFAULT_BUDGET

if TYPE_CHECKING:
    from dynamarks_tf.demo import DemoResult


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="New folder for the results.  [default: dynamarks-demo]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@click.option("--seed", default=0, show_default=True, help="Seed of training and of the choice of queries.")
@click.option("--budget", default=DEFAULT_BUDGET, show_default=True, help="Largest total variation of the mark.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data.  [default: about 1,400 steps]")
@click.option("--max-images", type=click.IntRange(min=20), help="Use only so many training images.")
def demo(
    out: Path | None, data: Path | None, seed: int, budget: float, epochs: int | None, max_images: int | None
) -> int:
    """Mark, serve, steal over the wire and convict, on real images (about 5 minutes on 2 cores).

    Exits with 0 if the thief is convicted and the innocents are not, else with 1.

    \b
      dynamarks demo --out my-demo --seed 1
    """
    load_tensorflow()
    from dynamarks_tf.demo import run_demo

    result = run_demo(out, data=data, seed=seed, budget=budget, epochs=epochs, max_images=max_images, say=click.echo)
    _print_table(result)
    click.echo(f"\nEverything is in {result.folder}/ (report.json has the details). To repeat the conviction:\n")
    click.echo(f"  {result.command}\n")
    return 0 if result.as_expected else 1


def _print_table(result: DemoResult) -> None:
    counts = sorted(result.suspects[0].evidence)
    header = f"{'suspect':<34}{'accuracy':>9}" + "".join(f"{f'log10 p, {n} queries':>23}" for n in counts)
    click.echo(f"\n{header}  verdict (p <= 1e-6)")
    for suspect in result.suspects:
        values = "".join(f"{suspect.evidence[n].log10_p:>23.2f}" for n in counts)
        verdict = "MARK FOUND" if suspect.final.detected() else "not found"
        click.echo(f"{suspect.name:<34}{suspect.accuracy:>9.4f}{values}  {verdict}")
    click.echo(f"\n{result.dataset}, {result.seconds:.0f} s")
