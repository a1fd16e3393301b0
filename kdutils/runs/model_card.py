"""The model card of a trained student: what its folder says of itself on a hub.

Written beside the weights when the run is evaluated, from what is on this disk alone. It is not among the
files whose digests a run records, so that it may be written again.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.adapters import masked
from kdutils.constants import ADAPTER_FIELDS, ADAPTERS, ALL_TASKS, MASKS, MINI, USED_BY
from kdutils.data import tokenizers
from kdutils.data.benchmark import SOURCES
from kdutils.data.model_facts import licence
from kdutils.data.model_files import HUB_ID
from kdutils.data.options import SCORINGS
from kdutils.io import disk
from kdutils.io.disk import DamagedError
from kdutils.items import PROMPT
from kdutils.runs import comparison
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import RunFolder
from kdutils.spec import EvalSpec, RunSpec

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2505.15442"
UNKNOWN_LICENCE = "; the files that were at hand do not state it: look it up before use."
READINGS = {  # a measure -> what it is; others go by their own name
    "correct": "accuracy",
    "correct_strict": "accuracy, answer only where it is announced",
    "correct_normalised": "accuracy, log-probability per character",
    "rouge_l": "ROUGE-L F1",
}


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
    return spec.data if spec.data in (MINI, *SOURCES) else Path(spec.study_file).stem or Path(spec.data).name


def shown_name(model: str) -> str:
    """The name of a model without the path to it."""
    return model if hub_id(model) else Path(model).name


def settings(spec: RunSpec) -> dict[str, Any]:
    """The fields of a spec that have an effect on the run, without paths of this machine."""
    without = (*spec.APART, *(set(ADAPTER_FIELDS) - set(ADAPTERS[spec.adapter].fields)))
    if (spec.data, spec.domain) != (MINI, "math"):
        without += ("wrong_rationale_share",)
    found = {
        name: value
        for name, value in spec.to_dict().items()
        if value not in (None, "")
        and (name not in USED_BY or USED_BY[name](spec.recipe))
        and not name.startswith(without)
    }
    own = {"student": shown_name(spec.student), "data": data_name(spec)}
    return found | own | ({"teacher": shown_name(spec.teacher)} if spec.teacher else {})


def decoding(evaluation: EvalSpec) -> str:
    """How the answers of an evaluation came about."""
    rotated = f", options moved on by {evaluation.rotation}" * (evaluation.rotation > 0)
    if evaluation.scoring != "generation":
        return f"options ranked by log-probability of {SCORINGS[evaluation.scoring]}{rotated}"
    how = "greedy"
    if evaluation.temperature > 0:
        how = f"{evaluation.samples} sampled at temperature {evaluation.temperature:g}"
        how += f" and top-p {evaluation.top_p:g}" * (evaluation.top_p < 1)
    return f"{how}, up to {evaluation.max_new_tokens} tokens{rotated}"


def card(inputs: Inputs, folder: RunFolder) -> str:
    """The text of the card, with the numbers of every evaluation that the run has."""
    from huggingface_hub import EvalResult, ModelCardData

    spec = inputs.spec
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
        base_model_relation=base and ("finetune" if spec.adapter == "full" or spec.detached else "adapter"),
        **(of_parent or {"license": "other", "license_name": "unknown"}),
        library_name=_library(spec),
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
    return f"---\n{data.to_yaml()}\n---\n\n{_text(inputs, folder, scores, bool(of_parent))}"


def _text(inputs: Inputs, folder: RunFolder, scores: pd.DataFrame, is_stated: bool) -> str:
    spec, facts, result = inputs.spec, settings(inputs.spec), folder.result()
    facts |= {name: result[name] for name in ("learning_rate", "steps")} | {"items": result["fingerprint"]}
    first = "SFT and then " * (spec.student_start == "sft")
    first += f"training on {spec.first_domain} items and then " * bool(spec.first_domain)
    kind = spec.student_build.partition("_")[0]
    of = {"": "", "hybrid": ", with linear attention,"}.get(kind, ", made smaller,")
    about = f"`{facts['student']}`{of} after {first}{_method(spec)} on {spec.domain} items"
    terms = f"`{facts['student']}`" + (", as its files state it." if is_stated else UNKNOWN_LICENCE)
    if spec.teacher:
        tuned = f"tuned on the same items, seed {spec.teacher_seed}" if spec.teacher_tuned else "as it is"
        about += f", with `{facts['teacher']}` as its teacher ({tuned})"
        stated = licence(inputs.teacher).get("license", "not stated by its files")
        terms += f" The teacher's, whose terms may bind its students: {stated}."
    if result["status"] == "diverged":
        about = f"**Its training diverged: {result['reason']}.** {about}"
    world = " They are of a generated world, and the model knows no other." if spec.data == MINI else ""
    listed = "\n".join(f"- `{name}`: {value}" for name, value in facts.items())
    return f"""# {spec.run_id}

