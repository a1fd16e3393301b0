"""Our evaluator compared with lm-evaluation-harness: the same model, prompts and items.

Offline; needs the extra `bench`: `python -m kdutils.bench.lm_eval_check --student NAME --domain math`.

lm-evaluation-harness builds requests, tokenises, batches, pads, generates and scores its own way; `acc_norm`
divides by characters, as ours does. Three of its defaults ask another question than we do and are set here:

- It tokenises prompt and option as one text; models are trained on the two tokenised apart.
- It scores over all rows of the head, also padding, and in the dtype of the logits; here over the rows that
  the tokenizer has, in float32.
- `generate` reads a model's own generation settings (repetition penalty, several EOS); here texts are greedy
  until the tokenizer's EOS.

In bfloat16 two options or tokens that are nearly tied may change places by rounding alone.
"""

import argparse
import contextlib
import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig

from kdutils import generation, models
from kdutils.constants import MINI
from kdutils.data.options import options as options_of
from kdutils.data.sources import default_evaluation, test_items
from kdutils.items import Item, alpaca
from kdutils.models import LoadedModel
from kdutils.runs import answers
from kdutils.spec import EvalSpec, RunSpec

LOGITS_AT_ONCE = 60_000_000  # lm-evaluation-harness keeps those of every position of a batch of options
NO_LIMIT = 1_000_000  # tokens: nothing is cut on the left, as nothing is with us


def harness_samples(model: LoadedModel, items: Sequence[Item], evaluation: EvalSpec) -> list[dict[str, Any]]:
    """What lm-evaluation-harness logs for each item: `arguments`, `resps`, and for rankings acc and acc_norm.

    Raises:
        ImportError: if it is not installed; the message holds the remedy.
        ValueError: for an evaluation that samples, or that ranks by anything but whole responses.
    """
    if evaluation.temperature > 0:
        raise ValueError(f"temperature={evaluation.temperature}: sampled texts never agree; use 0")
    if evaluation.scoring not in ("generation", "likelihood"):
        raise ValueError(f"scoring={evaluation.scoring!r} is not compared; use 'likelihood' or 'generation'")
    try:
        import lm_eval
        from lm_eval.api.task import ConfigurableTask
    except ImportError as error:
        message = f"lm-evaluation-harness is missing ({error}); pip install 'kdutils[bench]'"
        raise ImportError(message) from error
    with _without_own_settings(model):
        task = ConfigurableTask(config=task_config(items, evaluation))
        # `simple_evaluate` would seed the global generators and ask the hub about the model.
        found = lm_eval.evaluate(
            lm=_adapter(model, items, evaluation), task_dict={"kdutils": task}, bootstrap_iters=0
        )
    return sorted(found["samples"]["kdutils"], key=lambda sample: sample["doc_id"])


def task_config(items: Sequence[Item], evaluation: EvalSpec) -> dict[str, Any]:
    """The items as a task of lm-evaluation-harness: our prompts and options as they are."""
    import datasets

    records = [{"prompt": alpaca(item.question), "target": item.answer} for item in items]
    if evaluation.scoring == "likelihood":
        for item, record in zip(items, records, strict=True):
            options = options_of(item)
            record |= {"choices": list(options.values()), "target": options.get(item.answer, item.answer)}
        how = {"output_type": "multiple_choice", "doc_to_choice": "choices", "target_delimiter": ""}
    else:
        settings = {"until": [], "do_sample": False, "max_gen_toks": evaluation.max_new_tokens}
        how = {"output_type": "generate_until", "generation_kwargs": settings}
    return how | {
        "task": "kdutils",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(records)},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "target",
        "num_fewshot": 0,
    }


