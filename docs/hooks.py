"""Hooks of MkDocs: a page that is written elsewhere, the help texts, and links that lead out of this folder."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from mkdocs.structure.files import File, Files

from dynamarks_tf.cli.main import MODULE_OF, commands

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"serving.md": "serving/README.md"}
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
