"""`dynamarks export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dynamarks_tf._support.files import file_sha256
from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json, say
from dynamarks_tf.cli.own_model import load_own_model, own_model_options
from dynamarks_tf.errors import CommitmentError
from dynamarks_tf.keys.commitment import Statement

# Those of dynamarks_tf.export, which would load NumPy and Keras for the help.
QUANTIZATIONS = ("float16", "int8")
SUFFIX = ".tflite"


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--version", type=click.IntRange(min=1), help="Version number.  [default: one above the highest]")
@click.option("--warmup", type=click.Path(path_type=Path), help=".npy file with inputs for TF Serving's warm-up.")
@click.option("--quantize", type=click.Choice(QUANTIZATIONS), help="Type to quantize to.  [default: float32]")
@click.option("--representative", type=click.Path(path_type=Path), help=".npy file with some inputs, for int8.")
@click.option("--output", help="Name of the output to export, of a model with several.")
@click.option(
    "--statement",
    type=click.Path(path_type=Path),
    help="Put this statement, and its timestamp, into the version's folder, which can then be signed.",
)
@own_model_options
@json_option
def export(
    model: Path,
    target: Path,
    version: int | None,
    warmup: Path | None,
    quantize: str | None,
    representative: Path | None,
    output: str | None,
    statement: Path | None,
    modules: tuple[str, ...],
    unsafe_load: bool,
    as_json: bool,
) -> None:
    """Write a marked MODEL for TensorFlow Serving or for TFLite.

    It becomes a new version below the folder TARGET, or, for edge devices, the file TARGET.tflite. Nothing is
    overwritten.

    \b
      dynamarks export marked.keras served/clf  # writes served/clf/1, then /2
      dynamarks export marked.keras served/clf --warmup x.npy
      dynamarks export marked.keras served/clf --statement statement.json
      dynamarks export marked.keras marked.tflite \\
          --quantize int8 --representative x.npy
    """
    is_lite = target.suffix == SUFFIX
    of_folders = {"--version": version, "--warmup": warmup, "--statement": statement}
    _check_options(is_lite, of_folders, f"TARGET does not end in {SUFFIX}")
    _check_options(
        not is_lite, {"--quantize": quantize, "--representative": representative}, f"TARGET ends in {SUFFIX}"
    )
    load_tensorflow()
    from dynamarks_tf.export import export_saved_model, export_tflite
    from dynamarks_tf.watermark import marking

    published = None if statement is None else Statement.load(statement)
    if published is not None and published.model_sha256 is not None:
        published.check_model(file_sha256(model))
    loaded = load_own_model(model, modules, unsafe_load)
    mark = marking.find_mark(loaded)
    if published is not None and (mark is None or mark.key_id != published.key_id):
        marked_with = "is not marked" if mark is None else f"is marked with the key {mark.key_id}"
        raise CommitmentError(
            f"{statement} is about the key {published.key_id}, and {model} {marked_with}. Give the statement of the "
            "key that marked the model."
        )
    if mark is None:
        say(f"warning: {model} is not marked; theft of this model cannot be proven", err=True)
    if is_lite:
        given = _inputs(representative, None)
        written = export_tflite(loaded, target, quantize=quantize, representative=given, output=output)
    else:
        folder = target / str(version or _next_version(target))
        written = export_saved_model(loaded, folder, warmup=_inputs(warmup, 32), output=output, statement=statement)
    if as_json:
        print_json({"path": written} if is_lite else {"path": written, "version": int(written.name)})
    else:
        say(f"exported {model} -> {written}")


def _check_options(is_refused: bool, options: dict[str, Any], condition: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if is_refused and given:
        raise click.UsageError(f"{given[0]} is taken only if {condition}.")


def _inputs(path: Path | None, count: int | None) -> Any:
    from dynamarks_tf.suspects.queries import load_queries

    return None if path is None else load_queries(path)[:count]


def _next_version(folder: Path) -> int:
    if folder.is_file():
        raise click.UsageError(f"{folder} is a file. Name a folder, or a file that ends in {SUFFIX}.")
    taken = [int(child.name) for child in folder.iterdir() if child.name.isdecimal()] if folder.is_dir() else []
    return max(taken, default=0) + 1
