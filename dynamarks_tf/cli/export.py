"""`dynamarks export`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import json_option, print_json
from dynamarks_tf.cli.quiet import load_tensorflow


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--version", type=click.IntRange(min=1), help="Version number.  [default: one above the highest]")
@click.option("--warmup", type=click.Path(path_type=Path), help=".npy file with inputs for TF Serving's warm-up.")
@json_option
def export(model: Path, folder: Path, version: int | None, warmup: Path | None, as_json: bool) -> None:
    """Write a marked MODEL as a SavedModel for TensorFlow Serving.

    It becomes a new version below FOLDER; what is there is never overwritten.

    \b
      dynamarks export marked.keras served/clf  # writes served/clf/1, then /2
      dynamarks export marked.keras served/clf --warmup x.npy
    """
    load_tensorflow()
    from dynamarks_tf import marking
    from dynamarks_tf.export import export_saved_model
    from dynamarks_tf.queries import load_queries

    loaded = marking.load_model(model)
    if marking.find_mark(loaded) is None:
        click.echo(f"warning: {model} is not marked; what is stolen from it cannot be proven", err=True)
    if version is None:
        taken = [int(child.name) for child in folder.iterdir() if child.name.isdecimal()] if folder.is_dir() else []
        version = max(taken, default=0) + 1
    samples = load_queries(warmup)[:32] if warmup is not None else None
    written = export_saved_model(loaded, folder / str(version), warmup=samples)
    if as_json:
        print_json({"path": written, "version": version})
    else:
        click.echo(f"exported {model} -> {written}")
