"""An executed notebook as a page that opens from disk: no script, no request, no network."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from kdutils.grid.profile import Profile
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
FOLLOWED = re.compile(r"(?:https?:|mailto:|#|(?![^/?#]*:))", flags=re.IGNORECASE)  # what a link may lead to


class Link(NamedTuple):
    """One report in the navigation."""

    name: str
    href: str | None  # None if there is no page to open
    failed: bool = False


def label(name: str) -> str:
    """A notebook's name for reading: `02 Size correlation`."""
    number, _, words = name.partition("_")
    return f"{number} {words.replace('_', ' ').capitalize()}"


def duration(seconds: float | None) -> str:
    """`12 s`, or `2 min 5 s`; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{max(rest, 1)} s"


def links(profile: Profile, reports: Path) -> list[Link]:
    """The navigation of a profile: for each notebook the page that is in `reports`, good or failed."""
    found = []
    for name in profile.notebooks:
        good, failed = (reports / f"{name}.html").exists(), (reports / f"{name}.failed.html").exists()
        href = f"{name}.html" if good else f"{name}.failed.html" if failed else None
        found.append(Link(name, href, failed and not good))
    return found


def to_html(
    notebook: NotebookNode,
    *,
    name: str,
    links: Sequence[Link],
    facts: Mapping[str, str],
    failed: bool = False,
) -> str:
    """The page of an executed notebook.

    Args:
        links: all reports of the profile, for the navigation.
        facts: the status strip, in its order.
        failed: show what went to stderr, and do not link to figure files, which are gone.
    """
    exporter = HTMLExporter(
        template_name="kdutils_report",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_anchor_links=True,
    )
    exporter.display_data_priority = DISPLAYED
    cells, _ = exporter.from_notebook_node(notebook, {"failed": failed})
    return page(
        "page.html.j2",
        title=f"{_heading(notebook) or label(name)} · kdutils",
        links=links,
        current=name,
        facts=facts,
        main=_without_active(cells),
    )


def page(template: str, *, links: Sequence[Link], current: str | None, **values: Any) -> str:
    """The template in the frame that every page has; `current` is None for the index."""
    frame = {"wide": False, "facts": {}, "main": "", "style": _style()} | _navigation(links, current)
    text = _environment().get_template(template).render(frame | values)
    return text.replace("\0", "\u2400")  # no text file holds a null byte


def relink(markup: str, *, name: str, links: Sequence[Link]) -> str:
    """`markup` with its navigation rebuilt, for when other reports have appeared or failed since."""
    parts = _navigation(links, name)
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


def _navigation(links: Sequence[Link], current: str | None) -> dict[str, str]:
    """HTML of the bar and of the foot, by the names of their places in a page."""
    there = [link for link in links if link.href or link.name == current]
    place = [link.name for link in there].index(current) if current else -1
    index = "index.html" if current is None else "../index.html"
    values = {
        "links": links,
        "current": current,
        "index": index,
        "previous": there[place - 1] if place > 0 else None,
        "next": there[place + 1] if place + 1 < len(there) else None,
    }
    return {
        part: Markup(_environment().get_template(f"{part}.html.j2").render(values))
        for part in ("navigation", "onward")
    }


def sentence(text: str) -> Markup:
    """One line of Markdown as HTML in which bold, italics and code stay; all else is text."""
    markup = html.escape(text_safety.visible(text))
    for pattern, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em"), (r"`(.+?)`", "code")):
        markup = re.sub(pattern, rf"<{tag}>\1</{tag}>", markup)
    return Markup(markup)


def _heading(notebook: NotebookNode) -> str:
    """Text of the first top heading, empty if there is none."""
    sources = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    match = re.search(r"^# +(.+?) *$", sources, flags=re.MULTILINE)
    return match[1] if match else ""


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
