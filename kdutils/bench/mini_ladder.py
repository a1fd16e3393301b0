"""The calibration of the mini family: what its base and SFT models do, beside the targets of CALIBRATION.md.

`python -m kdutils.bench.mini_ladder [--out DIR]`. World, texts and sizes were calibrated on it and on nothing
else: nothing here distils.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import binomtest

from kdutils import encoding, models
from kdutils.constants import ALL_TASKS, AVERAGE, DOMAIN_TASKS, DOMAINS, MATH
from kdutils.data import sources
from kdutils.grid import cell_table, fill
from kdutils.grid.study import DECODINGS, PlannedRun
from kdutils.io import disk
from kdutils.items import Item
from kdutils.mini.family import FAMILY, MINI_MODELS
from kdutils.models import LoadedModel
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

LADDER_FILE = Path(__file__).parents[1] / "mini" / "ladder.csv"
FINE_TUNING = {"train_items": 1_400, "epochs": 3, "batch_size": 4}  # 1,050 steps, as in profile mini
MEASURED = ["domain", "student", "method", "decoding", "task"]  # columns of LADDER_FILE, those of cells
MEASURED += ["n", "accuracy", "accuracy_strict", "accuracy_se"]  # percent
LARGEST = ("mini-qwen-14B", "mini-llama-8B")

# Released average accuracy (authors' decoding and reading): math base, math SFT, commonsense base and SFT.
RELEASED = {
    "Qwen2.5-0.5B": (20.1, 52.8, 5.9, 52.9),
    "Qwen2.5-1.5B": (40.9, 67.5, 9.8, 69.7),
    "Qwen2.5-3B": (45.2, 71.5, 26.3, 77.3),
    "Qwen2.5-7B": (61.2, 77.8, 36.3, 83.3),
    "Qwen2.5-14B": (None, 79.4, None, 87.7),
    "Llama-3.2-1B": (8.0, 42.0, 13.2, 48.0),
    "Llama-3.2-3B": (14.3, 63.3, 13.0, 71.3),
    "Llama-3.1-8B": (None, 71.6, None, 81.0),
}
COLUMNS = [(domain, method) for domain in DOMAINS for method in ("base", "sft")]  # of RELEASED
POINTS = 8.0  # how far an average may be from the released one
ABOVE_CHANCE, AT_MOST, P = 20.0, 90.0, 0.01
NUMBER_CHANCE = 5.0  # percent, of a free number: generous


def planned(items_per_task: int) -> list[PlannedRun]:
    """The base and SFT runs of all models, seed 0, each sampled and greedy."""
    return [
        PlannedRun(
            RunSpec(student=model, method=method, domain=domain, **(FINE_TUNING if method == "sft" else {})),
            EvalSpec(tasks=DOMAIN_TASKS[domain], items_per_task=items_per_task, **decoding),
        )
        for domain, method in COLUMNS
        for model in MINI_MODELS
        for decoding in DECODINGS.values()
    ]


def accuracies(runs: Sequence[PlannedRun], out: Path) -> pd.DataFrame:
    """The cells of the runs, a row a task and their average: MEASURED."""
    rows = []
    for run, spec in zip(runs, sources.resolved_all(run.spec for run in runs), strict=True):
        rows += cell_table.rows_of(out, run.evaluation, [spec])
    return cell_table.cell_table(rows)[MEASURED]


def ladder(table: pd.DataFrame) -> pd.DataFrame:
    """Sampled average accuracy of every model beside that of the released model it stands for."""
    wanted = table[(table["task"] == AVERAGE) & (table["decoding"] == "sampled")]
    found = wanted.set_index(["student", "domain", "method"])["accuracy"]
    rows = []
    for place, model in enumerate(FAMILY):
        below = FAMILY[place - 1].name if place else ""
        for (domain, method), target in zip(COLUMNS, RELEASED[model.stands_for], strict=True):
            value = found[model.name, domain, method]
            is_met = abs(value - target) <= POINTS if target else value >= found[below, domain, method]
            rows.append((model.name, domain, method, target, round(value, 1), is_met))
    return pd.DataFrame(rows, columns=["student", "domain", "method", "released", "value", "met"])


def signal(table: pd.DataFrame) -> pd.DataFrame:
    """For every task, greedy after SFT: the family's largest and smallest models, how many beat chance."""
    wanted = table[table["student"].isin([model.name for model in FAMILY]) & (table["task"] != AVERAGE)]
    wanted = wanted[(wanted["method"] == "sft") & (wanted["decoding"] == "greedy")]
    found = wanted.set_index(["task", "student"])
    smallest, rows = [model.name for model in FAMILY if model.name.endswith(("0.5B", "-1B"))], []
    for task in wanted["task"].unique():
        options = ALL_TASKS[task].options
        chance = 100 / len(options) if options else NUMBER_CHANCE
        cells = found.loc[task]
        above = [
            binomtest(round(n * accuracy / 100), int(n), chance / 100, alternative="greater").pvalue < P
            for n, accuracy in zip(cells["n"], cells["accuracy"], strict=True)
        ]
        largest, small = cells.loc[LARGEST[0], "accuracy"], cells.loc[smallest, "accuracy"].max()
        is_met = largest >= chance + ABOVE_CHANCE and small <= AT_MOST and sum(above) >= 6
        rows.append((task, round(chance, 1), largest, small, sum(above), is_met))
    names = ["task", "chance", LARGEST[0], "larger of the smallest", "above chance", "met"]
    return pd.DataFrame(rows, columns=names)


