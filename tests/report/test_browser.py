"""The pages in a real browser: what it asks for, says, and can show."""

import itertools
import json
import zlib

import numpy as np
import pytest

import robustkit as rk
from robustkit.report import write_report

from .browser import NAMES, Browser, find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find() is None, reason=f"needs one of {', '.join(NAMES)} on the PATH"
    ),
]

WIDTHS = (1200, 400)
EVIL = "<script>stolen=1</script><img src=x onerror='stolen=1'>"

# The least size of letters that are seen, in CSS pixels, those in drawings as shown.
SMALLEST = """(() => {
  let least = 1e9;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const parent = node.parentElement;
    const box = parent.getBoundingClientRect();
    if (!node.textContent.trim() || box.width < 2 || box.height < 2) continue;
    if (parent.closest('sub')) continue;
    let size = parseFloat(getComputedStyle(parent).fontSize);
    if (parent.ownerSVGElement) size *= parent.getScreenCTM().a;
    least = Math.min(least, size);
  }
  return least;
})()"""

# Elements that reach beyond the window and cannot be scrolled to by themselves.
BEYOND = """[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('caption');
}).map(e => e.tagName + '.' + (e.getAttribute('class') || '')).slice(0, 5)"""

# Letters of one drawing that lie over each other.
COLLIDING = """[...document.querySelectorAll('figure > svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')]
    .map(t => [t.textContent, t.getBoundingClientRect()])
    .filter(([, b]) => b.width > 0);
  const hits = [];
  boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 4) hits.push(one + ' / ' + other);
  }));
  const frame = svg.getBoundingClientRect();
  boxes.forEach(([text, b]) => {
    if (b.left < frame.left - 2 || b.right > frame.right + 2) hits.push(text);
  });
  return hits;
})"""

UNNAMED = """[
  ...[...document.querySelectorAll('img')].filter(e => !e.alt),
  ...[...document.querySelectorAll('svg')].filter(e =>
    e.getAttribute('aria-hidden') !== 'true' &&
    !(e.getAttribute('role') === 'img' && e.getAttribute('aria-label'))),
  ...[...document.querySelectorAll('table')].filter(e =>
    !e.caption || !e.caption.textContent.trim()),
  ...[...document.querySelectorAll('thead th')].filter(e => e.scope !== 'col'),
  ...[...document.querySelectorAll('nav, [tabindex]')].filter(e =>
    !e.getAttribute('aria-label')),
].map(e => e.outerHTML.slice(0, 90))"""

HEADINGS = """[...document.querySelectorAll('h1,h2,h3,h4')]
  .map(e => +e.tagName[1])"""

# Contrast as WCAG 2 defines it, of texts with what is behind them.
CONTRAST = """(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  let least = 99;
  const texts = 'p, li, td, th, dt, dd, h1, h2, h3, a, text';
  for (const e of document.querySelectorAll(texts)) {
    const style = getComputedStyle(e);
    const ink = parse(e.ownerSVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    least = Math.min(least, (a + 0.05) / (b + 0.05));
  }
  return least;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def findings():
    """Of kinds that are drawn, as the checks would say them."""
    said = {"severity": "suspicious", "remedy": "look", "evidence": {}, "samples": [1]}
    kinds = {"S4": "linf: fmn falls", "C2": "l2: fmn stays", "G3": "gradients"}
    measured = {
        "gradients": {
            "shares": [0.1, 0.5, 1.0],
            "epsilon": 0.1,
            "ratio": [[1.0, 0.5, -0.2], [0.9, 1.2, 4.0]],
        }
    }
    listed = [{"id": k, "diagnosis": text, **said} for k, text in kinds.items()]
    return {"worst": "suspicious", "findings": listed, "measured": measured}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run of four attacks, two runs on a page, and a run of somebody's making."""
    folder = tmp_path_factory.mktemp("pages")
    one = rk.evaluate(
        "digits",
        "digits",
        norm=["linf", "l2"],
        attacks=["fmn", "square", "hopskipjump"],
        budget=60,
        samples=60,
        out=folder / "one",
    )
    # With the other side of the curve, and the symptoms that have pictures.
    one = rk.bound_below(one, "digits", "digits", "interval")
    (one.path / "findings.json").write_text(json.dumps(findings()))
    two = rk.evaluate(
        "digits-robust",
        "digits",
        norm=["linf", "l2"],
        attacks=["fmn", "square"],
        budget=60,
        samples=60,
        out=folder / EVIL.replace("/", ""),
    )
    x = np.random.default_rng(0).random((30, 7)).astype(np.float32)
    w = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    evil = rk.evaluate(
        rk.NumPyModel(lambda x: x @ w, gradient=lambda x, s: s @ w.T),
        (x, (x @ w).argmax(axis=1)),
        norm=["linf", "l1"],
        attacks={EVIL: rk.FMN(steps=20)},
        out=folder / "evil",
    )
    evil.run["model"]["name"] = evil.run["data"]["name"] = EVIL
    evil.run["data"]["class_names"] = [EVIL] * 3
    evil.run["notes"] = [EVIL]
    return {
        "one": write_report(one),
        "several": write_report([one, two], folder / "several"),
        "many": write_report([one, two] * 4, folder / "many"),
        "evil": write_report(evil),
    }


