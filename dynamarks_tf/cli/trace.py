"""`dynamarks trace`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamarks_tf._support import files
from dynamarks_tf.cli.asking_options import EXIT_FOUND, EXIT_NOT_FOUND, SECTIONS, AskingOptions, asking_options
from dynamarks_tf.cli.output import SectionedCommand, json_option, print_json, say
from dynamarks_tf.cli.report import ReportOptions, report_options

if TYPE_CHECKING:
    from dynamarks_tf.case.trace import TraceResult

QUERIES = {"Queries": "log group keys queries max_queries seed"}
_BY_LOG = (
    "exclusive   number of secret signs that only this client's requests met in the whole log",
    "adjusted    log10 p after Holm's adjustment for the number of clients and groups; it decides",
)
_BY_KEY = (
    "signs       number of secret signs of this client's key that the queries met",
    "adjusted    log10 p after Holm's adjustment for the number of keys; it decides",
    "FOUND       the suspect learned from answers of the model that was marked with this client's key",
)
_NEEDS = """\
trace needs three things:

  suspect  SUSPECT: a model file, an address, or a file of its answers
  owner    --owner: the marked .keras file; --key: the key file
  clients  --log: the whole request log; or --keys: names of all clients with a
           key of their own, and --queries: fresh inputs

  dynamarks trace suspect.keras --owner marked.keras --key acme.key --log logs/
"""
_LARGEST_LIST = 2**25  # bytes of a file of clients' names


@click.command(cls=SectionedCommand, sections={**SECTIONS, **QUERIES}, needs=_NEEDS)
@click.argument("suspect")
@click.option(
    "--log",
    multiple=True,
    metavar="PATH",
    help="The whole request log: file, folder, URL (s3://, gs://, abfs://) or glob in quotes.",
)
@click.option(
    "--group", multiple=True, metavar="A,B", help="Clients of the log to be tested together too, two to four."
)
@click.option(
    "--keys",
    metavar="NAMES",
    help="All clients that were served with a key of their own (`mark --client`): A,B,C, or a file with one a line.",
)
@click.option("--queries", type=click.Path(path_type=Path), help=".npy or .npz file of fresh inputs, for --keys.")
@report_options
@asking_options
@json_option
def trace(
    suspect: str,
    log: tuple[str, ...],
    group: tuple[str, ...],
    keys: str | None,
    queries: Path | None,
    as_json: bool,
    asking: AskingOptions,
    reports: ReportOptions,
) -> int:
    """Find from which client's answers SUSPECT learned.

    There are two ways. With --log, all clients were served one marked model. Each client is tested with the secret
    signs that only its requests met. The log must be whole: all clients, from the first request on. --group takes
    names with commas between them, and may be repeated; a comma in a name is written \\,

    With --keys and --queries, each client was served a model marked with its own key. SUSPECT is asked fresh inputs
    once, and its answers are tested with every key. --key is the master key, --owner the model of any client.

    SUSPECT is what `dynamarks verify` takes.

    Exits with 0 if a client is found (p <= alpha, adjusted for the number of clients), 1 if none is, 2 on an error.

    \b
      dynamarks trace suspect.keras --owner marked.keras --key acme.key \\
          --log logs/ --report report.html
      dynamarks trace grpc://10.0.0.7:8500/clf --owner marked.keras \\
          --key acme.key --log logs/ --group customer-7,customer-9
      dynamarks trace suspect.keras --owner client-1.keras --key acme.key \\
          --keys clients.txt --queries x.npy --max-queries 100
    """
    if bool(log) == (keys is not None):
        raise click.UsageError("Give either the whole log by --log, or the clients' names by --keys.")
    if (keys is None) != (queries is None):
        raise click.UsageError("--keys is tested with fresh inputs by --queries; give both of them, or neither.")
    if keys is not None and group:
        raise click.UsageError("--group is about clients of a log; --keys tests each client by its own key.")
    if keys is not None and reports.confidential:
        raise click.UsageError("--confidential shows the sign table of one key; --keys tests many. Give one of both.")
    clients = () if keys is None else _listed(keys)
    given: dict[str, Any] = {"log": log, "groups": [_names(text) for text in group]}
    if keys is not None:
        given = {"keys": clients, "queries": queries}
    prepared = asking.prepared(suspect, reports, clients=clients)
    from dynamarks_tf.verification import trace as tracing

    result = tracing.trace(suspect, **given, **prepared.arguments)
    if as_json:
        print_json(result.to_dict())
        for warning in result.verification.warnings:
            say(f"warning: {warning}", err=True)
    else:
        say(*_lines(result))
    prepared.finish()
    if asking.out is not None:  # it names clients: private
        content = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
        files.write_atomically(asking.out, content.encode(), mode=files.PRIVATE_FILE)
    return EXIT_FOUND if result.detected() else EXIT_NOT_FOUND


def _names(group: str) -> tuple[str, ...]:
    """The names in a group, with commas between them.

    Example:

    >>> _names(r"a,b\\,c")
    ("a", "b,c")
    """
    return tuple(name.replace("\0", ",") for name in group.replace("\\,", "\0").split(","))


def _listed(keys: str) -> tuple[str, ...]:
    """The clients in a file, one a line without blanks around it and empty lines, or with commas between them."""
    path = Path(keys)
    if not path.is_file():
        return _names(keys)
    if path.stat().st_size > _LARGEST_LIST:
        raise click.UsageError(f"--keys {path} is larger than {_LARGEST_LIST // 2**20} MiB: no list of clients' names.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--keys {path} cannot be read as text: {type(error).__name__}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or names[0].startswith("{"):  # such as a key file, whose content must not be shown
        raise click.UsageError(f"--keys {path} holds no clients' names, one a line. The key file is given by --key.")
    return names


def _lines(result: TraceResult) -> list[str]:
    from dynamarks_tf.case.client_table import client_lines, has_keys, num_found

    verified = result.verification
    found = num_found(result.clients, verified.plan.alpha)
    by_key = has_keys(result.clients)
    lines = [
        f"FOUND: {found} of {len(result.clients)}" if found else f"not found: 0 of {len(result.clients)}",
        f"  suspect     {verified.suspect}, answers {verified.answers}",
        f"  owner       {verified.owner}, key {verified.key_id}",
        f"  {'master key' if by_key else 'whole log':<11} {'MARK FOUND' if verified.detected() else 'mark not found'}, "
        f"log10 p = {verified.log10_p:.2f} (threshold {verified.plan.alpha:g}) from {verified.num_queries} queries",
        "",
        *(f"  {line}" for line in client_lines(result.clients, verified.plan.alpha)),
        "",
        *(f"  {line}" for line in (_BY_KEY if by_key else _BY_LOG)),
    ]
    lines += [f"  warning     {warning}" for warning in verified.warnings]
    return [*lines, f"  plan        sha256 {verified.plan.digest}"]
