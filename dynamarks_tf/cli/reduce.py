"""`dynamarks reduce`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json, say
from dynamarks_tf.cli.own_model import import_modules, own_model_options
from dynamarks_tf.keys.passphrase_input import load_key


@click.command()
@click.option(
    "--log",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Request log, or a reduced log: file, folder, URL (s3://, gs://, abfs://) or glob in quotes.",
)
@click.option(
    "--owner", required=True, type=click.Path(path_type=Path), help="The owner's .keras file: the marked one."
)
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Key file of the owner.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write. Private, as the log is.")
@click.option("--input", "input_name", help="Name of the input, if the model's requests have several.")
@click.option("--from-logits", is_flag=True, default=None, help="The clean owner model answers logits.")
@click.option(
    "--engine",
    type=click.Choice(("local", "spark")),
    default="local",
    show_default=True,
    help="Reader of the files: this process, or a Spark cluster.",
)
@click.option("--master", help="Spark: the master's address.  [default: that of Spark's own settings]")
@click.option("--batch-size", default=1024, show_default=True, type=click.IntRange(min=1), help="Inputs per batch.")
@own_model_options
@json_option
def reduce(
    log: tuple[str, ...],
    owner: Path,
    key: Path,
    out: Path,
    input_name: str | None,
    from_logits: bool | None,
    engine: str,
    master: str | None,
    batch_size: int,
    modules: tuple[str, ...],
    unsafe_load: bool,
    as_json: bool,
) -> None:
    """Reduce a request log to what `verify` needs of it.

    Of a log, `verify` uses the first query of each hash entry only. The reduced log holds these, serves every suspect,
    and gives the same result. Take the whole log: all clients and versions. Reduced logs of parts, such as days, can be
    given again and are merged. When it is interrupted, the same command goes on where it stopped.

    \b
      dynamarks reduce --log logs/ --owner marked.keras --key acme.key \\
          --out log.reduced
      dynamarks verify suspect.keras --owner marked.keras --key acme.key \\
          --log log.reduced
    """
    if master is not None and engine != "spark":
        raise click.UsageError("--master is for --engine spark.")
    loaded_key = load_key(key)
    load_tensorflow()
    from dynamarks_tf.verification.owner import resolve_owner
    from dynamarks_tf.verification.reduce_log import Engine, in_this_process, reduce_log

    import_modules(modules)
    reads: Engine = in_this_process
    if engine == "spark":
        from dynamarks_tf.distributed.spark import SparkEngine

        reads = SparkEngine(master=master, modules=modules, allow_code=unsafe_load)
    found = reduce_log(
        log,
        owner=resolve_owner(owner, loaded_key, from_logits=from_logits, allow_code=True) if unsafe_load else owner,
        key=loaded_key,
        out=out,
        input=input_name,
        from_logits=from_logits,
        batch_size=batch_size,
        engine=reads,
        verbose=True,
    ).reduction
    facts = {
        "path": out,
        "files": len(found.files),
        "queries": found.num_queries,
        "kept": len(found.queries),
        "entries": len(found.meetings),
        "bytes": out.stat().st_size,
    }
    if as_json:
        print_json(facts)
    else:
        say(
            f"reduced {facts['files']} files with {facts['queries']} queries -> {out}: {facts['kept']} queries, the "
            f"first ones of {facts['entries']} hash entries, {out.stat().st_size / 2**20:.1f} MiB"
        )
