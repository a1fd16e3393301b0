"""Our evaluator compared with lm-evaluation-harness: the same model, prompts and items.

Offline; needs the extra `bench`: `python -m kdutils.bench.lm_eval_check --student NAME --domain math`.

lm-evaluation-harness builds requests, tokenises, batches, pads, generates and scores its own way; `acc_norm`
divides by characters, as ours does. Where its default asks another question than we do, this module decides:

- Where an option begins. It tokenises prompt and option as one text, after moving the blanks at the end of
  the prompt to the option; models are trained on prompts and responses tokenised apart. tokens="apart" gives
  it our tokens, tokens="together" leaves it its own.
- Which tokens there are. It takes all rows of the head, also padding; here those of the tokenizer. And a
  softmax of bf16 logits is in float32, not in bf16.
- When a text ends. `generate` reads a model's own generation settings (repetition penalty, several EOS).
  They are put aside, so that texts are greedy until the tokenizer's EOS.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig

from kdutils import encoding, evaluate, generation, models
from kdutils.data.model_files import ModelError
from kdutils.data.sources import DataError, default_evaluation, test_items
from kdutils.items import Item, prompt
from kdutils.models import LoadedModel
from kdutils.runs import experiment
from kdutils.spec import MINI, EvalSpec, RunSpec

TOKENS = ("apart", "together")
UNEXPLAINED = "unexplained"
COLUMNS = ("measure", "task", "item", "ours", "theirs", "equal", "same_answer", "difference_nats", "reason")
# Up to here two logits, or the log-probabilities of a token, are equal but for rounding.
ROUNDING_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.25}
LOGITS_AT_ONCE = 60_000_000  # lm-evaluation-harness keeps those of every position of a batch of options
NO_LIMIT = 1_000_000  # tokens: nothing is cut on the left, as nothing is with us


def write_tasks(folder: Path, items: Sequence[Item], evaluation: EvalSpec) -> list[str]:
    """Names of the tasks that `folder` now holds for lm-evaluation-harness: a YAML and a JSONL each."""
    is_ranked, names = evaluation.scoring == "likelihood", []
    how: dict[str, Any]
    if is_ranked:
        metrics = {"acc": "mean", "acc_norm": "mean"}
        how = {"output_type": "multiple_choice", "doc_to_choice": "choices", "target_delimiter": ""}
    else:
        metrics = {"bypass": "bypass"}
        settings = {"until": [], "do_sample": False, "max_gen_toks": evaluation.max_new_tokens}
        how = {"output_type": "generate_until", "generation_kwargs": settings}
    how["metric_list"] = [
        {"metric": metric, "aggregation": aggregation, "higher_is_better": True}
        for metric, aggregation in metrics.items()
    ]
    for task in evaluation.tasks:
        name = f"kdutils_{task}_{evaluation.scoring}"
        path = folder / f"{name}.jsonl"
        records = []
        for item in (each for each in items if each.task == task):
            record = {"id": item.id, "prompt": prompt(item.question), "target": item.answer}
            if is_ranked:
                options = evaluate.options(item)
                record |= {"choices": list(options.values()), "target": options.get(item.answer, item.answer)}
            records.append(json.dumps(record) + "\n")
        path.write_text("".join(records), encoding="utf-8")
        files = {"data_files": {"test": str(path)}, "cache_dir": str(folder / "datasets")}
        config = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
        config |= {"doc_to_text": "prompt", "doc_to_target": "target", "num_fewshot": 0} | how
        # JSON is YAML, and quotes every string.
        (folder / f"{name}.yaml").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        names.append(name)
    return names


def harness_rows(
    model: LoadedModel, items: Sequence[Item], evaluation: EvalSpec, *, tokens: str = "apart"
) -> pd.DataFrame:
    """What lm-evaluation-harness finds, a row an item in their order.

    Columns: item_id, prompt as it saw it; prompt_ids and text, or logprobs (a list, nats), acc, acc_norm and
    tokens (for each option, those it follows and its own).

    Raises:
        ImportError: if lm-evaluation-harness is not installed; the message holds the remedy.
        ValueError: for unknown `tokens`, or an evaluation that samples.
    """
    if tokens not in TOKENS:
        raise ValueError(f"tokens={tokens!r} is unknown; choose one of {list(TOKENS)}")
    if evaluation.temperature > 0:
        raise ValueError(f"temperature={evaluation.temperature}: sampled texts are nobody else's; use 0")
    try:
        import lm_eval
    except ImportError as error:
        message = f"lm-evaluation-harness is missing ({error}); pip install 'kdutils[bench]'"
        raise ImportError(message) from error
    from lm_eval.tasks import TaskManager

    adapter = _adapter(model, tokens, _rows_at_once(model, items, evaluation))
    with tempfile.TemporaryDirectory() as name, _without_own_settings(model):
        names = write_tasks(Path(name), items, evaluation)
        tasks = TaskManager(include_path=name, include_defaults=False).load(names)
        # `simple_evaluate` would seed the global generators and ask the hub about the model.
        samples = lm_eval.evaluate(lm=adapter, task_dict=tasks, bootstrap_iters=0)["samples"]
    rows = []
    for sample in (sample for name in names for sample in samples[name]):
        row = {"item_id": sample["doc"]["id"], "prompt": sample["arguments"][0][0]}
        if evaluation.scoring == "generation":
            row |= {"prompt_ids": adapter.tok_encode(row["prompt"]), "text": sample["resps"][0][0]}
        else:
            row["logprobs"] = [float(response[0][0]) for response in sample["resps"]]
            row["tokens"] = [adapter._encode_pair(*pair) for pair in sample["arguments"]]
            row |= {"acc": sample["acc"], "acc_norm": sample["acc_norm"]}
        rows.append(row)
    return pd.DataFrame(rows).set_index("item_id").loc[[item.id for item in items]].reset_index()


def _adapter(model: LoadedModel, tokens: str, batch_rows: int) -> Any:
    """The loaded model as lm-evaluation-harness wants it."""
    from lm_eval.models.huggingface import HFLM

    class Adapter(HFLM):
        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            if tokens == "together":
                return super()._encode_pair(context, continuation)
            return self.tok_encode(context), self.tok_encode(continuation, add_special_tokens=False)

        def _model_call(self, *arguments: Any, **options: Any) -> torch.Tensor:
            return super()._model_call(*arguments, **options)[..., : model.vocabulary_size]

    return Adapter(
        pretrained=model.causal,
        tokenizer=copy.deepcopy(model.tokenizer),  # it sets a pad token
        batch_size=batch_rows,
        max_length=NO_LIMIT,
        softmax_dtype="float32",
        mixed_precision_dtype=model.policy.autocast,
    )


def _rows_at_once(model: LoadedModel, items: Sequence[Item], evaluation: EvalSpec) -> int:
    if evaluation.scoring == "generation":
        return generation.BATCH_ROWS
    texts = [prompt(item.question) + max(evaluate.options(item).values(), key=len) for item in items]
    longest = max(map(len, model.tokenizer(texts)["input_ids"]))
    return max(1, min(generation.BATCH_ROWS, LOGITS_AT_ONCE // (longest * model.head.weight_VH.shape[0])))


@contextlib.contextmanager
def _without_own_settings(model: LoadedModel) -> Iterator[None]:
    """The model with generation settings that only say where a text ends and which tokens there are."""
    own = model.causal.generation_config
    padding = list(range(model.vocabulary_size, model.head.weight_VH.shape[0]))
    model.causal.generation_config = GenerationConfig(
        eos_token_id=model.tokenizer.eos_token_id,
        pad_token_id=model.pad_id,
        suppress_tokens=padding or None,
    )
    try:
        yield
    finally:
        model.causal.generation_config = own


def compare(
    model: LoadedModel, spec: RunSpec, evaluation: EvalSpec, *, tokens: str = "apart"
) -> pd.DataFrame:
    """Ours and theirs, a row a measure x item, with COLUMNS.

    Measures: `text`, or the options from the likeliest to the least likely: `ranking` (their acc) and
    `ranking_normalised` (their acc_norm; for each character). `same_answer` is whether both texts answer the
    same, or the same option comes first. `difference_nats` is how far the log-probabilities of an option
    are apart at most. `reason` says why two are not equal: rounding (of a near tie), tokens, or UNEXPLAINED.

    Raises:
        ImportError, ValueError: see harness_rows.
    """
    items = test_items(spec, evaluation)
    theirs = harness_rows(model, items, evaluation, tokens=tokens)
    ours = experiment.item_rows(model, items, evaluation, run_id=spec.run_id)[0]
    of_item = _rankings if evaluation.scoring == "likelihood" else _texts
    rows = []
    for item, our, their in zip(items, ours.itertuples(), theirs.itertuples(), strict=True):
        assert our.item_id == their.item_id == item.id
        rows += [{"task": item.task, "item": item.id} | row for row in of_item(model, item, our, their)]
    return pd.DataFrame(rows)[list(COLUMNS)]


def _texts(model: LoadedModel, item: Item, our: Any, their: Any) -> list[dict[str, Any]]:
    row = {"measure": "text", "ours": our.text, "theirs": their.text, "equal": our.text == their.text}
    row["same_answer"] = evaluate.parse(item.task, our.text) == evaluate.parse(item.task, their.text)
    row["difference_nats"] = np.nan
    row["reason"] = "" if row["equal"] else _why_texts_differ(model, item, our.text, their)
    return [row]


def _why_texts_differ(model: LoadedModel, item: Item, ours: str, their: Any) -> str:
    (prompt_ids,) = encoding.prompt_ids([item.question], model.tokenizer)
    if prompt_ids != their.prompt_ids:
        return f"tokens: the prompt has {len(their.prompt_ids)} there and {len(prompt_ids)} here"
    ids = model.tokenizer(ours, add_special_tokens=False)["input_ids"]
    decode, eos, shared = model.tokenizer.decode, model.tokenizer.eos_token_id, 0
    while shared < len(ids) and their.text.startswith(decode(ids[: shared + 1])):
        shared += 1
    with torch.no_grad():
        hidden_H = model.hidden_states(torch.tensor([prompt_ids + ids[:shared]]))[0, -1]
        logits_V = model.head.cut(model.vocabulary_size).logits(hidden_H).float()
    behind_V = logits_V.max() - logits_V  # nats
    for token in (behind_V <= _rounding(model)).nonzero()[:, 0].tolist():
        ends_here = their.text == decode(ids[:shared])
        if ends_here if token == eos else their.text.startswith(decode([*ids[:shared], token])):
            nats = float(behind_V[token])
            return f"rounding: after {shared} tokens theirs is {nats:.2g} nats behind the likeliest"
    return UNEXPLAINED


def _rounding(model: LoadedModel) -> float:
    return ROUNDING_NATS[model.policy.autocast or model.policy.weights]


def _rankings(model: LoadedModel, item: Item, our: Any, their: Any) -> list[dict[str, Any]]:
    lengths = np.array([len(text) for text in evaluate.options(item).values()])
    found = np.array([our.logprobs, their.logprobs])
    rows = []
    for measure, scores in (("ranking", found), ("ranking_normalised", found / lengths)):
        # Best first, and the first of equals first, as argmax has it.
        left, right = ([our.options[i] for i in np.argsort(-own, kind="stable")] for own in scores)
        row = {"measure": measure, "ours": " > ".join(left), "theirs": " > ".join(right)}
        row |= {"equal": left == right, "same_answer": left[0] == right[0]}
        row["difference_nats"] = float(np.abs(found[0] - found[1]).max())
        row["reason"] = "" if row["equal"] else _why_rankings_differ(model, item, our, their)
        rows.append(row)
    return rows


def _why_rankings_differ(model: LoadedModel, item: Item, our: Any, their: Any) -> str:
    difference = np.abs(np.subtract(our.logprobs, their.logprobs))
    (prompt_ids,) = encoding.prompt_ids([item.question], model.tokenizer)
    texts = list(evaluate.options(item).values())
    options = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    limits = _rounding(model) * np.array([len(option) for option in options])
    if (difference <= limits).all():
        return f"rounding: scores are up to {difference.max():.2g} nats apart"
    before, after = ([list(part) for part in zip(*their.tokens, strict=True)][side] for side in (0, 1))
    if before == [prompt_ids] * len(options) and after == options:
        return UNEXPLAINED
    # With their tokens ours has to find what they found.
    again = generation.option_logprobs(model, before, [[option] for option in after])
    limits = _rounding(model) * np.array([len(option) for option in after])
    if (np.abs(np.ravel(again) - their.logprobs) > limits).any():
        return UNEXPLAINED
    return f"tokens: {len(after[0])} are scored there and {len(options[0])} here; with theirs ours is equal"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a measure: items compared, mismatches, of these without a reason and with another answer, and the
    largest difference of log-probabilities, nats."""
    counted = table.assign(
        items=1,
        mismatches=~table["equal"],
        unexplained=table["reason"] == UNEXPLAINED,
        other_answer=~table["equal"] & ~table["same_answer"],
        largest_difference_nats=table["difference_nats"],
    )
    how = dict.fromkeys(["items", "mismatches", "unexplained", "other_answer"], "sum")
    how["largest_difference_nats"] = "max"
    return counted.groupby("measure", sort=False, as_index=False).agg(how)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 all equal or explained, 1 a mismatch without a reason, 2 nothing was compared."""
    parser = argparse.ArgumentParser(
        prog="kdutils.bench.lm_eval_check",
        description="Compare our evaluator with lm-evaluation-harness.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--student", required=True, metavar="NAME", help="a model, as it is")
    add("--domain", required=True, choices=("math", "commonsense"))
    add("--data", default=MINI, help=f"{MINI}, benchmark, llm-adapters or a folder")
    add("--items", type=int, default=25, metavar="N", help="of each task (default: 25)")
    add("--scoring", choices=("both", "generation", "likelihood"), default="both", help="default: both")
    add("--max-new-tokens", type=int, default=EvalSpec.max_new_tokens, metavar="N")
    add("--tokens", choices=TOKENS, default="apart", help="of options (default: apart, as ours)")
    asked = parser.parse_args(arguments)
    try:
        spec = RunSpec(student=asked.student, method="base", domain=asked.domain, data=asked.data)
        evaluations = _evaluations(spec, asked)
        model = models.load(asked.student)
        tables = [compare(model, spec, each, tokens=asked.tokens) for each in evaluations]
    except (ImportError, ModelError, DataError, ValueError) as error:
        print(f"kdutils.bench.lm_eval_check: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    table = pd.concat(tables, ignore_index=True)
    numbers = str(model.policy.autocast or model.policy.weights).removeprefix("torch.")
    print(f"{asked.student}, {asked.domain} of {asked.data}, {numbers}, tokens {asked.tokens}")
    print(summary(table).to_string(index=False))
    for row in table[~table["equal"]].itertuples():
        print(f"{row.measure} {row.item}: {row.reason}\n  ours   {row.ours!r}\n  theirs {row.theirs!r}")
    return int((table["reason"] == UNEXPLAINED).any())


def _evaluations(spec: RunSpec, asked: argparse.Namespace) -> list[EvalSpec]:
    """What was asked for: texts of every task of the data, rankings of those with options."""
    tasks = default_evaluation(spec).tasks
    texts = EvalSpec(tasks=tasks, items_per_task=asked.items, max_new_tokens=asked.max_new_tokens)
    wanted = {"generation": [texts], "likelihood": [texts.ranking()], "both": [texts, texts.ranking()]}
    if not (found := [each for each in wanted[asked.scoring] if each is not None]):
        raise ValueError(f"no task of the data has options to rank ({list(tasks)}); use --scoring generation")
    return found


if __name__ == "__main__":
    sys.exit(main())