def _adapter(model: LoadedModel, items: Sequence[Item], evaluation: EvalSpec) -> Any:
    """The loaded model as lm-evaluation-harness wants it."""
    from lm_eval.models.huggingface import HFLM

    rows = generation.BATCH_ROWS
    if evaluation.scoring == "likelihood":
        texts = [alpaca(item.question) + max(options_of(item).values(), key=len) for item in items]
        longest = max(map(len, model.tokenizer(texts)["input_ids"]))
        rows = max(1, min(rows, LOGITS_AT_ONCE // (longest * model.head.weight_VH.shape[0])))

    class Adapter(HFLM):
        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            return self.tok_encode(context), self.tok_encode(continuation, add_special_tokens=False)

        def _model_call(self, *arguments: Any, **options: Any) -> torch.Tensor:
            return super()._model_call(*arguments, **options)[..., : model.vocabulary_size]

    return Adapter(
        pretrained=model.causal,
        tokenizer=copy.deepcopy(model.tokenizer),  # it sets a pad token
        batch_size=rows,
        max_length=NO_LIMIT,
        softmax_dtype="float32",
        mixed_precision_dtype=model.policy.autocast,
    )


@contextlib.contextmanager
def _without_own_settings(model: LoadedModel) -> Iterator[None]:
    """The model with generation settings that only say where a text ends and which tokens there are."""
    own = model.causal.generation_config
    padding = list(range(model.vocabulary_size, model.head.weight_VH.shape[0]))
    model.causal.generation_config = GenerationConfig(
        eos_token_id=model.tokenizer.eos_token_id, pad_token_id=model.pad_id, suppress_tokens=padding or None
    )
    try:
        yield
    finally:
        model.causal.generation_config = own


def compare(model: LoadedModel, spec: RunSpec, evaluation: EvalSpec) -> pd.DataFrame:
    """Ours and theirs, a row a measure x item: measure, ours, theirs, task, item, equal, difference_nats.

    Measures: `text`, or the options from the likeliest to the least likely: `ranking` and, for each
    character, `ranking_normalised`, which are equal only if acc and acc_norm are too. `difference_nats` is
    how far the log-probabilities of an option are apart at most.

    Raises:
        ImportError, ValueError: see harness_samples.
    """
    items = test_items(spec, evaluation)
    theirs = harness_samples(model, items, evaluation)
    ((ours, _),) = answers.rows_of(model, items, [evaluation], spec)
    rows = []
    for item, our, their in zip(items, ours.to_dict("records"), theirs, strict=True):
        about = {"task": item.task, "item": item.id}
        if evaluation.scoring == "likelihood":
            rows += [row | about for row in _rankings(item, our, their)]
        else:
            row = {"measure": "text", "ours": our["text"], "theirs": their["resps"][0][0]} | about
            rows.append(row | {"equal": row["ours"] == row["theirs"], "difference_nats": np.nan})
    return pd.DataFrame(rows)


def _rankings(item: Item, our: dict[str, Any], their: dict[str, Any]) -> list[dict[str, Any]]:
    found = np.array([our["logprobs"], [float(response[0][0]) for response in their["resps"]]])
    lengths = np.array([len(text) for text in options_of(item).values()])
    rows = []
    for suffix, metric, scores in (("", "acc", found), ("_normalised", "acc_norm", found / lengths)):
        # Best first, and the first of equals first, as argmax has it.
        left, right = (
            " > ".join(our["options"][i] for i in np.argsort(-each, kind="stable")) for each in scores
        )
        is_equal = left == right and bool(our[f"correct{suffix}"]) == bool(their[metric])
        row = {"measure": f"ranking{suffix}", "ours": left, "theirs": right, "equal": is_equal}
        rows.append(row | {"difference_nats": float(np.abs(found[0] - found[1]).max())})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 all equal, 1 a mismatch, 2 nothing was compared."""
    program = "kdutils.bench.lm_eval_check"
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--student", required=True, metavar="NAME", help="a model, as it is")
    add("--domain", required=True, choices=("math", "commonsense"))
    add("--data", default=MINI, help=f"{MINI}, benchmark, llm-adapters or a folder")
    add("--items", type=int, default=25, metavar="N", help="of each task (default: 25)")
    add("--max-new-tokens", type=int, default=EvalSpec.max_new_tokens, metavar="N")
    asked = parser.parse_args(arguments)
    try:
        spec = RunSpec(student=asked.student, method="base", domain=asked.domain, data=asked.data)
        sizes = {"items_per_task": asked.items, "max_new_tokens": asked.max_new_tokens}
        texts = replace(default_evaluation(spec), **sizes)
        model = models.load(asked.student)
        evaluations = [each for each in (texts, texts.ranking()) if each]  # rankings of tasks with options
        table = pd.concat([compare(model, spec, each) for each in evaluations], ignore_index=True)
    except (ImportError, ValueError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    numbers = str(model.policy.autocast or model.policy.weights).removeprefix("torch.")
    print(f"{asked.student}, {asked.domain} of {asked.data}, {numbers}")
    counted = table.assign(items=1, mismatches=~table["equal"], largest_nats=table["difference_nats"])
    how = {"items": "sum", "mismatches": "sum", "largest_nats": "max"}
    print(counted.groupby("measure", sort=False, as_index=False).agg(how).to_string(index=False))
    for row in table[~table["equal"]].itertuples():
        print(f"{row.measure} {row.item}:\n  ours   {row.ours!r}\n  theirs {row.theirs!r}")
    return int(not table["equal"].all())


if __name__ == "__main__":
    sys.exit(main())