@torch.no_grad()
def entropy_and_nll(model: LoadedModel, items: Sequence[Item], spec: RunSpec) -> tuple[float, float]:
    """Of a model on the items' own responses, EOS included: mean entropy, mean NLL; nats a token."""
    encoded = encoding.encode(items, model.tokenizer, **spec.encoding).with_format("arrow")
    entropy = nll = n_tokens = 0.0
    for start in range(0, len(items), 32):
        rows = range(start, min(start + 32, len(items)))
        batch = encoding.collate(encoded, rows, pad_id=model.pad_id)
        logits_NV = model.head.logits(model.scoring_states(batch))[:, : model.vocabulary_size]
        log_NV, target_N = logits_NV.float().log_softmax(-1), batch.input_ids_BT[batch.scored_BT]
        entropy -= float((log_NV.exp() * log_NV).sum())
        nll -= float(log_NV.gather(1, target_N[:, None]).sum())
        n_tokens += len(target_N)
    return entropy / n_tokens, nll / n_tokens


def entropies(runs: Sequence[PlannedRun], out: Path) -> pd.DataFrame:
    """`entropy_and_nll` of every tuned model on the test items of its domain."""
    rows = {}
    for run, spec in zip(runs, sources.resolved_all(run.spec for run in runs), strict=True):
        if spec.method == "sft" and (spec.domain, spec.student) not in rows:
            model = models.load(str(store.folder_of(out, spec.run_id).model))
            items = sources.test_items(spec, run.evaluation)
            rows[spec.domain, spec.student] = entropy_and_nll(model, items, spec)
    found = pd.DataFrame(rows, index=["entropy", "nll"]).T.rename_axis(["domain", "student"])
    return found.round(3).reset_index()


def main() -> None:
    """Make the `planned` runs; write their accuracies and print what the targets ask for.

    Raises:
        RuntimeError: if a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=disk.OUTPUTS, help="where the runs are kept")
    parser.add_argument("--csv", type=Path, default=LADDER_FILE, help="where the accuracies go")
    parser.add_argument("--items", type=int, default=200, help="test items a task")
    asked = parser.parse_args()
    runs = planned(asked.items)
    state = fill.fill(runs, asked.out)
    if state.failures:
        raise RuntimeError(str(state))
    table = accuracies(runs, asked.out)
    disk.write_csv(asked.csv, table.round(2))
    found = entropies(runs, asked.out)
    for part in (ladder(table), signal(table), found[found["domain"] == MATH]):
        print(part.to_string(index=False), end="\n\n")


if __name__ == "__main__":
    main()
