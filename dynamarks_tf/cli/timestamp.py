"""`dynamarks timestamp`: a date for a statement, by an RFC 3161 time-stamping authority."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from dynamarks_tf._support import files
from dynamarks_tf.cli.output import json_option, print_json, say
from dynamarks_tf.errors import CommitmentError
from dynamarks_tf.keys import timestamp as timestamps
from dynamarks_tf.keys.commitment import Statement


@click.command()
@click.argument("statement", type=click.Path(path_type=Path))
@click.option("--url", help="Ask this authority, and keep its reply.")
@click.option("--request", type=click.Path(path_type=Path), help="Write the request to this file, to be sent later.")
@click.option("--reply", type=click.Path(path_type=Path), help="Keep the authority's reply in this file.")
@click.option(
    "--roots",
    type=click.Path(path_type=Path),
    metavar="PEM",
    help="Root certificates that the timestamp must lead to.",
)
@json_option
def timestamp(
    statement: Path, url: str | None, request: Path | None, reply: Path | None, roots: Path | None, as_json: bool
) -> None:
    """Have a STATEMENT dated, or say what its timestamp says.

    The reply is kept beside it, in STATEMENT.tsr, where `verify --statement` finds it. It takes no key. The authority
    learns a digest of the statement only.

    \b
      dynamarks timestamp statement.json --url http://timestamp.example.com
      dynamarks timestamp statement.json --request request.tsq
      curl -H "Content-Type: application/timestamp-query" \\
          --data-binary @request.tsq http://timestamp.example.com > reply.tsr
      dynamarks timestamp statement.json --reply reply.tsr
      dynamarks timestamp statement.json --roots roots.pem
    """
    if sum(option is not None for option in (url, request, reply)) > 1:
        raise click.UsageError("--url, --request and --reply are three ways; give one of them.")
    trusted = None if roots is None else timestamps.load_roots(roots)
    loaded = Statement.load(statement)
    if request is not None:
        write_request(loaded, statement, request)
        return
    if url is not None:
        loaded = add_timestamp(loaded, statement, url)
    elif reply is not None:
        loaded = loaded.with_timestamp(timestamps.load_reply(reply), str(reply))
        loaded.proven_date(trusted, str(reply))  # before it is kept
        timestamps.save_reply(statement, loaded.timestamp or b"")
    date = loaded.proven_date(trusted)
    if date is None:
        raise CommitmentError(
            f"{statement} has no timestamp. Ask for one: --url URL, or --request FILE and --reply FILE."
        )
    if as_json:
        print_json(dataclasses.asdict(date))
    else:
        say(date.in_words())


def write_request(statement: Statement, path: Path, request: Path) -> None:
    """Writes the request for a timestamp, and says how to go on."""
    files.write_atomically(request, statement.timestamp_request())
    say(
        f"{request}: send it to a time-stamping authority (Content-Type: application/timestamp-query), then: "
        f"dynamarks timestamp {path} --reply FILE",
        err=True,
    )


def add_timestamp(statement: Statement, path: Path, url: str) -> Statement:
    """Has a statement's file dated; it stays as it is if that fails."""
    if timestamps.beside(path).exists():
        raise CommitmentError(f"{path} has a timestamp already: {timestamps.beside(path)}.")
    try:
        dated = statement.timestamped(url)
    except CommitmentError as error:
        raise CommitmentError(f"{error} {path} has no timestamp yet: dynamarks timestamp {path} --url URL") from error
    say(f"{timestamps.save_reply(path, dated.timestamp or b'')}: its timestamp", err=True)
    return dated
