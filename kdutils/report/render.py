"""An executed notebook as a page that opens from disk: no script, no request, no network."""

import copy
import functools
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_output
from pygments.formatters import HtmlFormatter

from kdutils.io import text_safety

TEMPLATES = Path(__file__).parent / "templates"
# Of several forms of one output, the first of these is shown; scripts and widgets are not among them.
DISPLAYED = ["text/html", "text/markdown", "image/png", "image/jpeg", "image/svg+xml", "text/plain"]
ACTIVE = (  # elements that no page has: they run, load, lead away or send
    *("script", "iframe", "frame", "frameset", "object", "embed", "applet", "link", "base", "meta", "form"),
    *("audio", "video", "source", "track", "template", "noscript"),
)
LOADED = ("src", "srcset", "srcdoc", "poster", "background", "ping", "action", "formaction", "data")
# What may need a closer look; a false alarm costs only time.
SUSPECT = re.compile(
    rf"<(?:{'|'.join(ACTIVE)})\b"
    r"|<[^<>]*[\s\"'/]on[a-z]+\s*="
    rf"|<[^<>]*[\s\"'/](?:{'|'.join(LOADED)})\s*=\s*+[\"']?+(?!data:image/)"
    r"|<[^<>]*[\s\"'/:]href\s*=\s*+[\"']?+(?!https?://|#|(?:\.\./)?[\w./-]+\.(?:html|ipynb|png|svg|csv)[\"'])",
    flags=re.IGNORECASE,
)
SILENT = "These results have nothing to show here."
FOLLOWED = re.compile(r"(?:https?:|mailto:|#|(?![^/?#]*:))", flags=re.IGNORECASE)  # what a link may lead to


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one notebook."""

    name: str
    status: str  # done, failed or not_run
    seconds: float | None = None
    error: str = ""  # one line: class and message
    finished: str = ""  # UTC, to the second
    changed: dict[str, Any] = field(default_factory=dict)  # parameters that differ from their defaults

    @property
    def page(self) -> str | None:
        """Its page in the folder of reports; None if it has not run."""
        return {"done": f"{self.name}.html", "failed": f"{self.name}.failed.html"}.get(self.status)


def label(name: str) -> str:
    """A notebook's name for reading: `02 Size correlation`."""
    number, _, words = name.partition("_")
    return f"{number} {words.replace('_', ' ').capitalize()}"


def duration(seconds: float) -> str:
    """`12 s`, or `2 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{max(rest, 1)} s"


def to_html(
    notebook: NotebookNode, *, name: str, results: Sequence[Result], facts: Mapping[str, str], failed: bool
) -> str:
    """The page of an executed notebook.

    Args:
        results: of all notebooks of the profile, for the navigation.
        facts: the status strip, in its order.
        failed: show what went to stderr, and do not link to figure files, which are gone.
    """
    own = {"template_name": "kdutils_report", "extra_template_basedirs": [str(TEMPLATES)]}
    exporter = HTMLExporter(**own, exclude_anchor_links=True)
    exporter.display_data_priority = DISPLAYED
    notebook = copy.deepcopy(notebook)
    for last in () if failed else _ends_of_silent_sections(notebook):
        last.outputs.append(new_output("display_data", {"text/html": f'<p class="caption">{SILENT}</p>'}))
    cells, _ = exporter.from_notebook_node(notebook, {"failed": failed})
    sources = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+?) *$", sources, flags=re.MULTILINE)
    title = f"{heading[1] if heading else label(name)} · kdutils"
    main = _without_active(cells)
    return page("page.html.j2", title=title, results=results, current=name, facts=facts, main=main)


def _ends_of_silent_sections(notebook: NotebookNode) -> list[NotebookNode]:
    """The last code cell of each section (##) whose code cells show nothing."""
    sections: list[list[NotebookNode]] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        elif cell.cell_type == "code" and sections:
            sections[-1].append(cell)
    names = [[out.get("name") for cell in cells for out in cell.outputs] for cells in sections]
    return [cells[-1] for cells, own in zip(sections, names, strict=True) if cells and {*own} <= {"stderr"}]


def page(template: str, *, results: Sequence[Result], current: str | None, **values: Any) -> str:
    """The template in the frame that every page has; `current` is None for the index."""
    frame = {"results": results, "wide": False, "facts": {}, "main": "", "style": _style()}
    text = _environment().get_template(template).render(frame | _navigation(results, current) | values)
    return text.replace("\0", "\u2400")  # no text file holds a null byte


def relink(markup: str, *, name: str, results: Sequence[Result]) -> str:
    """`markup` with its navigation rebuilt, since other reports have appeared or failed."""
    parts = _navigation(results, name)
    return re.sub(
        r"<!-- (navigation|onward) -->.*?<!-- /\1 -->",
        lambda match: f"<!-- {match[1]} -->{parts[match[1]]}<!-- /{match[1]} -->",
        markup,
        flags=re.DOTALL,
    )


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"label": label, "duration": duration, "sentence": sentence}
    environment.filters["words"] = lambda key: key.replace("_", " ")
    return environment


@functools.cache
def _style() -> Markup:
    """The style sheet, with the colours of code for light and dark."""
    sheet = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    light = HtmlFormatter(style="xcode").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    plain = ".highlight, .highlight .err { background: none; }"
    return Markup(f"{sheet}{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{plain}")


def _navigation(results: Sequence[Result], current: str | None) -> dict[str, str]:
    """HTML of the bar and of the foot, by the names of their places in a page."""
    there = [result for result in results if result.page or result.name == current]
    place = [result.name for result in there].index(current) if current else -1
    values = {"results": results, "current": current, "folder": "" if current else "reports/"}
    values["previous"] = there[place - 1] if place > 0 else None
    values["next"] = there[place + 1] if place + 1 < len(there) else None
    templates = {part: _environment().get_template(f"{part}.html.j2") for part in ("navigation", "onward")}
    return {part: Markup(template.render(values)) for part, template in templates.items()}


def sentence(text: str) -> Markup:
    """One line of Markdown as HTML in which bold, italics and code stay; all else is text."""
    markup = html.escape(text_safety.visible(text))
    for pattern, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em"), (r"`(.+?)`", "code")):
        markup = re.sub(pattern, rf"<{tag}>\1</{tag}>", markup)
    return Markup(markup)


def _without_active(markup: str) -> Markup:
    """What a library or a model wrote may hold what runs, loads or leads away; it is taken out."""
    markup = markup.replace("\0", "\u2400")
    if SUSPECT.search(markup):
        soup = BeautifulSoup(markup, "html.parser")
        for element in soup(ACTIVE):
            element.decompose()
        for element in soup(True):
            for name in [name for name in element.attrs if _is_active(name.lower(), element[name])]:
                del element[name]
        markup = str(soup)
    return Markup(markup)


def _is_active(name: str, value: str | list[str]) -> bool:
    text = "".join("".join(value).split())  # browsers drop line ends and tabs within an address
    if name in LOADED:
        return not (name == "src" and text.lower().startswith("data:image/"))
    return name.startswith("on") or (name.endswith("href") and not FOLLOWED.match(text))
