"""`dynamarks trace`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from dynamarks_tf._support import files
from dynamarks_tf.cli.asking_options import EXIT_FOUND, EXIT_NOT_FOUND, SECTIONS, AskingOptions, asking_options
from dynamarks_tf.cli.output import SectionedCommand, json_option, print_json
from dynamarks_tf.cli.report import ReportOptions, report_options

if TYPE_CHECKING:
    from dynamarks_tf.case.trace import TraceResult

QUERIES = {"Queries": "log group max_queries seed"}


@click.command(cls=SectionedCommand, sections={**SECTIONS, **QUERIES})
@click.argument("suspect")
@click.option(
    "--log",
    required=True,
    multiple=True,
    metavar="PATH",
    help="The whole request log: file, folder, URL (s3://, gs://, abfs://) or glob in quotes.",
)
@click.option("--group", multiple=True, metavar="A,B", help="Clients to be tested together too, two to four.")
@report_options
@asking_options
@json_option
def trace(
    suspect: str,
    log: tuple[str, ...],
    group: tuple[str, ...],
    as_json: bool,
    asking: AskingOptions,
    reports: ReportOptions,
) -> int:
    """Find from which client's answers SUSPECT learned.

    Tests each client of the request log with the secret signs that only its requests met. The log must be whole: all
    clients, from the first request on. SUSPECT is what `dynamarks verify` takes. --group takes names with commas
    between them, and may be repeated; a comma in a name is written \\,

    Exits with 0 if a client is found (p <= alpha, adjusted for the number of clients), 1 if none is, 2 on an error.

    \b
      dynamarks trace suspect.keras --owner marked.keras --key acme.key \\
          --log logs/ --report report.html
      dynamarks trace grpc://10.0.0.7:8500/clf --owner marked.keras \\
          --key acme.key --log logs/ --group customer-7,customer-9
    """
    groups = [_names(text) for text in group]
    prepared = asking.prepared(reports)
    from dynamarks_tf.verification import trace as tracing

    result = tracing.trace(suspect, log=log, groups=groups, **prepared.arguments)
    if as_json:
        print_json(result.to_dict())
        for warning in result.verification.warnings:
            click.echo(f"warning: {warning}", err=True)
    else:
        click.echo(_text(result))
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


def _text(result: TraceResult) -> str:
    from dynamarks_tf.case.client_table import client_lines, num_found

    verified = result.verification
    found = num_found(result.clients, verified.plan.alpha)
    lines = [
        f"FOUND: {found} of {len(result.clients)}" if found else f"not found: 0 of {len(result.clients)}",
        f"  suspect     {verified.suspect}, answers {verified.answers}",
        f"  owner       {verified.owner}, key {verified.key_id}",
        f"  whole log   {'MARK FOUND' if verified.detected() else 'mark not found'}, log10 p = {verified.log10_p:.2f} "
        f"(threshold {verified.plan.alpha:g}) from {verified.num_queries} queries",
        "",
        *(f"  {line}" for line in client_lines(result.clients, verified.plan.alpha)),
        "",
        "  exclusive   number of secret signs that only this client's requests met in the whole log",
        "  adjusted    log10 p after Holm's adjustment for the number of clients and groups; it decides",
    ]
    lines += [f"  warning     {warning}" for warning in verified.warnings]
    lines += [f"  plan        sha256 {verified.plan.digest}"]
    return "\n".join(lines)
