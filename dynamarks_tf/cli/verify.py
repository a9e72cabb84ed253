"""`dynamarks verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamarks_tf._support.files import file_sha256
from dynamarks_tf.cli.output import SectionedCommand, json_option, load_tensorflow, print_json
from dynamarks_tf.cli.own_model import import_modules, own_model_options
from dynamarks_tf.cli.report import ReportOptions, report_options
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey

if TYPE_CHECKING:
    from dynamarks_tf.case.result import VerificationResult

# Those of `evidence.answer_scale`, which would load NumPy for --help.
SCALES = ("probability", "percent", "byte", "log", "sigmoid", "logit")
EXIT_FOUND = 0
EXIT_NOT_FOUND = 1
SECTIONS = {
    "Owner": "owner key statement from_logits modules unsafe_load",
    "Queries": "queries log client log_model log_version logged max_queries seed",
    "Suspect": "signature output input datatype suspect_scale suspect_from_logits labels class_names batch_size "
    "timeout rate api_key_header",
    "Result": "alpha out bundle include_queries reveal_key as_json",
    "Report": "report plots true_labels confidential",
}


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.argument("suspect")
@click.option(
    "--owner", required=True, type=click.Path(path_type=Path), help="The owner's .keras file: the marked one."
)
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Key file of the owner.")
@click.option("--statement", type=click.Path(path_type=Path), help="Published commitment that the key must open.")
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
@click.option("--logged/--fresh", default=None, help="Whether --queries were really sent to the marked API.")
@click.option(
    "--max-queries",
    type=click.IntRange(min=1),
    help="Maximum number of queries: a balanced choice, or the first of a log.",
)
@click.option("--alpha", default=1e-6, show_default=True, help="Accepted chance of a false detection.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of queries.")
@click.option("--from-logits", is_flag=True, default=None, help="The clean owner model answers logits.")
@click.option(
    "--suspect-scale",
    type=click.Choice(SCALES),
    default="probability",
    show_default=True,
    help="What the suspect's numbers are.",
)
@click.option("--suspect-from-logits", is_flag=True, help="The suspect answers logits.")
@click.option("--labels", is_flag=True, help="The suspect answers labels only. Otherwise inferred from its answers.")
@click.option(
    "--class-names",
    type=click.Path(path_type=Path),
    help="For a suspect that answers names: those of the owner's classes in order, one a line.",
)
@click.option(
    "--align-classes",
    is_flag=True,
    help="Find the suspect's order of classes from the answers: it has another one, numbers from 1, or more classes.",
)
@click.option("--signature", help="Signature to call, if it has several.")
@click.option("--output", help="Output to read, if it has several.")
@click.option("--input", metavar="NAME", help="Its input, if a /v2/ server does not describe it. By default: input-0.")
@click.option("--datatype", metavar="TYPE", help="Type of that input, such as FP64. By default: FP32; BYTES for text.")
@click.option("--batch-size", default=256, show_default=True, type=click.IntRange(min=1), help="Inputs per request.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds a remote suspect may take per request.")
@click.option("--rate", type=float, help="Maximum number of queries a second.")
@click.option(
    "--api-key-header", help="Header for the key in DYNAMARKS_API_KEY. By default: Authorization: Bearer KEY."
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the evidence to this JSON file.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Write an evidence bundle for `check`. Confidential.")
@click.option("--include-queries", is_flag=True, help="Put the inputs into the bundle, not just their digest.")
@click.option("--reveal-key", is_flag=True, help="Put the key into the bundle. Anybody who has it can forge the mark.")
@own_model_options
@report_options
@json_option
def verify(
    suspect: str,
    owner: Path,
    key: Path,
    statement: Path | None,
    queries: Path | None,
    log: tuple[str, ...],
    client: tuple[str, ...],
    log_model: str | None,
    log_version: tuple[int, ...],
    logged: bool | None,
    max_queries: int | None,
    alpha: float,
    seed: int,
    from_logits: bool | None,
    suspect_scale: str,
    suspect_from_logits: bool,
    labels: bool,
    class_names: Path | None,
    align_classes: bool,
    signature: str | None,
    output: str | None,
    input: str | None,
    datatype: str | None,
    batch_size: int,
    timeout: float,
    rate: float | None,
    api_key_header: str | None,
    out: Path | None,
    bundle: Path | None,
    include_queries: bool,
    reveal_key: bool,
    modules: tuple[str, ...],
    unsafe_load: bool,
    as_json: bool,
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
    from dynamarks_tf.case.result import check_alpha

    reports.check(suspect_labels=labels)
    check_alpha(alpha)
    if (queries is None) == (not log):
        raise click.UsageError("Give the inputs to ask by either --queries or --log.")
    for option, value in (("--client", client), ("--log-model", log_model), ("--log-version", log_version)):
        if value not in (None, ()) and not log:
            raise click.UsageError(f"{option} chooses from request logs; give them by --log.")
    loaded_key = MarkKey.load(key)
    loaded_statement = None if statement is None else Statement.load(statement)
    if bundle is None and (include_queries or reveal_key):
        raise click.UsageError("--include-queries and --reveal-key say what goes into the bundle; name it by --bundle.")
    kept = reports.bundle_for(bundle)

    load_tensorflow()
    from dynamarks_tf.request_logs import open_log
    from dynamarks_tf.verification import verify as verification
    from dynamarks_tf.verification.options import BundleOptions, SuspectOptions
    from dynamarks_tf.verification.owner import resolve_owner

    import_modules(modules)
    if kept is None and loaded_statement is not None:
        loaded_statement.check_opened_by(loaded_key)
        loaded_statement.check_model(file_sha256(owner) if owner.is_file() else None)
    result = verification.verify(
        suspect,
        owner=resolve_owner(owner, loaded_key, from_logits=from_logits, statement=loaded_statement, allow_code=True)
        if unsafe_load
        else owner,
        key=loaded_key,
        queries=queries
        if queries is not None
        else open_log(log, client=client or None, model=log_model, version=log_version or None),
        logged=logged,
        max_queries=max_queries,
        seed=seed,
        alpha=alpha,
        from_logits=from_logits,
        suspect_options=SuspectOptions(
            from_logits=suspect_from_logits,
            scale=suspect_scale,
            labels=labels,
            class_names=None if class_names is None else _names(class_names),
            align_classes=align_classes,
            signature=signature,
            output=output,
            input=input,
            datatype=datatype,
            batch_size=batch_size,
            timeout_s=timeout,
            rate=rate,
            api_key_header=api_key_header,
        ),
        bundle=None if kept is None else BundleOptions(kept, loaded_statement, include_queries, reveal_key),
        verbose=True,
    )
    found = result.detected()
    if as_json:
        print_json(result.to_dict())
        for warning in result.warnings:
            click.echo(f"warning: {warning}", err=True)
    else:
        click.echo(_text(result))
    if bundle is not None:
        click.echo(
            f"{bundle} is confidential: after a detection, it gives the secret tables away. What may be published: "
            f"dynamarks check {bundle} --public",
            err=True,
        )
    if kept is not None:
        reports.write(kept, loaded_key, keeps_bundle=bundle is not None)
    if out is not None:
        result.save(out)
    return EXIT_FOUND if found else EXIT_NOT_FOUND


def _names(path: Path) -> list[str]:
    """The class names in a file, one a line, without a byte order mark, blanks around them and empty lines."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"Cannot read class names from {path}: {error}") from error
    return [line.strip() for line in lines if line.strip()]


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
