"""The page in a browser: nothing loaded, nothing run, nothing clipped, accessible."""

import dataclasses
import html
import re

import pytest

from dynamarks_tf import recheck
from dynamarks_tf.audit import plots, tables
from dynamarks_tf.audit.recommendation import recommend
from dynamarks_tf.case.client_table import MOST_SHOWN
from dynamarks_tf.case.trace import ClientEvidence
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.report.content import bundle_report
from dynamarks_tf.report.page import bundle_page, render
from tests.helpers import browser

LOOKS = ((360, "dark"), (1440, "light"))

OVERFLOWING = """() => {
  const clipped = [...document.querySelectorAll('body *')].filter(element => {
    if (element.closest('.scroll') || element.closest('svg')) return false;
    const box = element.getBoundingClientRect();
    const hidden = element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== 'visible';
    return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1 || hidden);
  }).map(element => element.outerHTML.slice(0, 80));
  const outside = [...document.querySelectorAll('svg')].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(text => {
      const box = text.getBoundingClientRect();
      return frame.width && (box.left < frame.left - 4 || box.right > frame.right + 4 || box.top < frame.top - 4
        || box.bottom > frame.bottom + 4);
    }).map(text => text.textContent);
  });
  return [...clipped, ...outside, ...(document.documentElement.scrollWidth > innerWidth ? ['the page'] : [])];
}"""


@pytest.fixture(scope="module")
def pages(bundles, key, tmp_path_factory, digits):
    """Reports as files, by name."""
    folder = tmp_path_factory.mktemp("pages")
    rechecked = recheck.recheck(bundles / "surrogate.zip", key=key)
    named = {"bundle": "bundle.zip", "bundle_sha256": "0" * 64, "num_decoys": 300}
    hostile = recheck.recheck(bundles / "hostile & <b>.zip", key=MarkKey.load(bundles / "hostile.key"))
    reports = {
        "detected": bundle_report(rechecked, true_labels=digits.y_test, **named),
        "confidential": bundle_report(rechecked, confidential=True, **named),
        "not-detected": bundle_report(recheck.recheck(bundles / "independent.zip", key=key), **named),
        "without-key": bundle_report(recheck.recheck(bundles / "independent.zip"), num_decoys=300),
        "hostile": bundle_report(hostile, **{**named, "bundle": "hostile & <b>.zip"}),
    }
    names = ["<img src=x onerror=alert(3)>", "\u202eevil", "W" * 300, *map(str, range(MOST_SHOWN))]
    found = [ClientEvidence(name, 3511, (), -45.0 + place, -44.0 + place) for place, name in enumerate(names)]
    traced = dataclasses.replace(rechecked, clients={client.name: client for client in found})
    reports["clients"] = bundle_report(traced, **named)
    texts = {name: bundle_page(report) for name, report in reports.items()}
    texts["audit"] = audit_page()
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in texts}


def audit_page():
    def row(budget, log10_p, **values):
        common = {"seed": 0, "budget": budget, "tie_margin": 0.5, "accuracy": 0.9, "fidelity": 0.9}
        findings = {"100 fresh": {"log10_p": log10_p, "queries_needed": None}}
        cost = {"clean_accuracy": 0.9, "marked_accuracy": 0.899, "top1_agreement": 0.99}
        cost |= {"mean_total_variation": budget / 2, "max_total_variation": budget}
        scenario = {"extraction": "full", "architecture": "separable_cnn", "removal": "prune 60 %, fine-tune all"}
        return {**common, "kind": "theft", **scenario, "findings": findings, "cost": cost, **values}

    rows = [row(budget, -100 * budget, **more) for budget in (0.02, 0.1) for more in ({}, {"kind": "cost"})]
    recommendation = recommend(rows)
    thefts = [row for row in rows if row["kind"] == "theft"]
    figures = [plots.matrix(thefts, "thefts-budget0.1-ties0.5"), plots.trade_off(recommendation.settings, "trade-off")]
    return render(
        "audit.html.j2",
        {figure.name: figure for figure in figures},
        recommendation=recommendation,
        data="<b>images</b>",
        sections={"Thefts": [tables.suspects(thefts)]},
    )


def test_foreign_texts_are_escaped(pages):
    text = pages["hostile"].read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "49" not in html.unescape(re.search("<h1>(.*)</h1>", text).group(1))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;img src=x onerror=alert(2)&gt;" in text
    assert "check &#39;hostile &amp; &lt;b&gt;.zip&#39;" in text
    assert "&lt;b&gt;images&lt;/b&gt;" in pages["audit"].read_text()
    text = pages["clients"].read_text()
    assert "<img" not in text
    assert "\u202e" not in text
    assert "&lt;img src=x onerror=alert(3)&gt;" in text


def test_a_page_with_clients_says_what_the_table_means_and_that_it_is_not_for_publication(pages):
    text = html.unescape(pages["clients"].read_text())
    assert len(re.findall(r"<td[^>]*>(?:not )?found</td>", text)) == MOST_SHOWN
    assert "The strongest 30; 3 more are in the JSON file" in text
    for said in (
        "The p-values are not exact if what clients share depends on the answers.",
        "Requests without a recorded client count as one more client.",
        "The class channel has no part in this table",
        "It names clients of the owner and is not for publication.",
    ):
        assert said in text
    assert "may be published" not in text
    assert "Which client" not in pages["detected"].read_text()


def test_the_page_names_nothing_outside_itself(pages):
    for name, path in pages.items():
        text = path.read_text()
        assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import""", text), name
        assert "default-src 'none'" in text
        ids = re.findall(r'\bid="([^"]*)"', text)
        assert len(ids) == len(set(ids)), name


@pytest.mark.parametrize(
    "name", ["detected", "confidential", "not-detected", "without-key", "hostile", "clients", "audit"]
)
def test_a_browser_shows_all_of_it_accessibly(pages, chromium, name):
    """On a dark phone and on a wide screen: no message in the console, no request, all figures, nothing clipped.

    Axe-core, which checks contrast, text alternatives, table headers and landmarks, reports no violation.
    """
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is missing")
    for width, scheme in LOOKS:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        messages, requests = [], []
        page.on("console", lambda message, found=messages: found.append(message.text))
        page.on("pageerror", lambda error, found=messages: found.append(str(error)))
        page.on("request", lambda request, found=requests: found.append(request.url))
        page.goto(pages[name].as_uri())
        assert messages == []
        assert requests == [pages[name].as_uri()]
        figures = page.evaluate("[...document.querySelectorAll('svg')].filter(s => s.clientWidth > 200).length")
        assert figures == {"confidential": 4, "without-key": 2, "audit": 2}.get(name, 3)
        assert page.evaluate(OVERFLOWING) == []
        assert browser.violations(page) == []
        context.close()


def test_dark_is_dark_and_print_is_light(pages, chromium):
    background = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    bar = "getComputedStyle(document.querySelector('svg text')).fill.match(/\\d+/g).map(Number)"
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(pages["detected"].as_uri())
    assert max(page.evaluate(background)) < 60
    assert min(page.evaluate(bar)) > 100
    page.emulate_media(media="print")
    assert min(page.evaluate(background)) > 240
    assert max(page.evaluate(bar)) < 130
    assert page.pdf(format="A4").startswith(b"%PDF")
    context.close()
