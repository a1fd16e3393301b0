"""Results for other programs: `python -m kdutils.runs.exports OUTPUTS [RUN_ID ...] --to FOLDER`.

    lm_eval/<run_id>/results_*.json samples_<task>_*.jsonl        as lm-evaluation-harness 0.4.13 has them
    data/<benchmark>/kdutils/<run_id>/<uuid>.json <uuid>_samples.jsonl    Every Eval Ever, schema 0.3.0

Tasks have names of their own, since prompt and reading are not those of the harness, nor are the mini world's
items a benchmark's. What is not known is null or left out. Without the items (of a data folder that is gone
or has changed) there are no samples. The same results give the same files.
"""

import argparse
import contextlib
import hashlib
import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kdutils
from kdutils.constants import ALL_TASKS
from kdutils.data.options import options as options_of
from kdutils.data.sources import test_items
from kdutils.io import disk
from kdutils.items import PROMPT, DataError, Item, alpaca, fingerprint
from kdutils.runs import comparison, store
from kdutils.runs.model_card import READINGS, data_name, settings
from kdutils.runs.store import RunFolder, StoreError
from kdutils.spec import EvalSpec

SCHEMA = "0.3.0"  # of Every Eval Ever
FILTERS = {"correct": "flexible-extract", "correct_strict": "strict-match"}  # as the harness's gsm8k has them
UNKNOWN = (  # keys of results_*.json about which our runs say nothing
    *("git_hash", "pretty_env_info", "lm_eval_version", "upper_git_hash", "eot_token_id", "max_length"),
    *("tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token", "system_instruction"),
    *("system_instruction_sha", "chat_template", "chat_template_sha", "fewshot_as_multiturn"),
)


def export(folder: RunFolder, to: Path) -> list[Path]:
    """Write every evaluation of a finished run under `to`, in both formats; returns the files.

    Raises:
        DamagedError: if something in the store is not what was written.
        OSError: if `to` cannot be written.
    """
    made = [_Evaluation(folder, evaluation) for evaluation in folder.evaluations()]
    files = [file for one in made for file in (*one.lm_eval(), *one.every_eval_ever())]
    return [disk.write_text(Path(to) / name, content) for name, content in files]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(records: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(each, ensure_ascii=False, allow_nan=False) + "\n" for each in records)


