"""`dynamarks inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import json_option, print_json
from dynamarks_tf.cli.quiet import load_tensorflow


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Say what PATH is: a key, a model and its mark, evidence.

    Prints JSON, with or without --json, and nothing secret.

    \b
      dynamarks inspect marked.keras
      dynamarks inspect acme.key
    """
    from dynamarks_tf import inspection

    if path.is_dir() or path.suffix in inspection.KERAS_SUFFIXES:
        load_tensorflow()
    print_json(inspection.inspect(path))
