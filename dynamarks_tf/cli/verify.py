"""`dynamarks verify`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamarks_tf.cli.asking_options import EXIT_FOUND, EXIT_NOT_FOUND, SECTIONS, AskingOptions, asking_options
from dynamarks_tf.cli.output import SectionedCommand, json_option, print_json, say
from dynamarks_tf.cli.own_model import load_own_model
from dynamarks_tf.cli.report import ReportOptions, report_options
from dynamarks_tf.keys.commitment import Statement

if TYPE_CHECKING:
    from dynamarks_tf.case.result import VerificationResult

QUERIES = {
    "Owner": f"{SECTIONS['Owner'].replace('key ', 'key key_of ')} reference",
    "Queries": "queries queries_from pool beacon beacon_source log client log_model log_version logged max_queries "
    "seed sequential extend",
}

NEEDS = """\
verify needs three things:

  suspect    SUSPECT: a model file, an address, or a file of its answers
  owner      --owner: the marked .keras file; --key: the key file
  questions  --queries: inputs of your domain; --log: the request log; or both

  dynamarks verify suspect.keras --owner marked.keras --key acme.key \\
      --queries x.npy
"""


@click.command(cls=SectionedCommand, sections={**SECTIONS, **QUERIES}, needs=NEEDS)
@click.argument("suspect")
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    help=".npy or .npz file of inputs. Beside --log: fresh ones, for the class channel.",
)
@click.option(
    "--queries-from",
    type=click.Choice(("owner", "other-side")),
    help="The side that named --queries, by the owner's statement.  [default: owner]",
)
@click.option(
    "--pool", type=click.Path(path_type=Path), help="Draw the inputs from this file, which --statement names."
)
@click.option("--beacon", metavar="VALUE", help="Public value that draws them, known only after the statement.")
@click.option("--beacon-source", metavar="TEXT", help="Where that value comes from, for the report.")
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
@click.option(
    "--reference",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A model of yours that was never marked: what the suspect shares with it counts for nothing. Repeatable.",
)
@click.option("--sequential", is_flag=True, help="Stop as soon as p <= alpha; the p-value stays exact.")
@click.option(
    "--extend",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Go on with the sequential test in this bundle: its answers are taken over.",
)
@report_options
@asking_options
@json_option
def verify(
    suspect: str,
    queries: Path | None,
    queries_from: str | None,
    pool: Path | None,
    beacon: str | None,
    beacon_source: str | None,
    log: tuple[str, ...],
    client: tuple[str, ...],
    log_model: str | None,
    log_version: tuple[int, ...],
    key_of: str | None,
    logged: bool | None,
    reference: tuple[Path, ...],
    sequential: bool,
    extend: Path | None,
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
      dynamarks verify suspect.keras --owner marked.keras --key acme.key \\
          --statement statement.json --pool pool.npy --beacon 9f86d081884c
    """
    if queries is None and pool is None and not log:
        raise click.UsageError("Give the inputs to ask by --queries, --pool, --log, or --log and --queries.")
    if pool is not None and (queries is not None or log):
        raise click.UsageError("A draw from --pool takes no other inputs; leave out --queries and --log.")
    if log and logged is not None:
        raise click.UsageError("--logged and --fresh describe --queries; beside --log, these are fresh.")
    if queries_from is not None and (queries is None or log):
        raise click.UsageError("--queries-from is for the inputs of --queries, without a log.")
    if pool is None and (beacon, beacon_source) != (None, None):
        raise click.UsageError("--beacon and --beacon-source are about a draw from a pool; give it by --pool.")
    if pool is not None and (beacon is None or asking.statement is None):
        raise click.UsageError("A draw from --pool needs --beacon VALUE and the --statement that names the pool.")
    for option, value in (("--client", client), ("--log-model", log_model), ("--log-version", log_version)):
        if value not in (None, ()) and not log:
            raise click.UsageError(f"{option} chooses from request logs; give them by --log.")
    if extend is not None and (not sequential or asking.bundle is None):
        raise click.UsageError("--extend goes on with a sequential test: give --sequential, and --bundle to write.")
    prepared = asking.prepared(suspect, reports, key_of=key_of)
    if extend is not None:
        prepared.arguments["bundle"] = dataclasses.replace(prepared.arguments["bundle"], extends=extend)
    from dynamarks_tf.request_logs import open_log
    from dynamarks_tf.verification import verify as verification
    from dynamarks_tf.verification.drawing import Pool

    given: Any = queries
    if pool is not None and beacon is not None and asking.statement is not None:
        given = Pool(pool, Statement.load(asking.statement), beacon, beacon_source)
    elif log:
        given = open_log(log, client=client or None, model=log_model, version=log_version or None)
    result = verification.verify(
        suspect,
        queries=given,
        fresh=queries if log else None,
        queries_from=queries_from or "owner",
        logged=logged,
        reference=[load_own_model(path, unsafe_load=True) for path in reference] if asking.unsafe_load else reference,
        sequential=sequential,
        **prepared.arguments,
    )
    found = result.detected()
    if as_json:
        print_json(result.to_dict())
        for warning in result.warnings:
            say(f"warning: {warning}", err=True)
    else:
        say(*_lines(result))
    prepared.finish()
    if asking.out is not None:
        result.save(asking.out)
    return EXIT_FOUND if found else EXIT_NOT_FOUND


def _lines(result: VerificationResult) -> list[str]:
    from dynamarks_tf.case.query_provenance import in_words

    lines = [
        "MARK FOUND" if result.detected() else "mark not found",
        f"  suspect     {result.suspect}, answers {result.answers}",
        f"  owner       {result.owner}, key {result.key_id}",
        f"  log10 p     {result.log10_p:.2f} (threshold {result.plan.alpha:g})",
        f"  queries     {_kinds(result)}{_enough(result)}",
        f"              {in_words(result.plan.provenance)}",
        f"  fidelity    {result.fidelity:.3f} of top-1 answers as the clean owner model's",
    ]
    if result.log10_e is not None:
        lines.insert(4, f"  log10 e     {result.log10_e:.2f} at its largest; p is 1/e")
    if count := len(result.plan.references):
        lines.insert(3, f"  references  {count} of the owner's models that never were marked")
    lines += [
        f"  {channel.channel:<12}log10 p = {channel.log10_p:.2f}, {channel.agreement:+.2f} of the largest T, "
        f"{channel.num_queries} queries, {channel.num_cells} secret signs"
        for channel in result.channels
    ]
    lines += [f"  {channel:<12}not tested: {reason}" for channel, reason in result.untested.items()]
    if result.class_order is not None:
        lines += [f"  classes     {_alignment(result.class_order)}"]
    lines += [f"  warning     {warning}" for warning in result.warnings]
    return [*lines, f"  plan        sha256 {result.plan.digest}"]


def _alignment(order: tuple[int, ...]) -> str:
    moved, missing = sum(theirs not in (-1, ours) for ours, theirs in enumerate(order)), order.count(-1)
    return f"in an order found from the answers: {moved} of {len(order)} moved, {missing} missing"


def _kinds(result: VerificationResult) -> str:
    plan = result.plan
    fresh = min(plan.num_fresh, result.num_queries)
    kinds = [f"{fresh} fresh"] * (fresh > 0) + [f"{result.num_queries - fresh} logged"] * (result.num_queries > fresh)
    stopped = f" of {plan.num_queries} planned; enough" if result.num_queries < plan.num_queries else ""
    return " and ".join(kinds) + stopped


def _enough(result: VerificationResult) -> str:
    needed = result.queries_needed()
    return "" if needed is None or needed == result.num_queries else f"; the first {needed} were enough"
