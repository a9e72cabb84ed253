"""Draws docs/architecture.svg, and the table in docs/architecture.md, from the import rules that the tests hold.

python -m docs.architecture
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- rules: python -m docs.architecture -->", "<!-- end of rules -->"

WIDTH, HEIGHT = 250, 46  # of a box
GAP_X, GAP_Y = 30, 52
LEFT_OUT = ("foreign_text", "errors", "_version", "_support")  # everything imports them
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2933; text-anchor: middle }
  .purpose { font-size: 10.5px; fill: #52606d }
  rect { fill: #f5f7fa; stroke: #7b8794; rx: 6 }
  .blind { fill: #e3f8ff }
  path { fill: none; stroke: #9aa5b1; stroke-width: 1.2; marker-end: url(#arrow) }
  marker path { fill: #9aa5b1; stroke: none; marker-end: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #f5f7fa } .purpose { fill: #cbd2d9 }
    rect { fill: #323f4b; stroke: #9aa5b1 } .blind { fill: #1f4b5c }
  }
"""


def draw(rules: dict[str, Any]) -> str:
    """The rules as an SVG picture: a box a folder, an arrow to each folder that it needs directly.

    Args:
        rules: `RULES` of tests/test_import_rules.py. An arrow is left out where a longer way leads to the same folder;
            so are the folders that everything imports.
    """
    needs = {name: set(rule.may_import.split()) - {*LEFT_OUT} for name, rule in rules.items() if name not in LEFT_OUT}
    level: dict[str, int] = {}
    for name in needs:  # the rules stand in an order in which what is needed comes first
        level[name] = max((level[other] + 1 for other in needs[name]), default=0)
    direct = {name: others - _reached_through(others, needs) for name, others in needs.items()}
    rows = [[name for name in needs if level[name] == number] for number in range(max(level.values()) + 1)]
    widest = max(map(len, rows))
    total_width = widest * (WIDTH + GAP_X) + GAP_X
    places = {}
    for number, row in enumerate(reversed(rows)):
        row.sort(key=lambda name: _middle([places[other][0] for other in places if name in direct[other]]))
        indent = (total_width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for column, name in enumerate(row):
            places[name] = indent + column * (WIDTH + GAP_X), GAP_Y / 2 + number * (HEIGHT + GAP_Y)
    total_height = len(rows) * (HEIGHT + GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width:g} {total_height:g}" role="img" '
        'aria-label="Which folder of dynamarks_tf imports which">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    parts += [_arrow(places[name], places[other]) for name, others in direct.items() for other in sorted(others)]
    for name, (x, y) in places.items():
        kind = ' class="blind"' if rules[name].never_reaches_the_key == "*" else ""
        middle = x + WIDTH / 2
        parts += [
            f'<rect{kind} x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text x="{middle:g}" y="{y + 19:g}">{html.escape(name.replace(".", "/"))}</text>',
            f'<text class="purpose" x="{middle:g}" y="{y + 36:g}">{html.escape(_short(rules[name].purpose))}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def with_table(page: str, rules: dict[str, Any]) -> str:
    """The page with the table of the rules in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = ["| folder | what lives there | may import | runs without TensorFlow | never reaches the key |"]
    lines.append("|---|---|---|---|---|")
    for name, rule in rules.items():
        allowed = ", ".join(other.replace(".", "/") for other in rule.may_import.split()) or "nothing"
        cells = [_listed(rule.without_tensorflow), _listed(rule.never_reaches_the_key)]
        lines.append(f"| `{name.replace('.', '/')}` | {rule.purpose} | {allowed} | {' | '.join(cells)} |")
    return "\n".join([before.rstrip("\n"), "", BEGIN, *lines, END, after.lstrip("\n")]).rstrip("\n") + "\n"


def _reached_through(others: set[str], needs: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [*others]
    while waiting:
        for other in needs[waiting.pop()] - reached:
            reached.add(other)
            waiting.append(other)
    return reached


def _middle(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + WIDTH / 2, start[1] + HEIGHT
    x2, y2 = end[0] + WIDTH / 2, end[1] - 2
    bend = (y2 - y1) / 2
    is_behind_a_box = abs(x1 - x2) < WIDTH / 2 and y2 - y1 > GAP_Y + HEIGHT
    bow = WIDTH if is_behind_a_box else 0  # around the boxes between, so that the arrow does not seem to be theirs
    return f'<path d="M{x1:g} {y1:g}C{x1 + bow:g} {y1 + bend:g} {x2 + bow:g} {y2 - bend:g} {x2:g} {y2:g}"/>'


def _listed(names: str) -> str:
    return {"": "-", "*": "all"}.get(names, ", ".join(names.split()))


def _short(purpose: str) -> str:
    return purpose.replace("`", "")


if __name__ == "__main__":
    from tests.test_import_rules import RULES

    (HERE / "architecture.svg").write_text(draw(RULES))
    PAGE = HERE / "architecture.md"
    PAGE.write_text(with_table(PAGE.read_text(), RULES))
