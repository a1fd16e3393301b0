"""Parts of a plan: together everything, and nothing twice but what they share."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from kdutils.grid import fill
from kdutils.grid.jobs import Shard, jobs_of
from kdutils.report import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return tiny.plan(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize(
    "text", ["", "2", "0/4", "5/4", "0/0", "-1/4", "1/4/2", "1.0/4", "a/b", " 1/4", "²/3"]
)
def test_what_is_no_shard_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=re.escape("give")):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_shards_are_disjoint_and_together_everything(plan, count):
    jobs = jobs_of(plan)
    parts = [Shard(index, count).own(jobs) for index in range(1, count + 1)]
    assert sorted(run_id for part in parts for run_id in part) == sorted(jobs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for index, own in enumerate(parts, start=1):
        made = Shard(index, count).jobs(jobs)
        assert set(own) <= set(made)
        assert all(needed in made for job in made.values() for needed in job.needs)
        assert {run_id for run_id in made if run_id not in own} <= {tiny.teacher_id(plan)}


def test_the_order_of_the_plan_does_not_matter(plan):
    there, back = jobs_of(plan), jobs_of(plan[::-1])
    assert set(Shard(1, 2).own(there)) == set(Shard(1, 2).own(back))


def test_a_shared_teacher_is_made_once(plan, tmp_path, inline, begun):
    first, second = (fill.fill(plan, tmp_path, workers=1, shard=Shard(index, 2)) for index in (1, 2))
    assert first.n_done + second.n_done == len(jobs_of(plan)) == len(begun) == len(set(begun))
    assert second.n_found == 1  # the teacher
    assert fill.fill(plan, tmp_path, workers=1).n_found == 5


# --- the command line ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["smoke", "--shard", "3/2"], "shard 3/2 is not there; give one from 1/2 to 2/2"),
        (["smoke", "--shard", "two"], "shard 'two' is not I/N"),
        (["smoke", "--shard", "1/2", "--dry-run"], "leave out --shard and --engine"),
        (["published", "--shard", "1/2"], "profile 'published' trains nothing; --shard is for those that do"),
        (["published", "--engine", "ray"], "profile 'published' trains nothing; --engine is for those"),
        (["smoke", "--address", "auto"], "--address auto is of a Ray cluster; add --engine ray"),
        (["smoke", "--engine", "dask"], "invalid choice: 'dask'"),
    ],
)
def test_what_makes_no_sense_is_one_line_before_any_work(arguments, complaint, tmp_path, capsys):
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


PRETENDER = """
import json, sys
sys.path.insert(0, {tests!r})
import inline
from kdutils.runs import inputs; from kdutils.report import cli; from kdutils.grid import scheduler, fill
inputs.check = lambda *runs: None
class Pool(inline.InlinePool):
    def __init__(self, do, settings, **ways):
        super().__init__(lambda task, send: scheduler.Outcome("made"), [0], **ways)
    def submit(self, key, task):
        with open({given!r}, "a") as file:
            file.write(json.dumps([sys.argv[-1], key]) + "\\n")
        super().submit(key, task)
fill.Pool, fill._settings = Pool, lambda *asked, **more: []
sys.exit(cli.main([*sys.argv[1:], "--out", {out!r}]))
"""


def test_the_script_of_the_readme_makes_everything_once(tmp_path):
    """The real command line on the plan of profile smoke; only the training is pretended."""
    readme = (ROOT / "kdutils/grid/README.md").read_text()
    (script,) = [
        block for block in re.findall(r"```bash\n(.*?)```", readme, re.S) if "ARRAY_TASK_ID" in block
    ]
    (tmp_path / "shards.sh").write_text(script)
    given = tmp_path / "given"
    code = PRETENDER.format(tests=str(ROOT / "tests"), given=str(given), out=str(tmp_path / "out"))
    (tmp_path / "pretender.py").write_text(code)
    (tmp_path / "run_all.sh").write_text(f'exec {sys.executable} -P {tmp_path}/pretender.py "$@"\n')
    (tmp_path / "run_all.sh").chmod(0o755)
    count = re.search(r"--array=1-(\d+)", script)[1]
    for index in ("1", "2", "3"):
        slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": index}
        slurm |= {"SLURM_ARRAY_TASK_COUNT": "3", "PYTHONPATH": str(ROOT)}
        command = ["bash", str(tmp_path / "shards.sh"), "smoke"]
        run = subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert f"shard {index}/3: " in run.stderr
    assert int(count) > 1
    rows = [json.loads(line) for line in given.read_text().splitlines()]
    plan = cli.runner.needs(
        cli.runner.plan(
            cli.load_profile("smoke"), out=tmp_path, only=[], overrides={},
            notebooks=cli.notebook_parameters.NOTEBOOKS,
        )
    )  # fmt: skip
    jobs = jobs_of(run for each in plan for run in each.to_make)
    shards = {name for name, _ in rows}
    assert shards == {"1/3", "2/3", "3/3"}
    assert {run_id for _, run_id in rows} == set(jobs)
    students = [run_id for _, run_id in rows if not jobs[run_id].is_teacher]
    assert len(students) == len(set(students))
