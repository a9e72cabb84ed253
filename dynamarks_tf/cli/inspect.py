"""`dynamarks inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dynamarks_tf.cli.quiet import load_tensorflow


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def inspect(path: Path) -> None:
    """Say what PATH is: a key, a model with or without a mark, evidence. Shows nothing secret.

    \b
      dynamarks inspect marked.keras
      dynamarks inspect acme.key
    """
    from dynamarks_tf import inspection

    if path.is_dir() or path.suffix in inspection.KERAS_SUFFIXES:
        load_tensorflow()
    click.echo(json.dumps(inspection.inspect(path), indent=2, ensure_ascii=False))
