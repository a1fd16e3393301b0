"""Pages that open from disk: no script, no request, no error, readable when narrow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image
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


def test_a_section_that_shows_nothing_says_so_unless_the_notebook_failed():
    def cells(*outputs):
        return [
            nbformat.v4.new_markdown_cell("## Part"),
            nbformat.v4.new_code_cell("1"),
            nbformat.v4.new_code_cell("2", outputs=[nbformat.from_dict(each) for each in outputs]),
        ]

    def said(notebook, **how):
        facts = {"name": RESULTS[0].name, "results": RESULTS, "facts": {}} | how
        return render.to_html(nbformat.v4.new_notebook(cells=notebook), **facts).count(render.SILENT)

    assert said(cells() + cells(stream("stdout", "1")) + cells(stream("stderr", "w")), failed=False) == 2
    assert said(cells(), failed=True) == 0


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
        display({"text/html": html}), display({"application/javascript": "alert(1)", "text/plain": "plain"})
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


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (59.4, "59 s"), (125, "2 min 5 s")])
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


def index(*claims: dict, results: list[Result] | None = None, profile=None, **more) -> BeautifulSoup:
    names = ("01_effectiveness", "02_size_correlation", "03_teacher_quality")
    results = results or [Result(name=name, status="not_run") for name in names]
    provenance = {
        "python": "3.11",
        "git": {"commit": None, "dirty": True},
        "data": dict.fromkeys("abcd", "<sum>"),
    }
    profile = profile or profile_of(*names)
    return BeautifulSoup(index_html(profile, results, list(claims), [], provenance, **more), "html.parser")


def matrix(soup: BeautifulSoup) -> list[list[str]]:
    """The texts of the matrix, row by row."""
    rows = soup.select(".matrix tr")
    return [[" ".join(cell.get_text().split()) for cell in row.find_all(["th", "td"])] for row in rows]


def answers(soup: BeautifulSoup) -> list[str]:
    return [" ".join(each.get_text().split()) for each in soup.select(".answer")]


LIVE = CLAIM | {"source": "live", "protocol": "careful", "decoding": "greedy"}


def test_index_begins_with_a_column_for_each_source_decoding_and_analysis():
    sampled = LIVE | {"decoding": "sampled", "verdict": "inconclusive"}
    strict = LIVE | {"analysis": "strict", "verdict": "not_reproduced"}
    aside = LIVE | {"decoding": "label"}, LIVE | {"id": "H1", "section": "12", "decoding": None}
    soup = index(CLAIM, LIVE, sampled, strict, *aside)
    head, ways, section, row, total = matrix(soup)
    assert head == ["Claim of the paper", "Released", "Live, greedy", "Live, sampled"]
    assert [each["colspan"] for each in soup.select(".matrix [scope=colgroup]")] == ["1", "2", "1"]
    assert ways == ["authors", "authors", "strict", "authors"]
    assert section == ["02 Size correlation"]
    assert row == ["S1 gain <b>falls</b>", "✓", "✓", "✗", "?"]
    assert total == ["All", "✓", "✓", "✗", "?"]
    cells = soup.select(".matrix tbody td")
    assert [cell["class"] for cell in cells] == [
        [f"{each}"] for each in ("reproduced", "reproduced", "not_reproduced", "inconclusive")
    ]
    assert cells[2]["title"] == "Live, greedy, strict: -0.66 [-0.80, -0.40]: not reproduced"
    shown = [tag.get_text() for tag in soup.select(".look .verdicts .tag")]
    assert shown == ["✓ reproduced", "✗ not reproduced", "? inconclusive", "– not testable"]


def test_claims_that_ask_the_same_of_each_task_are_one_row_with_counts():
    tasks = {f"S3.{task}": f"gain falls: {task}" for task in ("AQuA", "AddSub", "SVAMP")}
    rows = [CLAIM | {"id": key, "statement": text} for key, text in tasks.items()]
    rows[1]["verdict"] = "inconclusive"
    *_, row, total = matrix(index(CLAIM, *rows))
    assert row == ["S3 gain falls: 3 tasks", "✓2 ?1"]
    assert total == ["All", "✓3 ?1"]


def test_index_says_in_four_sentences_what_the_verdicts_come_to():
    other = CLAIM | {
        "id": "S2",
        "statement": "it rises",
        "verdict": "not_reproduced",
        "reason": "rho -0.2; x",
    }
    third = other | {"id": "S4"}
    live = profile_of("02_size_correlation")
    live = replace(live, sources=("published", "live"), live=load_profile("mini").live)
    greedy = [LIVE, LIVE | {"id": "S2", "verdict": "not_reproduced"}]
    sampled = [row | {"decoding": "sampled", "verdict": "not_reproduced"} for row in greedy]
    kept = [LIVE | {"analysis": "strict"}, LIVE | {"id": "unknown"}]
    others = {"qwen-small": (kept, "somewhere")}
    said = answers(index(CLAIM, other, third, *greedy, *sampled, profile=live, others=others))
    assert said == [
        "Released results, the authors' analysis. Of 3 claims 1 reproduced, 2 not, 0 inconclusive, 0 not "
        "testable. First reproduced: S1 gain <b>falls</b> (because). First not reproduced: S2 it rises "
        "(rho −0.2).",
        "Released results, the stricter analysis. None in this study. To judge them: ./run_all.sh published",
        "Live, tiny models (a model world). Of 2 claims: greedy, authors 1 reproduced, 1 not, 0 inconclusive"
        ", 0 not testable; sampled, authors 0 reproduced, 2 not, 0 inconclusive, 0 not testable. "
        "First not reproduced by all: S2 gain <b>falls</b>. Reproduced by one and not by another: S1.",
        "Live, real models. Of 1 claims 1 reproduced, 0 not, 0 inconclusive, 0 not testable. First "
        "reproduced: S1 gain <b>falls</b> (because). Not of this study: profile qwen-small, from somewhere.",
    ]


def test_claims_that_some_columns_do_not_judge_are_not_reproduced_by_all():
    profile = replace(profile_of("02_size_correlation"), sources=("live",), live=load_profile("mini").live)
    sampled = LIVE | {"decoding": "sampled"}
    rows = [LIVE | {"id": "S2"}, sampled, sampled | {"id": "S2"}, sampled | {"id": "S3"}]
    said = answers(index(*rows[:3], profile=profile))[2]
    assert said.endswith("First reproduced by all: S2 gain <b>falls</b>.")
    said = answers(index(LIVE | {"verdict": "inconclusive"}, *rows[1:], profile=profile))[2]
    assert "First" not in said


def test_a_study_of_released_results_alone_says_how_to_get_live_ones():
    said = answers(index(CLAIM, others={"mini": ([CLAIM], "nowhere")}))
    assert said[2:] == [
        "Live, tiny models (a model world). None on these claims. To make some: ./run_all.sh mini",
        "Live, real models. None on these claims. To make some: ./run_all.sh qwen-small",
    ]


def test_index_shows_what_each_notebook_concludes_as_text_with_emphasis():
    done = [Result(name="01_effectiveness", status="done"), Result(name="02_size_correlation", status="done")]
    said = {
        "01_effectiveness": ["Gain is **1.3** points.", "It wrote <b>a</b> [b](https://c.d) & $x$."],
        "02_size_correlation": [],
    }
    soup = index(results=done, conclusions=said)
    assert [len(each.select(".says")) for each in soup.select("details.report")] == [1, 0]
    assert soup.select_one(".report summary a")["href"] == "reports/01_effectiveness.html"
    first, second = soup.select(".says li")
    assert [str(part) for part in first.contents] == ["Gain is ", "<strong>1.3</strong>", " points."]
    assert (second.get_text(), second.a, second.b) == (
        "It wrote <b>a</b> [b](https://c.d) & $x$.",
        None,
        None,
    )


def test_index_names_the_family_of_real_models():
    profile = replace(profile_of("01_effectiveness"), sources=("live",), live=load_profile("qwen-small").live)
    soup = index(CLAIM, LIVE | {"analysis": "strict"}, profile=profile)
    assert matrix(soup)[0] == ["Claim of the paper", "Released", "Live, Qwen2.5"]
    assert answers(soup)[3].startswith("Live, real models. Of 1 claims 1 reproduced")


def test_index_shows_each_claim_in_its_section_also_where_the_notebook_is_of_no_study():
    untestable = CLAIM | dict.fromkeys(("estimate", "ci_low", "ci_high", "p_value", "n", "paper_value"))
    soup = index(
        CLAIM, CLAIM | {"id": "S2"}, untestable | {"id": "A1", "section": "04", "verdict": "not_testable"}
    )
    found = {each.summary.b.get_text(): each for each in soup.select("details.report")}
    assert list(found)[1::2] == ["02 Size correlation", "04 Agreement"]
    assert "2 verdicts" in found["02 Size correlation"].summary.get_text()
    rows = [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for name in ("02 Size correlation", "04 Agreement")
        for row in found[name].select("tbody tr")
    ]
    assert rows[0] == [
        "S1",
        "gain <b>falls</b>",
        "−0.66",
        "published · paper · authors",
        "−0.661 [−0.8, −0.4]p = 0.0001, n = 33",
        "✓ reproduced",
        "because",
    ]
    assert rows[2][2:6] == ["—", "published · paper · authors", "—", "– not testable"]


def test_index_without_claims_says_so():
    soup = index()
    assert "No claim has been judged yet." in soup.get_text()
    assert not soup.select(".matrix, .answer")
    own = index(results=[Result(name="17_training", status="done")]).get_text()
    assert "These notebooks judge no claim of the paper." in own and "yet" not in own


def test_index_says_how_many_notebooks_wait_for_their_runs():
    assert index().select(".going-on") == []
    (one,) = index(n_left=1).select(".going-on")
    assert "1 notebook is not there yet; what is said here of it" in one.get_text()
    assert one.find("a") is None
    (two,) = index(n_left=2, has_released=True).select(".going-on")
    assert "2 notebooks are not there yet; what is said here of these" in two.get_text()
    assert two.a["href"] == "../published/index.html"


def test_index_shows_what_became_of_each_notebook_and_first_of_all_what_failed():
    results = [
        Result(name="01_effectiveness", status="done", seconds=3, finished="noon", changed={"seed": "<1>"}),
        Result(name="02_size_correlation", status="failed", seconds=4, error="KeyError: <b>"),
        Result(name="03_teacher_quality", status="not_run"),
    ]
    soup = index(CLAIM, results=results)
    done, failed, not_run = soup.select("details.report")
    assert [a["href"] for a in done.find_all("a")] == [
        f"reports/01_effectiveness.{kind}" for kind in ("html", "ipynb")
    ]
    assert [a["href"] for a in failed.find_all("a")] == [
        f"reports/02_size_correlation.failed.{kind}" for kind in ("html", "ipynb")
    ]
    assert done.summary.get_text().split() == ["01", "Effectiveness", "✓", "done"]
    assert done.p.get_text() == "notebook · 3 s · noon · seed = <1>"
    assert [each.has_attr("open") for each in (done, failed, not_run)] == [False, True, False]
    assert "KeyError: <b>" in failed.get_text()
    assert not_run.find("a") is None
    box = soup.select_one("#failed")
    assert box.find_next("h2")["id"] == "claims"
    said = " ".join(box.get_text().split())
    assert said == "1 of 3 notebooks failed: 02 Size correlation: KeyError: <b>"
    assert not index(CLAIM).select("#failed")


def test_first_figures_are_those_of_the_declared_order_then_any(tmp_path):
    names = ["00_coverage", "01_gain_by_pair_live", "02_gain_by_size", "08_sensitivity", "09_memory"]
    drawn = []
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        notebook = {"02": "02_size_correlation"}.get(name[:2], "01_effectiveness")
        figure = {"png": tmp_path / f"{name}.png", "alt": name, "caption": f"It shows {name}."}
        drawn.append(figure | {"notebook": notebook})

    def first(figures: list[dict]) -> list[str]:
        html = index_html(profile_of("01_effectiveness"), [], [], figures, {})
        return [each["alt"] for each in BeautifulSoup(html, "html.parser").select("#first + .figures img")]

    assert first(drawn) == ["08_sensitivity", "01_gain_by_pair_live", "02_gain_by_size"]
    assert first([drawn[0], drawn[4], drawn[2]]) == ["02_gain_by_size", "00_coverage", "09_memory"]
    assert first(drawn[:1]) == ["00_coverage"]
    assert first([]) == []


def test_index_shows_provenance():
    text = index().select_one("#provenance + dl").get_text()
    assert "commit unknown, dirty yes" in text
    assert "<sum>" in text


def test_index_of_the_sample_is_small_and_embeds_its_figures(sample):
    html = (sample / "index.html").read_text(encoding="utf-8")
    assert len(html) < 5_000_000
    assert [img["alt"] for img in BeautifulSoup(html, "html.parser").find_all("img")] == [
        "Gain falls from 9.8 at 0.5B to 1.3 at 7B."
    ] * 4  # each large among the first, and small in its section


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
def test_failures_and_verdicts_are_on_the_first_screen(browser, sample):
    watched = Watched(browser)
    watched.open(sample / "index.html")
    for selector in ("#failed", ".matrix tbody tr", ".verdicts", ".answer"):
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
