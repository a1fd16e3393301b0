"""What a notebook calls: `run = notebook_api.begin(name, globals())`, shows, collects, `run.finish()`.

Nothing that a notebook makes is seen under its final name before `finish`.
"""

import base64
import html
import io
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

import kdutils
from kdutils.grid.profile import folder_of
from kdutils.grid.study import SHARED_FOLDERS
from kdutils.io import disk, environment, text_safety
from kdutils.io.cache import CachedTables
from kdutils.io.disk import REPOSITORY
from kdutils.io.environment import RUN_TOKEN
from kdutils.report import html_tables, ledger, notebook_parameters
from kdutils.report.notebook_parameters import ParameterError

BEGUN = "_kdutils_begun"  # name in the notebook's namespace: this kernel has passed the check for strangers
PNG_DPI = 160
N_NAMED = 10  # figure files whose names are said at the end of a run; of more, their number
# With an engine, even one that does nothing, savefig would draw every file twice.
LAID_OUT = {"figure.constrained_layout.use": False, "figure.autolayout": False}
SCREEN_DPI = 120  # so that 9 pt on paper is as large as the text around it on a screen
FOLDERS = ("figures", "ledger", "reports", ".partial")  # inside the folder of a profile
LOCK = ".partial/.run"  # inside that of a profile; may be absent
LITERALS = (str, bytes, int, float, type(None), list, dict)  # what papermill can inject


def begin(
    name: str, namespace: dict[str, Any], *, notebooks: Path | str = notebook_parameters.NOTEBOOKS
) -> "Report":
    """The report of notebook `name`, once its parameters are known to be what it declares.

    Call it in the cell after the parameters, before any work, with `globals()`. A list may be text such as
    a,b or JSON. The first time in a kernel, any other public name that holds a plain value is refused: only
    an undeclared or misspelt parameter can have put it there. Later such names are the notebook's own.

    Raises:
        ParameterError: for a parameter that is missing, undeclared, or not of the declared type or an allowed
            value, and if the output folder cannot be written.
    """
    declared = notebook_parameters.declared(Path(notebooks) / f"{name}.ipynb")
    if namespace.get(BEGUN) != name:
        known = {"In", "Out", *declared}  # the first two are IPython's
        for other, value in namespace.items():
            if other not in known and not other.startswith("_") and isinstance(value, LITERALS):
                error = notebook_parameters.undeclared(other, declared)
                raise ParameterError(f"{error}; if it is left over from other work, restart the kernel")
    values = {}
    for parameter in declared.values():
        if parameter.name not in namespace:
            raise ParameterError(f"{parameter.name!r} is not set; run the parameters cell first")
        value = namespace[parameter.name]
        if parameter.is_list and type(value) in (str, int, float):  # papermill -p knows no lists
            value = namespace[parameter.name] = notebook_parameters.coerce(parameter, str(value))
        values[parameter.name] = notebook_parameters.strict(parameter, value)
    if missing := {"profile", "out"} - set(values):
        raise ParameterError(f"{name} does not declare {sorted(missing)}; every notebook must, as str")
    folder = writable_folder(values["out"], values["profile"])
    namespace[BEGUN] = name
    own = {each.name: each.default for each in declared.values() if each.name not in ("profile", "out")}
    return Report(name, values, folder, changed={key: values[key] for key in own if values[key] != own[key]})


def writable_folder(out: Path | str, profile: str) -> Path:
    """`out`/`profile`, made if missing; a relative `out` is taken from the repository root.

    Raises:
        ParameterError: if it cannot be written, or if it or a folder in it leads out of `out`.
    """
    if not str(out):
        raise ParameterError("out is empty; give a folder such as outputs")
    try:
        root = (REPOSITORY / Path(out).expanduser()).resolve()
    except (RuntimeError, ValueError) as error:  # the home of nobody, a null byte
        name = text_safety.shown(str(out))
        raise ParameterError(f"out={name} is no folder ({error}); give another") from None
    folder = root / folder_of(profile)
    made = [folder, *(folder / part for part in FOLDERS)]
    try:
        for place in (*made, folder / LOCK, *(root / part for part in SHARED_FOLDERS)):
            if not place.resolve().is_relative_to(root):
                raise ParameterError(f"{place} leads out of {root}; delete that link")
        for place in made:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()  # to try is the only test that root cannot fool
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ParameterError(f"{root} cannot be written ({reason}); choose another out") from None
    return folder