@pytest.mark.parametrize("name", ["one", "several", "many", "evil"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_needs_nothing_else_and_fits(browser, pages, name, width):
    browser.open(pages[name].as_uri(), width)
    asked = {e["request"]["url"][:5] for e in browser.seen("Network.requestWillBeSent")}
    assert asked <= {"file:", "data:"}
    files = [
        e["request"]["url"]
        for e in browser.seen("Network.requestWillBeSent")
        if e["request"]["url"].startswith("file:")
    ]
    assert files == [pages[name].as_uri()]
    assert browser.seen("Runtime.consoleAPICalled") == []
    assert browser.seen("Runtime.exceptionThrown") == []
    assert browser.seen("Log.entryAdded") == []
    assert browser.evaluate("window.stolen") is None
    assert browser.evaluate("document.images.length") == browser.evaluate(
        "[...document.images].filter(e => e.naturalWidth > 0).length"
    )
    assert browser.evaluate(BEYOND) == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(SMALLEST) >= 12
    assert browser.evaluate(COLLIDING) == []


@pytest.mark.parametrize("name", ["one", "several", "evil"])
def test_everything_has_a_name_and_headings_are_in_order(browser, pages, name):
    browser.open(pages[name].as_uri(), 1200)
    assert browser.evaluate(UNNAMED) == []
    assert browser.evaluate("document.documentElement.lang") == "en"
    assert browser.evaluate("document.querySelectorAll('main').length") == 1
    levels = browser.evaluate(HEADINGS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_every_link_and_table_is_reached_by_the_keyboard(browser, pages):
    browser.open(pages["several"].as_uri(), 1200)
    count = browser.evaluate("document.querySelectorAll('a, [tabindex]').length")
    assert count >= 8
    seen = []
    for _ in range(count):
        browser.press("Tab", 9)
        seen.append(
            browser.evaluate(
                "document.activeElement.getAttribute('href') || "
                "document.activeElement.getAttribute('aria-label')"
            )
        )
        assert (
            browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            == "solid"
        )
    assert len(set(seen)) >= 6
    assert None not in seen
    targets = [link[1:] for link in seen if link.startswith("#")]
    for target in targets:
        assert browser.evaluate(f"!!document.getElementById('{target}')")


@pytest.mark.parametrize("dark", [False, True])
def test_letters_stand_out(browser, pages, dark):
    browser.open(pages["one"].as_uri(), 1200, dark=dark)
    assert browser.evaluate(CONTRAST) >= 4.5


def test_in_print(browser, pages):
    browser.open(pages["several"].as_uri(), 794, dark=True)
    browser.media("print", dark=True)
    # Dark colours stay on the screen, and links to places on the page too.
    paper = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(paper) == "rgb(255, 255, 255)"
    assert browser.evaluate(
        "getComputedStyle(document.querySelector('nav')).display"
    ) == ("none")
    assert browser.evaluate(BEYOND) == []
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF-")
    assert 3 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 60
    assert len(zlib.compress(pdf)) > 20_000
