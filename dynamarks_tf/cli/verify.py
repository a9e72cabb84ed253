"""`dynamarks verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamarks_tf import _files
from dynamarks_tf.cli.quiet import load_tensorflow
from dynamarks_tf.commitment import Statement
from dynamarks_tf.errors import CommitmentError
from dynamarks_tf.key import MarkKey
from dynamarks_tf.verdict import check_alpha

if TYPE_CHECKING:
    from dynamarks_tf.request_logs import QueryLog
    from dynamarks_tf.verdict import Evidence

EXIT_FOUND = 0
EXIT_NOT_FOUND = 1


@click.command()
@click.argument("suspect")
@click.option("--owner", required=True, type=click.Path(path_type=Path), help="The owner's .keras file.")
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Key file of the owner.")
@click.option("--statement", type=click.Path(path_type=Path), help="Published commitment that the key must open.")
@click.option("--queries", type=click.Path(path_type=Path), help=".npy or .npz file of inputs.")
@click.option("--log", multiple=True, type=click.Path(path_type=Path), help="Request log to take the inputs from.")
@click.option("--client", multiple=True, help="Take only what this client asked, from the logs.")
@click.option("--max-queries", type=click.IntRange(min=1), help="Ask only so many, balanced over predicted classes.")
@click.option("--alpha", default=1e-6, show_default=True, help="Accepted chance of accusing an innocent.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of queries.")
@click.option("--from-logits", is_flag=True, default=None, help="The clean owner model answers logits.")
@click.option("--suspect-from-logits", is_flag=True, help="The suspect answers logits.")
@click.option("--batch-size", default=256, show_default=True, type=click.IntRange(min=1), help="Inputs per request.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds a remote suspect may take per request.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the evidence to this JSON file.")
@click.option("--json", "as_json", is_flag=True, help="Print the evidence as JSON.")
def verify(
    suspect: str,
    owner: Path,
    key: Path,
    statement: Path | None,
    queries: Path | None,
    log: tuple[Path, ...],
    client: tuple[str, ...],
    max_queries: int | None,
    alpha: float,
    seed: int,
    from_logits: bool | None,
    suspect_from_logits: bool,
    batch_size: int,
    timeout: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """Test whether SUSPECT was trained on marked answers.

    SUSPECT is a .keras file, a SavedModel folder, grpc://HOST:PORT/NAME or http://HOST:PORT/v1/models/NAME.
    Exits with 0 if the mark is found (p <= alpha), 1 if not, 2 on an error.

    \b
      dynamarks verify suspect.keras --owner marked.keras --key acme.key --queries x.npy --max-queries 1000
      dynamarks verify suspect.keras --owner marked.keras --key acme.key --log logs/ --client customer-7
    """
    check_alpha(alpha)
    if (queries is None) == (not log):
        raise click.UsageError("Give the inputs to ask by either --queries or --log.")
    if client and not log:
        raise click.UsageError("--client chooses from request logs; give them by --log.")
    loaded_key = MarkKey.load(key)
    if statement is not None:
        _check_statement(statement, loaded_key, owner)

    load_tensorflow()
    from dynamarks_tf import marking, verification

    owner_model = marking.load_model(owner)
    evidence = verification.verify(
        suspect,
        owner=owner_model,
        key=loaded_key,
        queries=queries if queries is not None else _logged(log, client, owner_model),
        max_queries=max_queries,
        seed=seed,
        from_logits=from_logits,
        suspect_from_logits=suspect_from_logits,
        batch_size=batch_size,
        timeout_s=timeout,
        verbose=True,
    )
    found = evidence.detected(alpha)
    click.echo(json.dumps(evidence.to_dict(), indent=2, ensure_ascii=False) if as_json else _text(evidence, alpha))
    if out is not None:
        evidence.save(out)
    return EXIT_FOUND if found else EXIT_NOT_FOUND


def _check_statement(path: Path, key: MarkKey, owner: Path) -> None:
    """Checks that the key opens the published statement, and that it is about the owner's model file."""
    statement = Statement.load(path)
    statement.check_opened_by(key)
    if statement.model_sha256 not in (None, _files.file_sha256(owner)):
        raise CommitmentError(
            f"The statement is about a model file with SHA-256 {statement.model_sha256}; {owner} is another. Use the "
            "file that was committed to."
        )


def _logged(log: tuple[Path, ...], client: tuple[str, ...], owner: Any) -> QueryLog:
    """The inputs in request logs that the owner model takes."""
    from dynamarks_tf.request_logs import open_log

    shape = owner.inputs[0].shape[1:] if getattr(owner, "inputs", None) else None
    return open_log(log, client=client or None, input_shape=shape)


def _text(evidence: Evidence, alpha: float) -> str:
    found = evidence.detected(alpha)
    lines = [
        "MARK FOUND" if found else "mark not found",
        f"  suspect     {evidence.suspect}",
        f"  owner       {evidence.owner}, key {evidence.key_id}",
        f"  log10 p     {evidence.log10_p:.2f} (threshold {alpha:g})",
        f"  queries     {evidence.num_queries}",
        f"  fidelity    {evidence.fidelity:.3f} of top-1 answers as the clean owner model's",
    ]
    lines += [
        f"  {channel.channel + ' code':<11} T = {channel.statistic:.3f}, {channel.agreement:+.2f} of its largest "
        f"value, {channel.num_cells} cells"
        for channel in evidence.channels
    ]
    lines += [f"  plan        sha256 {evidence.plan.digest}"]
    return "\n".join(lines)
