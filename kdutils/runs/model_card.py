"""The model card of a trained student: what its folder says of itself on a hub.

Written beside the weights when the run is evaluated, from what is on this disk alone. It is not among the
files whose digests a run records, so that it may be written again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.constants import ALL_TASKS, METHOD_LABELS, METHODS
from kdutils.data.benchmark import SOURCES
from kdutils.data.model_facts import licence
from kdutils.data.model_files import HUB_ID
from kdutils.io import disk
from kdutils.io.disk import DamagedError
from kdutils.items import PROMPT
from kdutils.runs import comparison
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import RunFolder
from kdutils.spec import MINI, USED_BY, EvalSpec, RunSpec

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2505.15442"
READINGS = {  # a measure -> what it is; others go by their own name
    "correct": "accuracy",
    "correct_strict": "accuracy, answer only where it is announced",
    "correct_normalised": "accuracy, log-probability per character",
    "rouge_l": "ROUGE-L F1",
}
ELSEWHERE = ("student", "teacher", "data", "method", "domain", "devices")  # of a spec: not among its settings


def write(inputs: Inputs, folder: RunFolder) -> None:
    """Write the card of a finished run; nothing where there are no weights, or a card with a recorded digest.

    Raises:
        OSError: if the folder cannot be written.
    """
    if folder.model.is_dir() and f"model/{CARD}" not in folder.weights():
        disk.write_text(folder.model / CARD, card(inputs, folder))


def hub_id(name: str) -> str | None:
    """The name of a model if that is one of the hub, and no folder or file."""
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def data_name(spec: RunSpec) -> str:
    """Where the items of a run are from, without the path of a folder."""
    return spec.data if spec.data in (MINI, *SOURCES) else Path(spec.data).name


def decoding(evaluation: EvalSpec) -> str:
    """How the answers of an evaluation came about."""
    if evaluation.scoring == "likelihood":
        return "options ranked by log-probability"
    how = "greedy"
    if evaluation.temperature > 0:
        how = f"{evaluation.samples} sampled at temperature {evaluation.temperature:g}"
    return f"{how}, up to {evaluation.max_new_tokens} tokens"


def card(inputs: Inputs, folder: RunFolder) -> str:
    """The text of the card, with the numbers of every evaluation that the run has."""
    from huggingface_hub import EvalResult, ModelCardData

    spec, result = inputs.spec, folder.result()
    scores = [pd.DataFrame()]
    for evaluation in folder.evaluations():
        with contextlib.suppress(DamagedError):  # it is set aside when somebody asks for it
            rows = comparison.measures(folder.evaluation(evaluation))
            scores.append(rows.assign(decoding=decoding(evaluation), split=evaluation.split))
    scores, source = pd.concat(scores, ignore_index=True), data_name(spec)
    of_parent = licence(inputs.student)
    base = hub_id(spec.student)
    data = ModelCardData(
        base_model=base,
        base_model_relation=base and ("adapter" if spec.adapter == "lora" else "finetune"),
        **(of_parent or {"license": "other", "license_name": "unknown"}),
        library_name="peft" if spec.adapter == "lora" else "transformers",
        pipeline_tag="text-generation",
        tags=[*(["knowledge-distillation"] if spec.teacher else []), spec.method, "kdutils"],
        model_name=spec.run_id,
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=row.task if spec.data in SOURCES else f"{source}/{row.task}",
                dataset_name=f"{ALL_TASKS[row.task].label} of {source}",
                dataset_split=row.split,
                metric_type="rouge" if row.measure == "rouge_l" else "accuracy",
                metric_name=f"{READINGS.get(row.measure, row.measure)} ({row.decoding})",
                metric_value=round(100 * row.value, 2),
            )
            for row in scores.itertuples()
        ]
        or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(inputs, result, scores, of_parent)}"


def _text(inputs: Inputs, result: dict[str, Any], scores: pd.DataFrame, of_parent: dict[str, str]) -> str:
    spec = inputs.spec
    method = METHOD_LABELS[spec.method].replace("†", "")  # the paper's mark
    own, teacher = _shown(spec.student), spec.teacher and _shown(spec.teacher)
    without_effect = ("lora_",) if spec.adapter == "full" else ()
    if (spec.data, spec.domain) != (MINI, "math"):
        without_effect += ("wrong_rationale_share",)
    settings = {
        name: value
        for name, value in spec.to_dict().items()
        if name not in ELSEWHERE and not name.endswith(("_source", "_digest")) and value is not None
        if spec.method in USED_BY.get(name, METHODS) and not name.startswith(without_effect)
    } | {"learning_rate": result["learning_rate"], "steps": result["steps"]}
    tuned = (
        f"fine-tuned on the same items with seed {spec.teacher_seed}" if spec.teacher_tuned else "as it is"
    )
    of_teacher = licence(inputs.teacher).get("license", "unknown") if teacher else ""
    ended = (
        "" if result["status"] == "trained" else f"**The training {result['status']}: {result['reason']}.** "
    )
    world = " They are of a generated world, and the model knows nothing else." if spec.data == MINI else ""
    parts = {
        f"# {spec.run_id}": f"{ended}`{own}` after {method} on {spec.domain} items"
        + (f", with `{teacher}` as its teacher ({tuned})" if teacher else "")
        + f". Made with kdutils, an executable study of [knowledge distillation]({PAPER}).",
        "## How to load it": f"```python\n{_code(spec)}\n```",
        "## Numbers": _numbers(scores),
        "## Training": "\n".join(
            [
                f"- Data: `{data_name(spec)}`, {spec.domain}; digest of its files `{spec.data_digest}`, of "
                f"the items trained on `{result['fingerprint']}`",
                *(f"- `{name}`: {value}" for name, value in settings.items()),
            ]
        ),
        "## Licence": (
            f"That of `{own}`, as its files state it."
            if of_parent
            else f"The files of `{own}` that were at hand do not state its licence: look it up before use."
        )
        + (f" The teacher's, whose terms may bind its students: {of_teacher}." if teacher else ""),
        "## Limits": "The numbers hold for these items, this prompt and this decoding; the standard errors "
        f"are over items, not over training seeds.{world} Nothing else was tested: no other "
        "tasks, no chat, no safety, no bias.",
    }
    return "\n\n".join(f"{title}\n\n{text}" for title, text in parts.items()) + "\n"


def _shown(name: str) -> str:
    """The name of a model without the path to it."""
    return name if hub_id(name) else Path(name).name


def _numbers(scores: pd.DataFrame) -> str:
    if scores.empty:
        return "It has not been evaluated."
    lines = ["| task | measure | decoding | % | standard error | n |", "|---|---|---|--:|--:|--:|"]
    for row in scores.itertuples():
        se = f"{100 * row.se:.1f}" if row.n > 1 else ""
        about = [ALL_TASKS[row.task].label, READINGS.get(row.measure, row.measure), row.decoding]
        lines.append(f"| {' | '.join([*about, f'{100 * row.value:.1f}', se, str(row.n)])} |")
    return "\n".join(lines)


def _code(spec: RunSpec) -> str:
    """Lines that load the model and ask it one question, with this folder as the working directory."""
    load = ['model = AutoModelForCausalLM.from_pretrained(".")']
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if spec.adapter == "lora":
        base = f"AutoModelForCausalLM.from_pretrained({spec.student!r})"
        imports.append("from peft import PeftModel")
        if not hub_id(spec.student):
            imports = ["from kdutils import models", "from peft import PeftModel", imports[0]]
            imports[2] = "from transformers import AutoTokenizer"
            base = f"models.load({spec.student!r}).network"
        load = [f'model = PeftModel.from_pretrained({base}, ".")']
    return "\n".join(
        [
            *imports,
            "",
            f"PROMPT = {PROMPT!r}",
            'tokenizer = AutoTokenizer.from_pretrained(".")  # or the name of this model on the hub',
            *load,
            'text = PROMPT.format(instruction="What is 2 plus 3 ?")',
            'ids = tokenizer(text, return_tensors="pt")["input_ids"]',
            "made = model.generate(input_ids=ids, max_new_tokens=96, do_sample=False)",
            "print(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))",
        ]
    )
