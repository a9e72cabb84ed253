"""The report as a page: one HTML file without scripts that loads nothing."""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

from dynamarks_tf.case.client_table import is_found, shown_clients
from dynamarks_tf.foreign_text import LONGEST_LINE, quoted, shown
from dynamarks_tf.report import style, wording
from dynamarks_tf.report.content import BundleReport
from dynamarks_tf.report.figures import bundle_figures
from dynamarks_tf.report.style import Figure


def bundle_page(report: BundleReport) -> str:
    """A report as HTML."""
    clients, left_out = shown_clients(report.clients)
    return render(
        "bundle.html.j2",
        bundle_figures(report),
        report=report,
        title=wording.title(report),
        warnings=wording.warnings(report),
        guesses=wording.correct_guesses(report.log10_p),
        meaning=wording.meaning(report),
        no_meaning=[*wording.no_meaning(report), *wording.caveats(report)],
        assumptions=wording.assumptions(report),
        channels=wording.CHANNELS,
        channel_names=wording.CHANNEL_NAMES,
        clients=[(quoted(client.name), client, is_found(client, report.evidence.plan.alpha)) for client in clients],
        clients_left_out=left_out,
        clients_meaning=wording.clients_meaning(report),
        clients_no_meaning=wording.KEYS_NO_MEANING if report.by_key else wording.CLIENTS_NO_MEANING,
    )


def render(template: str, figures: dict[str, Figure], **values: Any) -> str:
    """Fills one of the templates of this package. All values are escaped.

    Args:
        template: its file name.
        figures: the figures that it may show, by name.
        **values: its other variables.
    """
    environment = _environment()
    light, dark = style.css_variables(0), style.css_variables(1)
    return str(environment.get_template(template).render(figures=figures, light=light, dark=dark, **values))


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dynamarks_tf.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_one_line,
    )
    environment.filters |= {
        "scientific": wording.scientific,
        "percent": wording.percent,
        "decimals": wording.decimals,
        "date": wording.date,
        "log10": math.log10,
        "quoted": shlex.quote,
        "prose": _prose,
    }
    return environment


def _prose(text: str) -> Any:
    """A sentence as HTML: names of commands in backquotes become code, and apostrophes those of print."""
    import markupsafe

    escaped = str(markupsafe.escape(shown(text, LONGEST_LINE)))
    escaped = re.sub(r"`([^`]+)`", r'<code class="whole-word">\1</code>', escaped)
    return markupsafe.Markup(re.sub(r"(?<=\w)&#39;(?=\w)", "’", escaped))


def _one_line(value: Any) -> Any:
    """What a template shows of a value, before it is escaped for HTML: markup, such as a figure's, stays as it is."""
    return shown(value, LONGEST_LINE) if isinstance(value, str) and not hasattr(value, "__html__") else value