class _Evaluation:
    """One evaluation of a run, and how either format has it."""

    def __init__(self, folder: RunFolder, evaluation: EvalSpec) -> None:
        self.spec, self.evaluation, self.folder = folder.spec(), evaluation, folder
        self.facts, rows = folder.evaluation_result(evaluation), folder.evaluation(evaluation)
        self.scores = comparison.measures(rows)
        read = rows[[name for name in rows if name.startswith("parsed")]].astype(object)
        self.rows = rows.assign(**read.where(read.notna(), None))
        self.ranks = evaluation.scoring != "generation"
        self.source = re.sub(r"[^A-Za-z0-9._-]+", "-", data_name(self.spec))
        made = folder.path / "eval" / evaluation.eval_id / "result.json"
        self.when = datetime.fromtimestamp(made.stat().st_mtime, UTC)
        self.items: list[Item] = []
        with contextlib.suppress(DataError):
            items = test_items(self.spec, evaluation)
            self.items = items if fingerprint(items) == self.facts["fingerprint"] else []

    def asked(self, question: str) -> str:
        """The text that a question is put as; in a chat, the user's message."""
        return alpaca(question) if self.spec.prompt == "alpaca" else question

    def named(self, task: str) -> str:
        """Our task's name elsewhere."""
        return f"kdutils_{self.source}_{task}"

    def by_item(self, task: str) -> Iterator[tuple[Item, list[dict[str, Any]], list[str]]]:
        """The items of a task, their rows (one a sample) and ranked options; none without the items."""
        rows = dict(list(self.rows[self.rows["task"] == task].groupby("item_id")))
        for item in self.items:
            if item.task == task:
                options = list(options_of(item, self.evaluation.scoring).values()) if self.ranks else []
                yield item, rows[item.id].to_dict("records"), options

    # --- lm-evaluation-harness --------------------------------------------------------------------------

    def metric(self, measure: str) -> tuple[str, str]:
        """A measure as their metric and filter."""
        if self.ranks or measure == "rouge_l":
            return {"correct": "acc", "correct_normalised": "acc_norm"}.get(measure, measure), "none"
        return "exact_match", FILTERS.get(measure, measure.removeprefix("correct_"))

    def lm_eval(self) -> Iterator[tuple[str, str]]:
        """Name and content of each file."""
        own, run_id, stamp = self.evaluation, self.spec.run_id, self.when.strftime("%Y-%m-%dT%H-%M-%S.%f")
        record = {key: {} for key in ("results", "group_subtasks", "configs", "versions", "n-shot")}
        record |= {key: {} for key in ("higher_is_better", "n-samples", "config", "task_hashes")}
        for name, scores in self.scores.groupby("task", sort=False):
            task, n = self.named(name), int(scores["n"].iloc[0])
            found = {"name": task, "alias": task, "sample_len": n}
            for row in scores.itertuples():
                metric, way = self.metric(row.measure)
                found[f"{metric},{way}"] = row.value
                if n > 1:
                    found[f"{metric}_stderr,{way}"] = row.se
            metrics = list(dict.fromkeys(self.metric(measure)[0] for measure in scores["measure"]))
            samples = list(self._samples(name, scores["measure"]))
            hashed = (s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
            of_task = {"results": found, "configs": self._config(task, metrics), "n-shot": 0}
            of_task |= {"n-samples": {"original": None, "effective": n}, "versions": self.spec.data_digest}
            of_task |= {"higher_is_better": dict.fromkeys(metrics, True)}
            of_task |= {"task_hashes": _sha256("".join(hashed)) if samples else None}
            for key, value in of_task.items():
                record[key][task] = value
            if samples:
                yield f"lm_eval/{run_id}/samples_{task}_{stamp}.jsonl", _lines(samples)
        environment = json.loads((self.folder.path / "environment.json").read_text(encoding="utf-8"))
        record["config"] = {"model": "kdutils", "model_args": settings(self.spec), "random_seed": own.seed}
        record["config"] |= {"limit": own.items_per_task, "gen_kwargs": None, "bootstrap_iters": 0}
        record |= {"date": self.when.timestamp(), "total_evaluation_time_seconds": str(self.facts["seconds"])}
        record |= {"model_source": "kdutils", "model_name": run_id, "model_name_sanitized": run_id}
        record |= {"transformers_version": environment["packages"].get("transformers")}
        record |= {"kdutils_version": kdutils.__version__} | dict.fromkeys(UNKNOWN)
        yield f"lm_eval/{run_id}/results_{stamp}.json", json.dumps(record, indent=2, allow_nan=False) + "\n"

    def _generation(self) -> dict[str, Any]:
        own = self.evaluation
        given = {"until": [], "do_sample": own.temperature > 0, "max_gen_toks": own.max_new_tokens}
        return given | ({"temperature": own.temperature, "top_p": own.top_p} if own.temperature > 0 else {})

    def _config(self, task: str, metrics: list[str]) -> dict[str, Any]:
        own, text = self.evaluation, self.asked("{{question}}")
        config = {"task": task, "test_split": own.split, "doc_to_text": text, "doc_to_target": "answer"}
        config |= {"description": "", "target_delimiter": "", "num_fewshot": 0, "repeats": own.samples}
        config |= {"metric_list": [{"metric": metric} for metric in metrics]}
        if self.ranks:
            return config | {"output_type": "multiple_choice", "doc_to_choice": "choices"}
        return config | {"output_type": "generate_until", "generation_kwargs": self._generation()}

    def _samples(self, task: str, measures: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A record an item x filter."""
        for number, (item, rows, options) in enumerate(self.by_item(task)):
            text = self.asked(item.question)
            doc = {"id": item.id, "question": item.question, "answer": item.answer}
            if options:  # a response: the log-probability, and whether it is greedy's, which is unknown
                doc["choices"] = options
                asked = [(text, option) for option in options]
                responses = [[[str(value), None]] for value in rows[0]["logprobs"]]
            else:
                asked, responses = [(text, self._generation())], [[row["text"] for row in rows]]
            arguments = {f"gen_args_{i}": {"arg_0": a, "arg_1": b} for i, (a, b) in enumerate(asked)}
            about = {"doc_id": number, "doc": doc, "target": item.answer, "arguments": arguments}
            texts = {"doc": json.dumps(doc, indent=2, ensure_ascii=False), "prompt": text}
            texts["target"] = item.answer
            hashes = {f"{name}_hash": _sha256(value) for name, value in texts.items()}
            for way in dict.fromkeys(self.metric(measure)[1] for measure in measures):
                own = {metric: m for m in measures for metric, how in [self.metric(m)] if how == way}
                read = [response[0] for response in responses] if options else []
                if not read:
                    read = [_read(measure, row) or "[invalid]" for measure in own.values() for row in rows]
                found = {"resps": responses, "filtered_resps": read, "filter": way, "metrics": list(own)}
                scores = {name: [float(row[measure]) for row in rows] for name, measure in own.items()}
                means = {name: sum(values) / len(values) for name, values in scores.items()}
                yield about | found | hashes | means

    # --- Every Eval Ever --------------------------------------------------------------------------------

    def every_eval_ever(self) -> Iterator[tuple[str, str]]:
        """Name and content of each file."""
        run_id, when = self.spec.run_id, str(int(self.when.timestamp()))
        benchmark, model = f"kdutils_{self.source}_{self.spec.domain}", f"kdutils/{run_id}"
        digest = hashlib.sha256(f"{run_id}/{self.evaluation.eval_id}".encode()).digest()
        path = f"data/{benchmark}/{model}/{uuid.UUID(bytes=digest[:16], version=4)}"
        key = {"schema_version": SCHEMA, "evaluation_id": f"{benchmark}/{model}/{when}"}
        source = {"source_name": "kdutils", "source_type": "evaluation_run"}
        source |= {"source_organization_name": "kdutils", "evaluator_relationship": "first_party"}
        details = {"deployment_type": "self_deployed", "model_availability": "unknown"}
        details |= {name: str(value) for name, value in settings(self.spec).items()}
        record = key | {
            "evaluation_timestamp": when,
            "retrieved_timestamp": when,
            "source_metadata": source,
            "eval_library": {"name": "kdutils", "version": kdutils.__version__},
            "model_info": {"name": run_id, "id": model, "additional_details": details},
            "evaluation_results": [self._result(row) for row in self.scores.itertuples()],
        }
        if samples := [key | {"model_id": model} | each for each in self._instances()]:
            content, name = _lines(samples), f"{path}_samples.jsonl"
            detailed = {"format": "jsonl", "file_path": name, "total_rows": len(samples)}
            detailed |= {"hash_algorithm": "sha256", "checksum": _sha256(content)}
            record["detailed_evaluation_results"] = detailed
            yield name, content
        yield f"{path}.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def _result(self, row: Any) -> dict[str, Any]:
        own, kind = self.evaluation, "rouge_l" if row.measure == "rouge_l" else "accuracy"
        uncertainty: dict[str, Any] = {"num_samples": int(row.n)}
        if row.n > 1:
            uncertainty["standard_error"] = {"value": row.se, "method": "analytic"}
        metric = {"metric_id": kind, "metric_kind": kind}
        metric |= {"metric_name": READINGS.get(row.measure, row.measure), "metric_unit": "proportion"}
        metric |= {"lower_is_better": False}
        data = {"dataset_name": f"{ALL_TASKS[row.task].label} of {self.source}", "source_type": "other"}
        data |= {"additional_details": {"split": own.split, "data_digest": self.spec.data_digest}}
        template = PROMPT if self.spec.prompt == "alpaca" else "the chat template of its tokenizer"
        arguments: dict[str, Any] = {"prompt_template": template}
        if not self.ranks:
            arguments |= {"temperature": own.temperature, "max_tokens": own.max_new_tokens}
        more = {name: str(getattr(own, name)) for name in ("samples", "seed", "scoring", "rotation")}
        return {
            "evaluation_result_id": f"{row.task}/{row.measure}",
            "evaluation_name": self.named(row.task),
            "source_data": data,
            "metric_config": metric | {"score_type": "continuous", "min_score": 0, "max_score": 1},
            "score_details": {"score": row.value, "uncertainty": uncertainty},
            "generation_config": {"generation_args": arguments, "additional_details": more},
        }

    def _instances(self) -> Iterator[dict[str, Any]]:
        for task, measure in self.scores[["task", "measure"]].itertuples(index=False):
            how = {"extraction_method": READINGS.get(measure, measure), "is_terminal": True}
            for item, rows, options in self.by_item(task):
                asked = {"raw": item.question, "formatted": self.asked(item.question)}
                asked |= {"reference": [item.answer]} | ({"choices": options} if options else {})
                for row in rows:
                    read, right = _read(measure, row), row["correct" if measure == "rouge_l" else measure]
                    taken = {"turn_idx": 0, "source": "output.raw", "extracted_value": read} | how
                    yield {
                        "evaluation_name": self.named(task),
                        "evaluation_result_id": f"{task}/{measure}",
                        "sample_id": item.id if len(rows) == 1 else f"{item.id}/{row['sample']}",
                        "sample_hash": _sha256(item.question + item.answer),
                        "interaction_type": "single_turn",
                        "input": asked,
                        "output": {"raw": [row.get("text", read)]},
                        "answer_attribution": [taken] if read is not None else [],
                        "evaluation": {"score": float(row[measure]), "is_correct": bool(right)},
                    }


def _read(measure: str, row: dict[str, Any]) -> str | None:
    """The answer that a measure scores, None if none was read."""
    name = "parsed" + measure.removeprefix("correct")
    return row[name if name in row else "parsed"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 all that was asked for is written, 2 not."""
    program = "kdutils.runs.exports"
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("outputs", type=Path, help="a folder of outputs, in which runs/ lies")
    parser.add_argument("run_ids", nargs="*", metavar="RUN_ID", help="by default every finished run")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where to write")
    asked = parser.parse_args(arguments)
    try:
        found = {spec.run_id: folder for spec, folder in store.finished(asked.outputs)}
        for name in asked.run_ids or ([] if found else ["at all"]):
            if name not in found:
                some = ", ".join(list(found)[:5]) or "nothing"
                raise StoreError(f"{asked.outputs} has no finished run {name}: there is {some}")
        files = [path for name in asked.run_ids or found for path in export(found[name], asked.to)]
    except (StoreError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} files of {len(asked.run_ids or found)} runs in {asked.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
