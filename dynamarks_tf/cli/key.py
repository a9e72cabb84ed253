"""`dynamarks keygen` and `dynamarks commit`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json, say
from dynamarks_tf.cli.timestamp import add_timestamp, write_request
from dynamarks_tf.foreign_text import quoted
from dynamarks_tf.keys.commitment import commit as make_statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.passphrase_input import load_key, new_passphrase


@click.command()
@click.option("--owner", help="Name of the owner, as it should stand in a report.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Key file to write (mode 0600).")
@click.option("--client", help="Derive the key of this client or segment, from the master key in --from.")
@click.option(
    "--from", "master", type=click.Path(path_type=Path), help="Key file with the master key that --client derives from."
)
@click.option("--force", is_flag=True, help="Replace an existing key file. Marks made with it can then not be proven.")
@click.option("--encrypt", is_flag=True, help="Encrypt the file with a passphrase, which is asked for.")
@json_option
def keygen(
    owner: str | None, out: Path, client: str | None, master: Path | None, force: bool, encrypt: bool, as_json: bool
) -> None:
    """Make a new secret key and print its commitment.

    With --client and --from, write the key of one client instead: for a host that marks or serves this client's model
    and must not hold the master key.

    With --encrypt, the passphrase may also be the first line of the file that DYNAMARKS_PASSPHRASE_FILE names. A
    forgotten passphrase is a lost key.

    \b
      dynamarks keygen --owner "ACME Vision" --out acme.key
      dynamarks keygen --owner "ACME Vision" --out acme.key --encrypt
      dynamarks keygen --from acme.key --client client-7 --out client-7.key
    """
    if (client is None) != (master is None) or (owner is None) == (master is None):
        raise click.UsageError("Give either --owner, for a new key, or --from and --client, for the key of a client.")
    key = MarkKey.generate(owner or "") if master is None else load_key(master).for_client(client or "")
    key.save(out, passphrase=new_passphrase() if encrypt else None, overwrite=force)
    if as_json:
        named = {} if key.client is None else {"client": key.client}
        print_json({"path": out, "key_id": key.key_id, "owner": key.owner, **named, "commitment": key.commitment})
        return
    again = (
        "keep it and a backup of it" if key.client is None else "the same command with the master key makes it again"
    )
    say(f"key        {out} (secret: {again})")
    say(f"key id     {key.key_id}")
    say(f"owner      {key.owner}")
    if key.client is not None:
        say(f"client     {quoted(key.client)}")
    say(f"commitment {key.commitment} (publish it before a suspect appears)")


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option("--client", help="Commit to the key of this client, derived from KEY: it can then be revealed alone.")
@click.option("--model", type=click.Path(path_type=Path), help="Model file whose digest the statement must hold.")
@click.option("--pool", type=click.Path(path_type=Path), help=".npy or .npz file of inputs to draw queries from.")
@click.option("--max-queries", type=click.IntRange(min=1), help="With --pool: number of queries.  [default: 1000]")
@click.option(
    "--draw", type=click.IntRange(min=1), help="With --pool: inputs drawn to choose them from.  [default: 20 a query]"
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the statement to this JSON file.")
@click.option("--timestamp", metavar="URL", help="Have --out dated by this RFC 3161 time-stamping authority.")
@click.option(
    "--timestamp-request",
    type=click.Path(path_type=Path),
    help="Write the request for a timestamp to this file, to be sent from elsewhere.",
)
@json_option
def commit(
    key: Path,
    client: str | None,
    model: Path | None,
    pool: Path | None,
    max_queries: int | None,
    draw: int | None,
    out: Path | None,
    timestamp: str | None,
    timestamp_request: Path | None,
    as_json: bool,
) -> None:
    """Print the signed, publishable commitment to a KEY file.

    Publish it, dated by somebody else (a time-stamping authority, a notary, a public repository), before any suspect
    appears: it proves that the key was not chosen to fit the suspect. `verify --statement` checks it.

    With --timestamp, the authority's reply is written beside --out, to statement.json.tsr. The authority learns no more
    than a digest of the statement. `dynamarks timestamp` dates a statement later.

    A commitment to a master key fixes the keys of all clients. They can be checked against it only with the master key.
    To reveal one client's key alone later, commit to it by --client as well.

    With --pool, it also fixes the inputs that queries may come from. `verify --pool POOL --beacon VALUE` then draws
    them by a public value that is known only afterwards, so that nobody can choose them by the suspect's answers.

    \b
      dynamarks commit acme.key --model marked.keras --out statement.json
      dynamarks commit acme.key --out statement.json \\
          --timestamp http://timestamp.example.com
      dynamarks commit acme.key --client client-7 --out statement-7.json
      dynamarks commit acme.key --model marked.keras --pool pool.npy \\
          --max-queries 500 --out statement.json
    """
    if pool is None and (max_queries, draw) != (None, None):
        raise click.UsageError("--max-queries and --draw are for a draw from a pool; give it by --pool.")
    if out is None and (timestamp, timestamp_request) != (None, None):
        raise click.UsageError("--timestamp and --timestamp-request date the statement's file; name it by --out.")
    loaded_key = load_key(key)
    if client is not None:
        loaded_key = loaded_key.for_client(client)
    if pool is None:
        statement = make_statement(loaded_key, model=model)
    else:
        load_tensorflow()
        from dynamarks_tf.verification.drawing import committed_pool

        described = committed_pool(pool, max_queries=max_queries or 1000, draw=draw)
        statement = make_statement(loaded_key, model=model, pool=described)
    if out is not None:
        statement.save(out)
    if out is not None and timestamp_request is not None:
        write_request(statement, out, timestamp_request)
    if out is not None and timestamp is not None:
        add_timestamp(statement, out, timestamp)
    print_json(statement.to_dict())
