"""Small notebooks that behave well or badly, and a profile of them."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from kdutils.grid.profile import Profile
from kdutils.report import runner

PARAMETERS = """\
profile: str = "published"  # which results
out: str = "outputs"  # where they go
selection: str = "best_on_test"  # how a temperature is chosen
"""


def write_notebook(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook in `folder`: a title, the parameters, `report.begin`, then `cells` of code."""
    begin = "from kdutils.report import notebook_api\n"
    begin += f'run = notebook_api.begin("{name}", globals(), notebooks="{folder}")'
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(f"# What does {name} show?"),
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *(nbformat.v4.new_code_cell(source) for source in (begin, *cells)),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def profile_of(*notebooks: str) -> Profile:
    """A profile with these notebooks, under a name that parameters may have."""
    return Profile(
        name="published",
        title="A sample",
        summary="Made for tests.",
        sources=("published",),
        notebooks=notebooks,
    )


DRAW = """\
import matplotlib.pyplot as plt, pandas as pd
data = pd.DataFrame({"size": [0.5, 1.5, 3, 7], "gain": [9.8, 5.1, 2.2, 1.3]})
fig, ax = plt.subplots(figsize=(6.3, 3.2), layout="constrained")
ax.plot(data["size"], data["gain"], marker="o")
run.figure(fig, "gain", alt="Gain falls from 9.8 at 0.5B to 1.3 at 7B.", data=data, caption="Gain by size.")
"""
TABLE = """\
columns = {f"a_long_name_for_column_{place}": 1 / (place + 3) for place in range(12)}
run.table(data.assign(answer="<script>alert(1)</script>", **columns), caption="Gains <by> size")
data.assign(**columns)
"""
COLLECT = """\
key = dict(test="t", source="published", selection=run.parameters.selection, domain="math", group="all")
run.statistics(pd.DataFrame([
    dict(key, section=section, task=task, statistic=0.1 + 0.2, p_value=0.5, n=33)
    for section, task in [("{section}", "aqua"), ("09", "shared")]
]))
judged = dict(section="{section}", source="published", protocol="paper", analysis="authors")
found = dict(estimate=-0.66, ci_low=-0.8, ci_high=-0.4, p_value=1e-4, n=33, paper_value="-0.66, p 0.0")
said = dict(statement="gain <i>falls</i> with size", reason="A reason that has to wrap on a narrow page.")
run.claims([
    dict(judged, **found, **said, id="{section}." + verdict, verdict=verdict)
    for verdict in ("reproduced", "not_reproduced", "inconclusive", "not_testable")
])
"""
SAMPLE_OUT = "out {x}"  # papermill would fill braces in
SAMPLE = (
    "01_effectiveness",  # done
    "02_size_correlation",  # done, with a row of the ledger that 01 has too
    "03_teacher_quality",  # raises, after an earlier success
    "04_agreement",  # its kernel is killed half-way
    "05_fidelity",  # never calls finish
    "06_noise",  # raises after finish
    "07_temperature",  # not asked for
)


def _write_sample(folder: Path) -> None:
    def collect(section: str) -> str:
        return COLLECT.replace("{section}", section)

    stderr = 'import sys; print("a note on stderr", file=sys.stderr); print(sys.executable)'
    write_notebook(folder, SAMPLE[0], stderr, DRAW, TABLE, collect("01"), "run.finish()")
    write_notebook(folder, SAMPLE[1], DRAW, collect("02"), "run.finish()")
    secret = "hf_" + "a" * 30
    failing = f'print("{secret}", file=sys.stderr)\nraise KeyError("no <b>gain</b> for {secret}")'
    write_notebook(folder, SAMPLE[2], "import sys", failing, "run.finish()")
    write_notebook(folder, SAMPLE[3], DRAW, "import os; os.kill(os.getpid(), 9)", "run.finish()")
    write_notebook(folder, SAMPLE[4], DRAW)
    write_notebook(folder, SAMPLE[5], DRAW, collect("06"), "run.finish()", "1 / 0")
    write_notebook(folder, SAMPLE[6], "run.finish()")


def _pretend_earlier_success(out: Path, notebook: str) -> None:
    """The files of a success of another run, sentinel included."""
    folder = out / "published"
    for path in (f"reports/{notebook}.ipynb", f"reports/{notebook}.html", f"figures/{notebook[:2]}_old.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("of an earlier run")
    (folder / "ledger").mkdir(exist_ok=True)
    (folder / "ledger" / f"{notebook}.done.json").write_text(json.dumps({"run_token": "earlier"}))
    (folder / "ledger" / f"{notebook}.claims.json").write_text("[]")


def _pretend_hostile_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel called python3 that is none, and an IPython profile that sets variables."""
    kernel = home / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "Wrong", "language": "python"}))
    startup = home / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("my_favourite_number = 3")
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))


def run_sample(root: Path) -> None:
    """Run the sample profile as a user with a hostile Jupyter, over results of an earlier run."""
    folder, out = root / "notebooks", root / SAMPLE_OUT
    folder.mkdir()
    _write_sample(folder)
    for notebook in (SAMPLE[2], SAMPLE[4]):
        _pretend_earlier_success(out, notebook)
    with pytest.MonkeyPatch.context() as monkeypatch:
        _pretend_hostile_user(root / "home", monkeypatch)
        runner.run_profile(
            profile_of(*SAMPLE),
            out=out,
            only=[name[:2] for name in SAMPLE[:-1]],
            overrides={"selection": "temperature_1"},
            jobs=3,
            notebooks=folder,
            data=list(folder.iterdir()),
        )
