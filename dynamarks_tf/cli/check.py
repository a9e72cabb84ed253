"""`dynamarks check`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamarks_tf.cli.output import json_option, print_json, say
from dynamarks_tf.cli.report import ReportOptions, report_options
from dynamarks_tf.keys.passphrase_input import load_key
from dynamarks_tf.keys.timestamp import load_roots


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="Key file of the owner, to check the signs too.")
@click.option(
    "--pool", type=click.Path(path_type=Path), help=".npy or .npz file of the pool that the queries were drawn from."
)
@click.option(
    "--timestamp-roots",
    type=click.Path(path_type=Path),
    metavar="PEM",
    help="Root certificates that the timestamp of the statement must lead to.",
)
@click.option("--key-of", metavar="CLIENT", help="Check with the key of this client, derived from --key.")
@click.option("--public", is_flag=True, help="Print what may be published: aggregates only, as JSON; no client's name.")
@report_options
@json_option
def check(
    bundle: Path,
    key: Path | None,
    key_of: str | None,
    pool: Path | None,
    timestamp_roots: Path | None,
    public: bool,
    reports: ReportOptions,
    as_json: bool,
) -> None:
    """Recompute tables and p-values of an evidence BUNDLE.

    Needs neither TensorFlow nor a model. Exits with 0 if all that the bundle states can be confirmed, otherwise with 2.
    This does not depend on whether the mark was found.

    \b
      dynamarks check bundle.zip
      dynamarks check bundle.zip --key acme.key --report report.html
      dynamarks check bundle.zip --pool pool.npy
      dynamarks check bundle.zip --timestamp-roots roots.pem
      dynamarks check bundle.zip --public > publish.json
    """
    from dynamarks_tf import recheck
    from dynamarks_tf.suspects.queries import as_queries

    reports.check()
    if key_of is not None and key is None:
        raise click.UsageError("--key-of derives a client's key from the master key; name its file by --key.")
    loaded_key = None if key is None else load_key(key)
    if loaded_key is not None and key_of is not None:
        loaded_key = loaded_key.for_client(key_of)
    roots = None if timestamp_roots is None else load_roots(timestamp_roots)
    given = None if pool is None else as_queries(pool)
    result = recheck.recheck(bundle, key=loaded_key, pool=given, timestamp_roots=roots)
    if public:
        print_json(recheck.public_summary(result))
    elif as_json:
        print_json(recheck.summary(result))
    else:
        say(*recheck.report(result).split("\n"))
    reports.write(bundle, loaded_key, timestamp_roots=roots)
