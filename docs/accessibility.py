"""Can everybody read the documentation? Axe-core on every page of `site/`: light on a screen, dark on a phone.

    make accessibility      # builds the site, and needs Chromium

Prints what it finds and ends with 1 if that is anything. The reports are checked in the same way by tests/report.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.helpers import ROOT, browser

SITE = ROOT / "site"
LOOKS = ((1280, "light"), (390, "dark"))


def found(folder: Path) -> list[str]:
    """One line for each violation."""
    lines = []
    with browser.chromium() as opened:
        for width, scheme in LOOKS:
            context = opened.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            for path in sorted({*folder.glob("*.html")} - {folder / "404.html"}):  # whose links hold on a server only
                page.goto(path.as_uri())
                lines += [f"{path.name}, {width} pixels, {scheme}: {line}" for line in browser.violations(page)]
            context.close()
    return lines


if __name__ == "__main__":
    violations = found(SITE)
    print(*violations, f"{len(violations)} violations", sep="\n")
    sys.exit(bool(violations))
