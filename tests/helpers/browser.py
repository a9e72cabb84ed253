"""A Chromium that looks at pages, where there is one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any


class NoBrowserError(Exception):
    """Playwright or Chromium is missing; the message says which, and how to get it."""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Starts the Chromium of this machine. While it is open, an event loop runs, which others need for themselves."""
    try:
        from playwright import sync_api
    except ImportError:
        raise NoBrowserError("looking at pages needs playwright (extra `test`)") from None
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise NoBrowserError("no Chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds on an open page: WCAG A and AA, and good practice."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