{about}. Made with kdutils, an executable study of [knowledge distillation]({PAPER}).

## How to load it

```python
{_code(spec, folder.model)}
```

## Numbers

{_numbers(scores)}

## Training

{listed}

## Licence

That of {terms}

## Limits

The numbers hold for these items, this prompt and this decoding; standard errors are over items, not over
training seeds.{world} Nothing else was tested: no other tasks, no conversations, no safety, no bias.
"""


def _library(spec: RunSpec) -> str:
    if spec.stores_whole_model or spec.adapter in MASKS:
        return "transformers"
    return "kdutils" if spec.student_build else "peft"


def _method(spec: RunSpec) -> str:
    """Its label; of what the authors' code calls SeqKD what it is, since `seqkd` is another method."""
    name, marked, note = spec.recipe.label.partition("†")
    return note.strip(" ()") if marked else name


def _numbers(scores: pd.DataFrame) -> str:
    if scores.empty:
        return "It has not been evaluated."
    lines = ["| task | measure | decoding | % | standard error | n |", "|---|---|---|--:|--:|--:|"]
    for row in scores.itertuples():
        se = f"{100 * row.se:.1f}" if row.n > 1 else ""
        about = [ALL_TASKS[row.task].label, READINGS.get(row.measure, row.measure), row.decoding]
        lines.append(f"| {' | '.join([*about, f'{100 * row.value:.1f}', se, str(row.n)])} |")
    return "\n".join(lines)


def _code(spec: RunSpec, folder: Path) -> str:
    """Lines that load the model and ask it one question, with this folder as the working directory."""
    declared = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
    tokenizer = "PreTrainedTokenizerFast" if declared in tokenizers.GENERIC else "AutoTokenizer"
    base, imports = spec.student, ["AutoModelForCausalLM", tokenizer]
    load, more = 'AutoModelForCausalLM.from_pretrained(".")', []
    if not spec.stores_whole_model:
        load = f"AutoModelForCausalLM.from_pretrained({base!r})"
        if not hub_id(base):  # a name of ours, a folder or a file
            load, imports = f"models.load({base!r}).network", imports[1:]
            more = ["from kdutils import models"]
        if spec.student_build:
            form = f'{spec.student_build!r}, {spec.build_compression!r}, "."'
            load, imports = f"built.loaded(models.load({base!r}), {form}).network", imports[-1:]
            more = ["from kdutils import models", "from kdutils.builds import built"]
        if (folder / "adapter_config.json").is_file():
            load, more = f'PeftModel.from_pretrained({load}, ".")', [*more, "from peft import PeftModel"]
    loads = f"""tokenizer = {tokenizer}.from_pretrained(".")  # or the name of this model on the hub
model = {load}
"""
    if spec.adapter in MASKS:
        network = "model.get_base_model()" if "peft" in load.lower() else "model"
        more = [*more, "from safetensors.torch import load_file"]
        loads += f"""entries, weights = load_file("{masked.FILE}"), dict({network}.named_parameters())
for name in {{key.rpartition(".")[0] for key in entries}}:
    place = entries[name + ".index"].long()
    weights[name].data.view(-1)[place] = entries[name + ".values"].to(weights[name])
"""
    asks, plain = f'PROMPT = {PROMPT!r}\ntext = PROMPT.format(instruction="What is 2 plus 3 ?")', ""
    if spec.prompt == "chat":
        asks = """chat = [{"role": "user", "content": "What is 2 plus 3 ?"}]
how = {"enable_thinking": False, "thinking": False, "date_string": "26 Jul 2024"}  # as in training
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **how)"""
        plain = "add_special_tokens=False, "  # the template has them
    prompt = loads + asks
    return f"""{"".join(line + chr(10) for line in more)}from transformers import {", ".join(imports)}

{prompt}
ids = tokenizer(text, {plain}return_tensors="pt")["input_ids"]
how = {{"max_new_tokens": 96, "do_sample": False, "eos_token_id": tokenizer.eos_token_id}}
made = model.generate(input_ids=ids, **how)
print(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))"""