class Report:
    """What one execution of a notebook shows and finds; nothing of it is published before `finish`."""

    def __init__(
        self, name: str, parameters: Mapping[str, Any], folder: Path, *, changed: Mapping[str, Any]
    ) -> None:
        """`changed`: the parameters, but profile and out, that are not at their defaults."""
        self.name, self.changed = name, changed
        self.inputs: dict[str, str] = {}  # SHA-256 of what the figures are drawn from
        self.parameters = SimpleNamespace(**parameters)
        self.folder = folder
        self.kept = CachedTables(folder.parent / "cache" / "tables")
        self._figures: dict[str, tuple[bytes, bytes, pd.DataFrame, str, str]] = {}  # ..., alt, caption
        self._statistics: list[pd.DataFrame] = []
        self._claims: dict[tuple, dict[str, Any]] = {}
        self._conclusions: list[str] = []

    def figure(self, fig: Figure, name: str, *, alt: str, data: pd.DataFrame, caption: str) -> None:
        """Show a figure and keep it as PNG, SVG and the CSV of exactly what is drawn; closes it.

        Args:
            name: unique in the notebook; files are called NN_name, NN being the notebook's number.
            alt: the figure for those who do not see it, with the numbers that matter.
            data: what is drawn; an index that has a name or text becomes columns.

        Raises:
            ValueError: if a part is missing or `alt` holds no digit.
        """
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise ValueError(f"figure name {name!r} must be of a-z, 0-9 and _")
        if not re.search(r"\d", alt) or not caption.strip():
            raise ValueError(f"figure {name} needs a caption, and an alt text with the numbers that matter")
        if data.empty:
            raise ValueError(f"figure {name} needs the rows that it draws")
        stem = f"{number_of(self.name)}_{name}"
        if engine := fig.get_layout_engine():  # savefig would lay out twice a file, and draw
            fig.set_dpi(PNG_DPI)  # text is as wide as in the PNG
            engine.execute(fig)
        png, svg = io.BytesIO(), io.BytesIO()
        with mpl.rc_context(LAID_OUT | {"svg.hashsalt": stem}):  # the ids in an SVG are random without
            fig.set_layout_engine(None)
            fig.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
            fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(fig)
        table = html_tables.with_index(data).copy()
        self._figures[stem] = (png.getvalue(), svg.getvalue(), table, alt, caption)
        alt, caption = text_safety.visible(alt), text_safety.visible(caption)
        width = round(fig.get_figwidth() * SCREEN_DPI)
        image = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": alt}
        display(image, metadata={"image/png": {"alt": alt, "width": width}}, raw=True)
        text = {"text/html": f'<p class="caption">{html.escape(caption)}</p>', "text/plain": caption}
        display(text, metadata={"kdutils": {"figure": stem}}, raw=True)

    def table(self, frame: pd.DataFrame, *, caption: str, **look: Any) -> None:
        """Show a table, nothing of no rows; `look` (formats, daggers) as of html_tables.to_html."""
        if len(frame):
            markup = html_tables.to_html(frame, caption=caption, **look)
            display({"text/html": markup, "text/plain": f"{caption}\n{frame.to_string()}"}, raw=True)

    def remark(self, text: str) -> None:
        """Show a paragraph of Markdown, whose tags and links are text; nothing for ""."""
        if text:
            display(Markdown(text_safety.without_markup(text)))

    def conclusion(self, *sentences: str) -> None:
        """Show what the notebook concludes as a list of Markdown, and keep it, once, for the index; no ""."""
        lines = [" ".join(sentence.split()) for sentence in sentences if sentence.strip()]
        if lines:
            self.remark("### What this says\n\n" + "\n".join(f"- {line}" for line in lines))
        self._conclusions += [line for line in lines if line not in self._conclusions]

    def statistics(self, frame: pd.DataFrame) -> None:
        """Collect tests for `statistics.csv`, checked by `ledger`; a later one replaces an earlier."""
        self._statistics.append(ledger.checked_statistics(frame))

    def claims(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Collect judged claims for `claims.json`, checked by `ledger`; a later one replaces an earlier."""
        self._claims |= ledger.checked_claims(rows)

    def _made_by(self) -> dict[str, Any]:
        """Where the figures come from: the same for the same code, parameters and inputs."""
        words = ["./run_all.sh", self.folder.name, "--only", number_of(self.name)]
        for key, value in self.changed.items():
            words += ["-p", key, value if isinstance(value, str) else json.dumps(value)]
        git, inputs = environment.git_state(), dict(sorted(self.inputs.items()))
        return {"command": shlex.join(words), "kdutils": kdutils.__version__, **git, "inputs": inputs}

    def finish(self) -> None:
        """Publish figures and ledger rows under their final names, then the sentinel that completes them.

        NN_name.json says of a figure alt, caption and `made_by`: command, commit, SHA-256 of the inputs.
        Figures of an earlier execution that were not drawn this time go. Prints what was written.
        """
        statistics, made_by = ledger.merged_statistics(self._statistics), self._made_by()
        sentinel = ledger.sentinel(self.folder, self.name)
        with ledger.locked(self.folder):
            sentinel.unlink(missing_ok=True)
            remove_figures(self.folder, self.name)
            for place, (stem, (png, svg, table, alt, caption)) in enumerate(self._figures.items()):
                path = self.folder / "figures" / stem
                written = [disk.write_bytes(path.with_suffix(".png"), png)]
                written.append(disk.write_bytes(path.with_suffix(".svg"), svg))
                written.append(disk.write_csv(path.with_suffix(".csv"), table))
                facts = {"notebook": self.name, "place": place, "alt": alt, "caption": caption}
                facts |= {"made_by": made_by, "sha256": {each.suffix: disk.sha256(each) for each in written}}
                disk.write_json(path.with_suffix(".json"), disk.sealed(facts))
            problems = ledger.write_parts(self.folder, self.name, statistics, self._claims.values())
            facts = {
                **{"notebook": self.name, "parameters": vars(self.parameters)},
                **{"kdutils": kdutils.__version__, "conclusions": self._conclusions},
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "run_token": os.environ.get(RUN_TOKEN),
                "sha256": ledger.digests(self.folder, self.name),
            }
            disk.write_json(sentinel, facts)
        in_repository = self.folder.is_relative_to(REPOSITORY)
        written = [f"Written to {self.folder.relative_to(REPOSITORY) if in_repository else self.folder}:"]
        written += [f"  figures/{stem}.png .svg .csv" for stem in self._figures]
        written.append(f"  statistics.csv: {len(statistics)} rows of this notebook")
        written.append(f"  claims.json: {len(self._claims)} rows of this notebook")
        print(*problems, *written, sep="\n")


def published_figures(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Notebook, place, alt, caption and PNG path of every published figure, in the order of the reports.

    Damaged ones are left out: for each of them there is a sentence.
    """
    found, problems = [], []
    for path in sorted((folder / "figures").glob("*.json")):
        try:
            figure = json.loads(path.read_text(encoding="utf-8"))
            digests = figure.get("sha256", {})  # none in those of older versions
            is_whole = all(disk.sha256(path.with_suffix(kind)) == digests[kind] for kind in digests)
            is_whole = is_whole and disk.has_whole_seal(figure)
            facts = {name: figure[name] for name in ("notebook", "place", "alt", "caption")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            is_whole = False
        if is_whole:
            found.append(facts | {"png": path.with_suffix(".png")})
        else:
            remedy = f"run notebook {number_of(path.stem)} again"
            problems.append(f"figure {path.stem} is damaged and left out of the index; {remedy}")
    return sorted(found, key=lambda figure: (figure["notebook"], figure["place"])), problems


def figure_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every published PNG and SVG, by file name."""
    paths = sorted(path for path in (folder / "figures").glob("*.*") if path.suffix in (".png", ".svg"))
    return {path.name: disk.sha256(path) for path in paths}


def figure_changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What became of the figures between two times, as `figure_digests` gives them; names of a few."""
    kept = [name for name in before if after.get(name) == before[name]]
    named = {
        "changed": [name for name in before if name in after and after[name] != before[name]],
        "new": [name for name in after if name not in before] if before else [],
        "gone": [name for name in before if name not in after],
    }
    parts = [f"{len(kept)} of {len(after)} figure files are as they were"] if before else []
    for what, names in named.items():
        if len(names) > N_NAMED:
            parts.append(f"{len(names)} {what}")
        elif names:
            parts.append(f"{what}: {', '.join(names)}")
    return "; ".join(parts) or f"{len(after)} figure files, all new"


def remove_figures(folder: Path, notebook: str) -> None:
    """Delete the figures of a notebook."""
    for path in (folder / "figures").glob(f"{number_of(notebook)}_*"):
        path.unlink()


def number_of(notebook: str) -> str:
    """The number that a notebook's name, or that of its figure, begins with: `02`, `01b`."""
    return notebook.partition("_")[0]
