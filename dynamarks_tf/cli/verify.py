"""`dynamarks verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamarks_tf.cli.asking_options import EXIT_FOUND, EXIT_NOT_FOUND, SECTIONS, AskingOptions, asking_options
from dynamarks_tf.cli.output import SectionedCommand, json_option, print_json
from dynamarks_tf.cli.report import ReportOptions, report_options

if TYPE_CHECKING:
    from dynamarks_tf.case.result import VerificationResult

QUERIES = {
    "Owner": SECTIONS["Owner"].replace("key ", "key key_of "),
    "Queries": "queries log client log_model log_version logged max_queries seed",
}


@click.command(cls=SectionedCommand, sections={**SECTIONS, **QUERIES})
@click.argument("suspect")
@click.option("--queries", type=click.Path(path_type=Path), help=".npy or .npz file of inputs.")
@click.option(
    "--log",
    multiple=True,
    metavar="PATH",
    help="Request log to take the inputs from: file, folder, URL (s3://, gs://, abfs://) or glob in quotes.",
)
@click.option("--client", multiple=True, help="Take only what this client asked, from the logs.")
@click.option("--log-model", help="Take only what this model was asked, from the logs.")
@click.option(
    "--log-version",
    multiple=True,
    type=click.IntRange(min=0),
    help="Take only what this version answered, from the logs: a mark's key belongs to one version.",
)
@click.option(
    "--key-of",
    metavar="CLIENT",
    help="Test with the key that `mark --client` derived for this client. (--client chooses requests of a log.)",
)
@click.option("--logged/--fresh", default=None, help="Whether --queries were really sent to the marked API.")
@report_options
@asking_options
@json_option
def verify(
    suspect: str,
    queries: Path | None,
    log: tuple[str, ...],
    client: tuple[str, ...],
    log_model: str | None,
    log_version: tuple[int, ...],
    key_of: str | None,
    logged: bool | None,
    as_json: bool,
    asking: AskingOptions,
    reports: ReportOptions,
) -> int:
    """Test whether SUSPECT was trained on marked answers.

    SUSPECT is a model (.keras, .tflite, .onnx, SavedModel folder), an address, or a file of the suspect's answers to
    the queries (.npz, .csv, .parquet, .jsonl). Addresses, with grpcs and https for TLS:

    \b
      grpc://HOST:PORT/NAME            TensorFlow Serving
      http://HOST:PORT/v1/models/NAME  TensorFlow Serving
      http://HOST:PORT/v2/models/NAME  Open Inference: KServe, Triton, MLServer

    Exits with 0 if the mark is found (p <= alpha), 1 if not, 2 on an error. With --bundle, an interrupted test goes on
    where it stopped when the same command is given again.

    \b
      dynamarks verify suspect.keras --owner marked.keras --key acme.key \\
          --queries x.npy --max-queries 1000 --report report.html
      dynamarks verify grpc://10.0.0.7:8500/clf --owner marked.keras \\
          --key acme.key --log logs/ --client customer-7 --bundle bundle.zip
    """
    if (queries is None) == (not log):
        raise click.UsageError("Give the inputs to ask by either --queries or --log.")
    for option, value in (("--client", client), ("--log-model", log_model), ("--log-version", log_version)):
        if value not in (None, ()) and not log:
            raise click.UsageError(f"{option} chooses from request logs; give them by --log.")
    prepared = asking.prepared(reports, key_of=key_of)
    from dynamarks_tf.request_logs import open_log
    from dynamarks_tf.verification import verify as verification

    result = verification.verify(
        suspect,
        queries=queries
        if queries is not None
        else open_log(log, client=client or None, model=log_model, version=log_version or None),
        logged=logged,
        **prepared.arguments,
    )
    found = result.detected()
    if as_json:
        print_json(result.to_dict())
        for warning in result.warnings:
            click.echo(f"warning: {warning}", err=True)
    else:
        click.echo(_text(result))
    prepared.finish()
    if asking.out is not None:
        result.save(asking.out)
    return EXIT_FOUND if found else EXIT_NOT_FOUND


def _text(result: VerificationResult) -> str:
    lines = [
        "MARK FOUND" if result.detected() else "mark not found",
        f"  suspect     {result.suspect}, answers {result.answers}",
        f"  owner       {result.owner}, key {result.key_id}",
        f"  log10 p     {result.log10_p:.2f} (threshold {result.plan.alpha:g})",
        f"  queries     {result.num_queries} ({'logged' if result.plan.logged else 'fresh'}){_enough(result)}",
        f"  fidelity    {result.fidelity:.3f} of top-1 answers as the clean owner model's",
    ]
    lines += [
        f"  {channel.channel:<12}log10 p = {channel.log10_p:.2f}, {channel.agreement:+.2f} of the largest T, "
        f"{channel.num_queries} queries, {channel.num_cells} secret signs"
        for channel in result.channels
    ]
    lines += [f"  {channel:<12}not tested: {reason}" for channel, reason in result.untested.items()]
    if result.class_order is not None:
        lines += [f"  classes     {_alignment(result.class_order)}"]
    lines += [f"  warning     {warning}" for warning in result.warnings]
    lines += [f"  plan        sha256 {result.plan.digest}"]
    return "\n".join(lines)


def _alignment(order: tuple[int, ...]) -> str:
    moved, missing = sum(theirs not in (-1, ours) for ours, theirs in enumerate(order)), order.count(-1)
    return f"in an order found from the answers: {moved} of {len(order)} moved, {missing} missing"


def _enough(result: VerificationResult) -> str:
    needed = result.queries_needed()
    return "" if needed is None or needed == result.num_queries else f"; the first {needed} were enough"
