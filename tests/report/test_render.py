"""Pages that open from disk: no script, no request, no error, readable when narrow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from samples import SAMPLE, profile_of

from kdutils.grid.profile import load_profile
from kdutils.report import render
from kdutils.report.index import index_html
from kdutils.report.render import Result

RESULTS = [
    Result(name="01_effectiveness", status="done"),
    Result(name="02_size_correlation", status="not_run"),
]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def page(*outputs: dict, source: str = "1 + 1", failed: bool = False, **options) -> BeautifulSoup:
    """The page of a notebook with one code cell."""
    cell = nbformat.v4.new_code_cell(source, outputs=[nbformat.from_dict(output) for output in outputs])
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Does it <em>render</em>?"), cell]
    )
    options = {"name": RESULTS[0].name, "results": RESULTS, "facts": {"Profile": "<published>"}} | options
    return BeautifulSoup(render.to_html(notebook, failed=failed, **options), "html.parser")


def display(data: dict, **metadata) -> dict:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def stream(name: str, text: str) -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def test_page_forbids_everything_but_its_own_pictures_and_styles():
    soup = page()
    policy = soup.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    assert soup.html["lang"] == "en"
    assert not soup.find_all(["script", "link", "iframe"])
    assert soup.select_one("a.skip")["href"] == "#main"
    assert soup.main["id"] == "main"


def test_navigation_lists_every_report():
    texts = [item.get_text().strip() for item in page().nav.find_all("li")]
    assert texts == ["Index", "01 Effectiveness", "02 Size correlation (not run)"]


def test_code_is_folded_and_text_is_escaped():
    soup = page(stream("stdout", "a < b & \x1b[31mred\x1b[0m"), display({"text/plain": "<b>x</b>"}))
    assert soup.details.get("open") is None
    assert "1" in soup.details.get_text()
    assert [pre.get_text() for pre in soup.select(".output pre")] == ["a < b & red", "<b>x</b>"]
    assert soup.find("dd").get_text() == "<published>"


def test_every_picture_has_its_description():
    described = display({"image/png": PNG}, **{"image/png": {"alt": 'Gain > 3 "points"', "width": 700}})
    soup = page(described, display({"image/png": PNG}), display({"image/svg+xml": "<svg></svg>"}))
    pictures = soup.find_all("img")
    assert [picture["alt"] for picture in pictures] == ['Gain > 3 "points"'] + [
        "A figure without a description."
    ] * 2
    assert pictures[0]["width"] == "700"
    assert all(picture["src"].startswith("data:image/") for picture in pictures)


def test_active_content_of_a_library_is_taken_out():
    html = '<p>kept</p><SCRIPT src="https://x.org/y.js"></SCRIPT><iframe src="https://x.org"></iframe>'
    soup = page(
        display({"text/html": html}),
        display({"application/javascript": "alert(1)", "text/plain": "plain"}),
    )
    assert not soup.find_all(["script", "iframe"])
    assert "alert" not in str(soup)
    assert "kept" in soup.main.get_text()


def test_stderr_is_shown_only_where_the_notebook_failed():
    assert "a warning" not in page(stream("stderr", "a warning")).get_text()
    assert "a warning" in page(stream("stderr", "a warning"), failed=True).get_text()


def test_failed_cell_is_open_and_its_traceback_is_escaped():
    error = {
        "output_type": "error",
        "ename": "KeyError",
        "evalue": "x",
        "traceback": ["\x1b[31mKeyError: <b>\x1b[0m"],
    }
    soup = page(error, failed=True)
    assert soup.details.has_attr("open")
    assert soup.select_one(".error pre").get_text().strip() == "KeyError: <b>"


def test_figure_links_to_its_files_unless_they_are_gone():
    caption = display({"text/html": "<p>A caption</p>"}, kdutils={"figure": "01_gain"})
    links = [a["href"] for a in page(caption).main.find_all("a")]
    assert links == [f"../figures/01_gain.{kind}" for kind in ("png", "svg", "csv")]
    assert not page(caption, failed=True).main.find_all("a")


def test_navigation_is_replaced_and_nothing_else():
    html = str(page())
    results = [RESULTS[0], Result(name="02_size_correlation", status="failed")]
    relinked = render.relink(html, name="01_effectiveness", results=results)
    soup = BeautifulSoup(relinked, "html.parser")
    assert soup.nav.find("a", {"aria-current": "page"}).get_text() == "01 Effectiveness"
    assert soup.nav.select_one("a.failed")["href"] == "02_size_correlation.failed.html"
    assert soup.find("a", rel="next")["href"] == "02_size_correlation.failed.html"
    assert relinked.count("<!-- navigation -->") == relinked.count("<!-- /onward -->") == 1
    assert render.relink(relinked, name="01_effectiveness", results=results) == relinked
    assert BeautifulSoup(html, "html.parser").main == soup.main


def test_page_follows_from_the_status():
    found = [Result(name="03_x", status=status).page for status in ("done", "failed", "not_run")]
    assert found == ["03_x.html", "03_x.failed.html", None]


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (0.2, "1 s"), (59.4, "59 s"), (125, "2 min 5 s")])
def test_duration(seconds, text):
    assert render.duration(seconds) == text


CLAIM = {
    "id": "S1",
    "section": "02",
    "statement": "gain <b>falls</b>",
    "source": "published",
    "protocol": "paper",
    "analysis": "authors",
    "estimate": -0.6612,
    "ci_low": -0.8,
    "ci_high": -0.4,
    "p_value": 0.0001,
    "n": 33,
    "paper_value": -0.66,
    "verdict": "reproduced",
    "reason": "because",
}


def index(*claims: dict, results: list[Result] | None = None) -> BeautifulSoup:
    names = ("01_effectiveness", "02_size_correlation", "03_teacher_quality")
    results = results or [Result(name=name, status="not_run") for name in names]
    provenance = {
        "python": "3.11",
        "git": {"commit": None, "dirty": True},
        "data": dict.fromkeys("abcd", "<sum>"),
    }
    return BeautifulSoup(index_html(profile_of(*names), results, list(claims), [], provenance), "html.parser")


def test_index_counts_each_source_by_itself():
    soup = index(CLAIM, CLAIM | {"source": "live", "protocol": "careful", "verdict": "not_reproduced"})
    assert [title.get_text() for title in soup.select("h3")] == ["Released results", "Live results"]
    counts = [[item.get_text()[0] for item in group.select("li")] for group in soup.select(".verdicts")]
    assert counts == [["1", "0", "0", "0"], ["0", "1", "0", "0"]]
    assert [len(table.select("tbody tr")) for table in soup.select("table")[:2]] == [1, 1]


def test_index_counts_each_decoding_of_live_results_by_itself():
    live = CLAIM | {"source": "live", "protocol": "careful"}
    soup = index(CLAIM, *(live | {"decoding": each} for each in ("greedy", "sampled")))
    titles = [title.get_text() for title in soup.select("h3")]
    assert titles == ["Released results", "Live results, greedy", "Live results, sampled"]
    assert [len(table.select("tbody tr")) for table in soup.select("table")[:3]] == [1, 1, 1]


def test_index_shows_what_each_notebook_concludes_as_text_with_emphasis():
    done = [Result(name="01_effectiveness", status="done"), Result(name="02_size_correlation", status="done")]
    said = {
        "01_effectiveness": ["Gain is **1.3** points.", "It wrote <b>a</b> [b](https://c.d) & $x$."],
        "02_size_correlation": [],
    }
    profile = profile_of("01_effectiveness", "02_size_correlation")
    soup = BeautifulSoup(index_html(profile, done, [], [], {}, conclusions=said), "html.parser")
    [title] = soup.select("#conclusions ~ h3")
    assert (title.get_text(), title.a["href"]) == ("01 Effectiveness", "reports/01_effectiveness.html")
    first, second = title.find_next("ul").select("li")
    assert [str(part) for part in first.contents] == ["Gain is ", "<strong>1.3</strong>", " points."]
    assert (second.get_text(), second.a, second.b) == (
        "It wrote <b>a</b> [b](https://c.d) & $x$.",
        None,
        None,
    )
    assert not BeautifulSoup(index_html(profile, done, [], [], {}), "html.parser").select("#conclusions")


def test_index_names_the_family_of_real_models():
    profile = replace(profile_of("01_effectiveness"), sources=("live",), live=load_profile("qwen-small").live)
    results = [Result(name="01_effectiveness", status="not_run")]
    live = CLAIM | {"source": "live", "analysis": "strict", "decoding": "greedy"}
    contrast = live | {"id": "H1", "decoding": None}
    soup = BeautifulSoup(index_html(profile, results, [CLAIM, live, contrast], [], {}), "html.parser")
    titles = [title.get_text() for title in soup.select("h3")]
    assert titles == [
        "Released results: the authors' analysis",
        "Live results, Qwen2.5, greedy: the stricter analysis",
        "Live results, Qwen2.5, contrasts: the stricter analysis",
    ]


def test_index_counts_verdicts_and_shows_each_claim():
    untestable = CLAIM | dict.fromkeys(("estimate", "ci_low", "ci_high", "p_value", "n", "paper_value"))
    soup = index(CLAIM, CLAIM | {"id": "S2"}, untestable | {"id": "E3", "verdict": "not_testable"})
    assert [item.get_text() for item in soup.select(".verdicts li")] == [
        "2✓ reproduced",
        "0✗ not reproduced",
        "0? inconclusive",
        "1– not testable",
    ]
    rows = [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for row in soup.select("table")[0].select("tbody tr")
    ]
    detail = "p = 0.0001, n = 33; published · paper · authors"
    assert rows[0] == [
        "S1",
        "gain <b>falls</b>",
        "−0.66",
        f"−0.661 [−0.8, −0.4]{detail}",
        "✓ reproduced",
        "because",
    ]
    assert rows[2][2:5] == ["—", "—published · paper · authors", "– not testable"]


def test_index_without_claims_says_so():
    assert "No claim has been judged yet." in index().get_text()


def test_index_shows_what_became_of_each_notebook():
    results = [
        Result(name="01_effectiveness", status="done", seconds=3, finished="noon", changed={"seed": "<1>"}),
        Result(name="02_size_correlation", status="failed", seconds=4, error="KeyError: <b>"),
        Result(name="03_teacher_quality", status="not_run"),
    ]
    done, failed, not_run = index(CLAIM, results=results).select("#reports + div tbody tr")
    assert [a["href"] for a in done.find_all("a")] == [
        f"reports/01_effectiveness.{kind}" for kind in ("html", "ipynb")
    ]
    assert [a["href"] for a in failed.find_all("a")] == [
        f"reports/02_size_correlation.failed.{kind}" for kind in ("html", "ipynb")
    ]
    assert [cell.get_text() for cell in done.find_all(["th", "td"])] == [
        "01 Effectivenessseed = <1>",
        "✓ done",
        "3 snoon",
        "notebook",
    ]
    assert failed["class"] == ["failed"]
    assert "KeyError: <b>" in failed.get_text()
    assert not_run.find("a") is None


def test_index_shows_provenance():
    text = index().select_one("#provenance + dl").get_text()
    assert "commit unknown, dirty yes" in text
    assert "<sum>" in text


def test_index_of_the_sample_is_small_and_embeds_its_figures(sample):
    html = (sample / "index.html").read_text(encoding="utf-8")
    assert len(html) < 5_000_000
    assert [img["alt"] for img in BeautifulSoup(html, "html.parser").find_all("img")] == [
        "Gain falls from 9.8 at 0.5B to 1.3 at 7B."
    ] * 2


# --- in a browser --------------------------------------------------------------------------------


class Watched:
    """A tab, and what it complained about or asked the network for."""

    def __init__(self, browser, *, width: int = 1400, scheme: str = "light") -> None:
        self.tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.faults: list[str] = []
        self.tab.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("request", lambda request: self._note(request.url))
        self.tab.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url[:80]}"))

    def _note(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.faults.append(url)

    def open(self, path: Path) -> None:
        self.tab.goto(path.as_uri())


PAGES = ["index.html", f"reports/{SAMPLE[0]}.html", f"reports/{SAMPLE[2]}.failed.html"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_page_fits_asks_for_nothing_and_does_not_complain(browser, sample, path, width, scheme):
    watched = Watched(browser, width=width, scheme=scheme)
    watched.open(sample / path)
    tab = watched.tab
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(i => i.alt.trim() && i.complete && i.naturalWidth > 0)")
    for details in tab.query_selector_all("details:not([open]) > summary"):
        details.click()
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width, "with all details open"
    assert watched.faults == []
    tab.close()


@pytest.mark.browser
def test_table_that_is_too_wide_scrolls_in_its_own_box(browser, sample):
    watched = Watched(browser, width=400)
    watched.open(sample / PAGES[1])
    boxes = (
        "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
    )
    assert watched.tab.evaluate(boxes) >= 1
    assert "<script>alert(1)</script>" in watched.tab.inner_text("table")
    watched.tab.close()


@pytest.mark.browser
def test_claims_are_on_the_first_screen(browser, sample):
    watched = Watched(browser)
    watched.open(sample / "index.html")
    for selector in (".verdicts", "tbody tr:first-child"):
        assert watched.tab.locator(selector).first.bounding_box()["y"] < 800
    watched.tab.close()


@pytest.mark.browser
def test_navigation_leads_through_all_reports_and_back(browser, sample):
    watched = Watched(browser)
    watched.open(sample / "index.html")
    tab, seen = watched.tab, []
    while next_page := tab.query_selector("a[rel=next]"):
        next_page.click()
        tab.wait_for_load_state()
        seen.append(Path(tab.url).name.split(".")[0])
    assert seen == list(SAMPLE[:-1])  # the last was not run
    tab.click("a[rel=prev]")
    tab.click("nav >> text=01 Effectiveness")
    tab.click("nav >> text=Index")
    tab.wait_for_load_state()
    assert tab.url.endswith("/index.html")
    assert watched.faults == []
    tab.close()


@pytest.mark.browser
def test_keyboard_reaches_the_content_first(browser, sample):
    watched = Watched(browser)
    watched.open(sample / PAGES[1])
    watched.tab.keyboard.press("Tab")
    assert watched.tab.evaluate("document.activeElement.className") == "skip"
    assert watched.tab.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    watched.tab.close()


CONTRAST = """
() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(back(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(e.className + ': ' + walker.currentNode.data.slice(0, 30));
  }
  return poor;
}
"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_text_has_contrast(browser, sample, path, scheme):
    """WCAG AA, 4.5 to 1, for all text, code included."""
    watched = Watched(browser, scheme=scheme)
    watched.open(sample / path)
    for details in watched.tab.query_selector_all("details:not([open]) > summary"):
        details.click()
    assert watched.tab.evaluate(CONTRAST) == []
    watched.tab.close()
