"""The options of commands that can write a report: `verify`, `trace` and `check`."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamarks_tf._support import files
from dynamarks_tf.cli.output import say
from dynamarks_tf.errors import ArgumentError, SuspectError

if TYPE_CHECKING:
    import numpy.typing as npt
    from cryptography import x509

    from dynamarks_tf.keys.key import MarkKey

_PATH: Any = click.Path(path_type=Path)


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What the user said about the report.

    Attributes:
        report: the HTML file to write, if any.
        plots: folder for its figures.
        true_labels: file of true class indices.
        confidential: whether to show the sign table.
    """

    report: Path | None
    plots: Path | None
    true_labels: Path | None
    confidential: bool

    def check(self, *, suspect_labels: bool = False) -> None:
        """Refuses what cannot be done, before any work starts.

        Args:
            suspect_labels: whether the suspect answers labels only.
        """
        if self.confidential and suspect_labels:
            raise click.UsageError(
                "--confidential shows the class channel, which --labels leaves untested. Give one of the two."
            )
        if self.report is not None:
            from dynamarks_tf import report as reports

            reports.check_can_write(self.report, self.plots, confidential=self.confidential)
            self._labels()
        elif self.plots or self.true_labels or self.confidential:
            raise click.UsageError("--plots, --true-labels and --confidential are about a report; name it by --report.")

    def bundle_for(self, bundle: Path | None) -> Path | None:
        """Where to write the bundle that a report is made from: a private folder that is removed, if it has no name."""
        if bundle is not None or self.report is None:
            return bundle
        folder = click.get_current_context().with_resource(tempfile.TemporaryDirectory(prefix="dynamarks-"))
        return Path(folder) / "bundle.zip"

    def write(
        self,
        bundle: Path,
        key: MarkKey | None,
        *,
        keeps_bundle: bool = True,
        timestamp_roots: Sequence[x509.Certificate] | None = None,
    ) -> None:
        """Writes the report, if one is wanted."""
        if self.report is None:
            return
        from dynamarks_tf import report as reports

        try:
            found = reports.write_report(
                self.report,
                bundle,
                key=key,
                true_labels=self._labels(),
                confidential=self.confidential,
                plots=self.plots,
                keeps_bundle=keeps_bundle,
                timestamp_roots=timestamp_roots,
            )
        except BaseException:
            if not keeps_bundle:
                say(
                    f"The evidence is kept in {self._keep(bundle)}, which is confidential; `dynamarks check` makes the "
                    "report from it.",
                    err=True,
                )
            raise
        use = "It may be published." if found.may_be_published else "It names clients and is not for publication."
        if found.is_confidential:
            use = "Confidential: part of the key is in it."
        say(f"Report: {self.report}. {use}", err=True)

    def _keep(self, bundle: Path) -> Path:
        """Moves a bundle from its temporary folder to the report, or where there is room and permission."""
        assert self.report is not None
        kept = self.report.with_suffix(".zip")
        try:
            with files.new_file(kept, overwrite=False) as temporary:
                shutil.copyfile(bundle, temporary)
        except OSError:
            kept = Path(tempfile.mkdtemp(prefix="dynamarks-kept-")) / kept.name
            bundle.rename(kept)
        return kept

    def _labels(self) -> npt.NDArray[Any] | None:
        if self.true_labels is None:
            return None
        import numpy as np

        from dynamarks_tf._support import archives

        try:
            labels = np.array(archives.mapped(self.true_labels))
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"Cannot read true labels from {self.true_labels}: {error}. Give a .npy file of class indices."
            ) from error
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels.ravel()
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ArgumentError(
                f"The true labels in {self.true_labels} must be class indices, whole numbers of shape (n,) or (n, 1). "
                f"Received: {labels.dtype} of shape {labels.shape}"
            )
        return labels


_OPTIONS = (
    click.option("--report", type=_PATH, help="Also write a report for people to this HTML file."),
    click.option("--plots", type=_PATH, help="Folder for the report's figures as PNG files."),
    click.option("--true-labels", type=_PATH, help=".npy file of true classes, for accuracies in the report."),
    click.option("--confidential", is_flag=True, help="Show the sign table in the report: it is part of the key."),
)


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of a report, which it gets as one argument, `reports`."""

    @functools.wraps(command)
    def collected(*arguments: Any, report: Any, plots: Any, true_labels: Any, confidential: bool, **others: Any) -> Any:
        try:
            return command(*arguments, reports=ReportOptions(report, plots, true_labels, confidential), **others)
        except SuspectError as error:
            if report is not None and others["bundle"] is None and isinstance(error.__cause__, SuspectError):
                raise error.__cause__ from None  # without where the answers are kept: that was a temporary folder
            raise

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected
