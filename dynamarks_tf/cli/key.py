"""`dynamarks keygen` and `dynamarks commit`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json
from dynamarks_tf.keys.commitment import commit as make_statement
from dynamarks_tf.keys.key import MarkKey


@click.command()
@click.option("--owner", required=True, help="Who claims the model, as it should stand in a report.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Key file to write (mode 0600).")
@click.option("--force", is_flag=True, help="Replace an existing key file. What was marked with it is then unprovable.")
@json_option
def keygen(owner: str, out: Path, force: bool, as_json: bool) -> None:
    """Make a new secret key and print its commitment.

    \b
      dynamarks keygen --owner "ACME Vision" --out acme.key
    """
    key = MarkKey.generate(owner)
    key.save(out, overwrite=force)
    if as_json:
        print_json({"path": out, "key_id": key.key_id, "owner": key.owner, "commitment": key.commitment})
        return
    click.echo(f"key        {out} (secret: keep it and a backup of it)")
    click.echo(f"key id     {key.key_id}")
    click.echo(f"owner      {key.owner}")
    click.echo(f"commitment {key.commitment} (publish it before a suspect appears)")


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Model file whose digest the statement must hold.")
@click.option("--pool", type=click.Path(path_type=Path), help=".npy or .npz file of inputs to draw queries from.")
@click.option("--max-queries", type=click.IntRange(min=1), help="With --pool: number of queries.  [default: 1000]")
@click.option(
    "--draw", type=click.IntRange(min=1), help="With --pool: inputs drawn to choose them from.  [default: 20 a query]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the statement to this JSON file.")
@json_option
def commit(
    key: Path,
    model: Path | None,
    pool: Path | None,
    max_queries: int | None,
    draw: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print the signed, publishable commitment to a KEY file.

    Publish it, dated by somebody else (a notary, a time-stamping service, a public repository), before any suspect
    appears: it proves that the key was not chosen to fit the suspect. `verify --statement` checks it.

    With --pool, it also fixes the inputs that queries may come from. `verify --pool POOL --beacon VALUE` then draws
    them by a public value that is known only afterwards, so that nobody can choose them by the suspect's answers.

    \b
      dynamarks commit acme.key --model marked.keras --out statement.json
      dynamarks commit acme.key --model marked.keras --pool pool.npy \\
          --max-queries 500 --out statement.json
    """
    if pool is None and (max_queries, draw) != (None, None):
        raise click.UsageError("--max-queries and --draw say what is drawn from a pool; give it by --pool.")
    loaded_key = MarkKey.load(key)
    if pool is None:
        statement = make_statement(loaded_key, model=model)
    else:
        load_tensorflow()
        from dynamarks_tf.verification.drawing import committed_pool

        described = committed_pool(pool, max_queries=max_queries or 1000, draw=draw)
        statement = make_statement(loaded_key, model=model, pool=described)
    if out is not None:
        statement.save(out)
    print_json(statement.to_dict())
