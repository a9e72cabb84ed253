"""The options of commands that ask a suspect: `verify` and `trace`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamarks_tf._support.files import file_sha256
from dynamarks_tf.cli.output import load_tensorflow, say
from dynamarks_tf.cli.own_model import import_modules, own_model_options
from dynamarks_tf.cli.report import ReportOptions
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.client_keys import client_keys
from dynamarks_tf.keys.commitment import Statement
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.keys.passphrase_input import load_key
from dynamarks_tf.keys.timestamp import load_roots

if TYPE_CHECKING:
    from cryptography import x509

    from dynamarks_tf.verification.options import SuspectOptions

# Those of `evidence.answer_scale`, which would load NumPy for --help.
SCALES = ("probability", "percent", "byte", "log", "sigmoid", "logit")
EXIT_FOUND = 0
EXIT_NOT_FOUND = 1
SECTIONS = {
    "Owner": "owner key statement timestamp_roots from_logits modules unsafe_load",
    "Queries": "max_queries seed",
    "Suspect": "signature output input datatype suspect_scale suspect_from_logits labels class_names "
    "align_classes batch_size timeout rate api_key_header "
    "run_untrusted_code",
    "Result": "alpha out bundle include_queries reveal_key as_json",
    "Report": "report plots true_labels confidential",
}
_PATH: Any = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--owner", required=True, type=_PATH, help="The owner's .keras file: the marked one."),
    click.option("--key", required=True, type=_PATH, help="Key file of the owner."),
    click.option("--statement", type=_PATH, help="Published commitment that the key must open."),
    click.option(
        "--timestamp-roots",
        type=_PATH,
        metavar="PEM",
        help="Root certificates that the timestamp of --statement must lead to.",
    ),
    click.option("--from-logits", is_flag=True, default=None, help="The clean owner model answers logits."),
    click.option(
        "--max-queries",
        type=click.IntRange(min=1),
        help="Maximum number of queries: a balanced choice; of logged ones, half of them ties.",
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of the choice of queries."),
    click.option("--alpha", default=1e-6, show_default=True, help="Accepted chance of a false detection."),
    click.option(
        "--suspect-scale",
        type=click.Choice(SCALES),
        default="probability",
        show_default=True,
        help="Scale of the suspect's numbers.",
    ),
    click.option("--suspect-from-logits", is_flag=True, help="The suspect answers logits."),
    click.option(
        "--labels", is_flag=True, help="The suspect answers labels only. Otherwise inferred from its answers."
    ),
    click.option(
        "--class-names",
        type=_PATH,
        help="For a suspect that answers names: those of the owner's classes in order, one a line.",
    ),
    click.option(
        "--align-classes",
        is_flag=True,
        help="Find the suspect's order of classes from the answers: it has another one, numbers from 1, or more "
        "classes.",
    ),
    click.option("--signature", help="Signature to call, if it has several."),
    click.option("--output", help="Output to read, if it has several."),
    click.option(
        "--input", metavar="NAME", help="Its input, if a /v2/ server does not describe it. By default: input-0."
    ),
    click.option(
        "--datatype", metavar="TYPE", help="Type of that input, such as FP64. By default: FP32; BYTES for text."
    ),
    click.option(
        "--batch-size", default=256, show_default=True, type=click.IntRange(min=1), help="Inputs per request."
    ),
    click.option(
        "--timeout",
        default=30.0,
        show_default=True,
        help="Seconds a remote suspect may take per request; a model file, ten times as long.",
    ),
    click.option("--rate", type=float, help="Maximum number of queries a second."),
    click.option(
        "--api-key-header", help="Header for the key in DYNAMARKS_API_KEY. By default: Authorization: Bearer KEY."
    ),
    click.option(
        "--run-untrusted-code",
        is_flag=True,
        help="Run what is refused in a suspect's file: Lambda layers, operators that read files. Confined anyway.",
    ),
    click.option("--out", type=_PATH, help="Also write the evidence to this JSON file."),
    click.option("--bundle", type=_PATH, help="Write an evidence bundle for `check`. Confidential."),
    click.option("--include-queries", is_flag=True, help="Put the inputs into the bundle, not just their digest."),
    click.option(
        "--reveal-key", is_flag=True, help="Put the key into the bundle. Anybody who has it can forge the mark."
    ),
    own_model_options,
)


@dataclasses.dataclass(frozen=True)
class AskingOptions:
    """What the user said about owner, suspect and result; each attribute is the option of its name."""

    owner: Path
    key: Path
    statement: Path | None
    timestamp_roots: Path | None
    from_logits: bool | None
    max_queries: int | None
    seed: int
    alpha: float
    suspect_scale: str
    suspect_from_logits: bool
    labels: bool
    class_names: Path | None
    align_classes: bool
    signature: str | None
    output: str | None
    input: str | None
    datatype: str | None
    batch_size: int
    timeout: float
    rate: float | None
    api_key_header: str | None
    run_untrusted_code: bool
    out: Path | None
    bundle: Path | None
    include_queries: bool
    reveal_key: bool
    modules: tuple[str, ...]
    unsafe_load: bool

    def prepared(
        self, suspect: str, reports: ReportOptions, *, key_of: str | None = None, clients: Sequence[str] = ()
    ) -> Prepared:
        """Checks what can be checked before anything is asked, and loads key, statement and TensorFlow.

        Args:
            suspect: what the user named; a model file's process starts while this one loads TensorFlow.
            reports: what the user said about the report.
            key_of: the client whose key is used in place of the master key, if any.
            clients: those whose keys may have marked the owner's model.
        """
        from dynamarks_tf.case.result import check_alpha

        reports.check(suspect_labels=self.labels)
        check_alpha(self.alpha)
        key = load_key(self.key)
        key = key if key_of is None else key.for_client(key_of)
        keys = client_keys(key, clients).values() if clients else ()
        statement = None if self.statement is None else Statement.load(self.statement)
        roots = None if self.timestamp_roots is None else load_roots(self.timestamp_roots)
        if roots is not None and statement is None:
            raise click.UsageError("--timestamp-roots verify the timestamp of a statement; name it by --statement.")
        date = None if statement is None else statement.proven_date(roots)
        if date is not None:
            say(date.in_words(), err=True)
        if self.bundle is None and (self.include_queries or self.reveal_key):
            raise click.UsageError("--include-queries and --reveal-key add to the bundle; name its file by --bundle.")
        kept = reports.bundle_for(self.bundle)

        from dynamarks_tf.suspects.isolated import prepare

        prepare(suspect)
        load_tensorflow()
        from dynamarks_tf.verification.options import BundleOptions
        from dynamarks_tf.verification.owner import resolve_owner

        import_modules(self.modules)
        if kept is None and statement is not None:
            statement.check_opened_by(key)
            statement.check_model(file_sha256(self.owner) if self.owner.is_file() else None)
        owner: Any = self.owner
        if self.unsafe_load:
            owner = resolve_owner(
                owner, key, from_logits=self.from_logits, statement=statement, allow_code=True, client_keys=keys
            )
        arguments = {
            "owner": owner,
            "key": key,
            "max_queries": self.max_queries,
            "seed": self.seed,
            "alpha": self.alpha,
            "from_logits": self.from_logits,
            "suspect_options": self._suspect_options(),
            "bundle": None if kept is None else BundleOptions(kept, statement, self.include_queries, self.reveal_key),
            "verbose": True,
        }
        return Prepared(arguments, self.bundle, kept, key, reports, roots)

    def _suspect_options(self) -> SuspectOptions:
        from dynamarks_tf.verification.options import SuspectOptions

        return SuspectOptions(
            from_logits=self.suspect_from_logits,
            scale=self.suspect_scale,
            labels=self.labels,
            class_names=None if self.class_names is None else _names(self.class_names),
            align_classes=self.align_classes,
            signature=self.signature,
            output=self.output,
            input=self.input,
            datatype=self.datatype,
            batch_size=self.batch_size,
            timeout_s=self.timeout,
            rate=self.rate,
            api_key_header=self.api_key_header,
            run_untrusted_code=self.run_untrusted_code,
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A test that is ready to run.

    Attributes:
        arguments: of `verify` and `trace`.
        bundle: the bundle that the user named.
        kept: where the bundle is written.
        key: the owner's key.
        reports: what the user said about the report.
        timestamp_roots: certificates that the timestamp of the statement must lead to, if any.
    """

    arguments: dict[str, Any]
    bundle: Path | None
    kept: Path | None
    key: MarkKey
    reports: ReportOptions
    timestamp_roots: tuple[x509.Certificate, ...] | None

    def finish(self) -> None:
        """Says that the bundle is confidential, and writes the report."""
        if self.bundle is not None:
            say(
                f"{self.bundle} is confidential: after a detection, it gives the secret tables away. What may be "
                f"published: dynamarks check {self.bundle} --public",
                err=True,
            )
        if self.kept is not None:
            self.reports.write(
                self.kept, self.key, keeps_bundle=self.bundle is not None, timestamp_roots=self.timestamp_roots
            )


def asking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of owner, suspect and result, which it gets as one argument, `asking`."""
    names = [field.name for field in dataclasses.fields(AskingOptions)]

    @functools.wraps(command)
    def collected(*arguments: Any, **given: Any) -> Any:
        asking = AskingOptions(**{name: given.pop(name) for name in names})
        return command(*arguments, asking=asking, **given)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected


def _names(path: Path) -> list[str]:
    """The class names in a file, one a line, without a byte order mark, blanks around them and empty lines."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"Cannot read class names from {path}: {error}") from error
    return [line.strip() for line in lines if line.strip()]
