"""Hooks of MkDocs: a page that is written elsewhere, help texts, formulas, and links that lead out of this folder."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from dynamarks_tf.cli.main import MODULE_OF, commands

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"serving.md": "serving/README.md"}
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_PRIME = re.compile("<msup>(<mi>[^<]*</mi>)<mi>&#x02032;</mi></msup>")
_SHORT_CODE = re.compile(r"<code>([^<\n]{1,30})</code>")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are written elsewhere in the repository."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the help texts, and makes links to files that are not on the site plain text."""
    name = page.file.src_uri
    if name == "cli.md":
        markdown = markdown.replace("<!-- commands -->", help_texts())
    folder = posixpath.dirname(ELSEWHERE.get(name, f"docs/{name}"))
    return _LINK.sub(lambda link: _link(folder, *link.groups(default="")), markdown)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Keeps short code on one line, and makes MathML of formulas, which browsers show without a script.

    An empty cell is no header. On pages that are written elsewhere, dollars are the shell's.
    """
    content = content.replace("<th></th>", "<td></td>")
    content = _SHORT_CODE.sub(r'<code class="short">\1</code>', content)
    if page.file.src_uri in ELSEWHERE:
        return _FORMULA.sub(r"$\3$", content)
    return _FORMULA.sub(lambda formula: _mathml(*formula.groups()), content)


def help_texts() -> str:
    """What `dynamarks COMMAND --help` prints, for every command."""
    runner = CliRunner()
    sections = []
    for name in MODULE_OF:
        shown = runner.invoke(commands, [name, "--help"], prog_name="dynamarks", terminal_width=80).output
        sections.append(f"## {name}\n\n```text\n{shown}```\n")
    return "\n".join(sections)


def _link(folder: str, text: str, target: str, anchor: str) -> str:
    if re.match(r"\w+:", target):
        return f"[{text}]({target}{anchor})"
    path = posixpath.normpath(posixpath.join(folder, target))
    for page, source in ELSEWHERE.items():
        if path == source:
            path = f"docs/{page}"
    return f"[{text}]({path.removeprefix('docs/')}{anchor})" if path.startswith("docs/") else text


def _mathml(element: str, bracket: str, formula: str) -> str:
    display = "block" if bracket == "[" else "inline"
    converted = convert(html.unescape(formula).strip(), display=display)
    primes = _PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>', converted)  # at a prime's height
    return f'<{element} class="formula">{primes}</{element}>'
