"""`dynamarks keygen` and `dynamarks commit`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dynamarks_tf import _files
from dynamarks_tf.errors import KeyFileError
from dynamarks_tf.key import MarkKey


@click.command()
@click.option("--owner", required=True, help="Who claims the model, as it should stand in a report.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Key file to write (mode 0600).")
@click.option("--force", is_flag=True, help="Replace an existing key file. What was marked with it is then unprovable.")
def keygen(owner: str, out: Path, force: bool) -> None:
    """Make a new secret key and print its commitment.

    \b
      dynamarks keygen --owner "ACME Vision" --out acme.key
    """
    key = MarkKey.generate(owner)
    key.save(out, overwrite=force)
    click.echo(f"key        {out} (secret: keep it and a backup of it)")
    click.echo(f"key id     {key.key_id}")
    click.echo(f"owner      {key.owner}")
    click.echo(f"commitment {key.commitment} (publish it before a suspect appears)")


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Also write the statement to this JSON file.")
def commit(key: Path, out: Path | None) -> None:
    """Print the publishable commitment to a KEY file.

    Publish it, dated by somebody else (a notary, a time-stamping service, a public repository), before any suspect
    appears: it proves that the key was not chosen to fit the suspect.

    \b
      dynamarks commit acme.key --out acme-commitment.json
    """
    loaded = MarkKey.load(key)
    statement = {
        "format": "dynamarks-commitment",
        "version": 1,
        "owner": loaded.owner,
        "key_id": loaded.key_id,
        "commitment": loaded.commitment,
        "key_created": loaded.created,
    }
    text = json.dumps(statement, indent=2, ensure_ascii=False)
    click.echo(text)
    if out is not None:
        try:
            _files.write_atomically(out, (text + "\n").encode(), overwrite=False)
        except FileExistsError as error:
            raise KeyFileError(f"{out} exists; name another file.") from error
