"""Reports as files: the page, its numbers as JSON beside it, its figures as PNG."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from cryptography import x509

from dynamarks_tf._support import files
from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.recheck import recheck
from dynamarks_tf.report import style
from dynamarks_tf.report.content import BundleReport, bundle_report
from dynamarks_tf.report.figures import bundle_figures
from dynamarks_tf.report.page import bundle_page
from dynamarks_tf.report.style import Figure

PUBLIC_FILE = 0o644


def write_report(
    path: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    key: MarkKey | None = None,
    true_labels: npt.ArrayLike | None = None,
    confidential: bool = False,
    plots: str | os.PathLike[str] | None = None,
    keeps_bundle: bool = True,
    timestamp_roots: Sequence[x509.Certificate] | None = None,
) -> BundleReport:
    """Recomputes an evidence bundle and writes a report of it for people.

    Needs no TensorFlow, but the extra `report`. The page is one HTML file that loads nothing and runs no script; the
    numbers are in a JSON file beside it, `report.report.json` for `report.html`. Both hold aggregates only, may be
    published, and are written with mode 0644. The files of a confidential report have mode 0600, and so have those of
    a trace, which names clients. Older files are replaced.

    Args:
        path: the HTML file to write.
        bundle: the file that `verify(bundle=...)` or `trace(bundle=...)` wrote.
        key: the owner's key; without it, the report lacks the agreement of the suspect with the key.
        true_labels: class indices of the queries that were asked, in their order, or of all inputs that they were
            chosen from, ints of shape `(n,)`: adds the accuracy of suspect and owner's model.
        confidential: whether to show the sign table. It reveals a part of the key.
        plots: a folder for the same figures as PNG files.
        keeps_bundle: whether the bundle stays, so that the report can name it.
        timestamp_roots: root certificates of time-stamping authorities that are trusted, as
            `keys.timestamp.load_roots` reads them. The statement must then have a timestamp that they bear out.

    Returns:
        The content of the report.

    Raises:
        ArgumentError: Jinja2 or matplotlib is missing, the labels do not fit, or the sign table cannot be shown.
        BundleError: the bundle does not confirm its own statements.
        CommitmentError: roots are given, and no timestamp of the statement that they bear out.

    Example:

    >>> write_report("report.html", "bundle.zip", key=MarkKey.load("acme.key"))
    """
    check_can_write(path, plots, confidential=confidential)
    report = bundle_report(
        recheck(bundle, key=key, timestamp_roots=timestamp_roots),
        bundle=Path(bundle).name if keeps_bundle else None,
        bundle_sha256=files.file_sha256(bundle) if keeps_bundle else None,
        true_labels=true_labels,
        confidential=confidential,
    )
    mode = PUBLIC_FILE if report.may_be_published else files.PRIVATE_FILE
    if plots is not None:
        save_figures(bundle_figures(report), plots, mode=mode)
    write_page(path, bundle_page(report), report.to_dict(), mode=mode)
    return report


def write_page(path: str | os.PathLike[str], page: str, content: Mapping[str, Any], *, mode: int = PUBLIC_FILE) -> None:
    """Writes a page and its numbers, each in one step.

    Args:
        path: the HTML file.
        page: its content.
        content: plain values for the JSON file beside it.
        mode: permission bits of both.
    """
    data = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    files.write_atomically(json_path(path), data.encode(), mode=mode)
    files.write_atomically(path, page.encode(), mode=mode)


def save_figures(
    figures: Mapping[str, Figure], folder: str | os.PathLike[str], *, mode: int = PUBLIC_FILE
) -> tuple[Path, ...]:
    """Writes figures as PNG files into a folder and returns their paths."""
    return tuple(figure.save_png(Path(folder), mode=mode) for figure in figures.values())


def json_path(path: str | os.PathLike[str]) -> Path:
    """The JSON file beside a report: `report.report.json` for `report.html`."""
    return Path(path).with_suffix(".report.json")


def check_can_write(
    path: str | os.PathLike[str], plots: str | os.PathLike[str] | None = None, *, confidential: bool = False
) -> None:
    """Checks before a long test that its report can be written.

    Args:
        path: the HTML file.
        plots: the folder for its figures.
        confidential: whether the sign table is shown.

    Raises:
        ArgumentError: Jinja2 or matplotlib is missing, `path` is not the name of an HTML file, or the figures of a
            public report would lie beside an older sign table.
    """
    style.check_installed()
    if Path(path).suffix.lower() not in (".html", ".htm") or Path(path).is_dir():
        raise ArgumentError(f"A report is an HTML file, such as report.html. Received: {os.fspath(path)}")
    if plots is not None and not confidential and (sign_table := Path(plots) / "sign-table.png").exists():
        raise ArgumentError(
            f"{sign_table} is a part of the key, left by a confidential report; these figures may be published. Remove "
            "it, or name another folder."
        )
