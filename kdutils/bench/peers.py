"""Other programs for distillation, as they are: their own trainers, their own losses, one step of each.

Each function returns a context that yields a Step. Of the trainers only what has to do with a run's folder,
reports and precision is set; that they neither generate nor recompute activations is in their favour. Needs
the extra `bench`.
"""

import functools
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from kdutils.bench.workloads import METHODS, Step, Work

PACKAGES = {"trl": "'trl==1.16.0'", "llm_distil": "evaluate 'llm-distil==0.1.0'"}


def missing() -> dict[str, str]:
    """The command that installs each package of peers that is not there."""
    absent = (name for name in PACKAGES if importlib.util.find_spec(name) is None)
    return {name: f"python -m pip install {PACKAGES[name]}" for name in absent}


def trl_gkd(work: Work) -> AbstractContextManager[Step]:
    """TRL's GKDTrainer with lmbda 0: the batch as it is, none of it generated."""
    import datasets
    from trl.experimental import gkd

    def trainer_of(beta: float, **options: Any) -> Any:
        return gkd.GKDTrainer(
            model=work.student,
            teacher_model=work.teacher,
            args=gkd.GKDConfig(lmbda=0.0, beta=beta, temperature=1.0, **options),
            train_dataset=datasets.Dataset.from_dict({"messages": [[]]}),
            processing_class=_tokenizer(),
            data_collator=lambda rows: rows,
        )

    return _steps(work, trainer_of, work.inputs | {"labels": work.labels_BT})


def trl_distillation(work: Work) -> AbstractContextManager[Step]:
    """TRL's DistillationTrainer on completions that are given; those it draws itself are left out.

    It takes prompts padded on the left and completions padded on the right.
    """
    import datasets
    import torch
    import trl

    class Given(trl.DistillationTrainer):
        def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
            return generation_batch

    def trainer_of(beta: float, **options: Any) -> Any:
        trainer = Given(
            model=work.student,
            teacher_model=work.teacher,
            args=trl.DistillationConfig(beta=beta, temperature=1.0, **options),
            train_dataset=datasets.Dataset.from_dict({"prompt": ["a"]}),
            processing_class=_tokenizer(),
        )
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    parts, pad = {}, functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    rows = list(zip(work.encoded["input_ids"][:], work.encoded["n_unscored"][:], strict=True))
    prompts = [torch.tensor(ids[:n_unscored]) for ids, n_unscored in rows]
    completions = [torch.tensor(ids[n_unscored:]) for ids, n_unscored in rows]
    for name, side, own in (("prompt", "left", prompts), ("completion", "right", completions)):
        parts[f"{name}_ids"] = pad(own, padding_side=side).to(work.device)
        parts[f"{name}_mask"] = pad([torch.ones_like(ids) for ids in own], padding_side=side).to(work.device)
    return _steps(work, trainer_of, work.inputs | parts)


def llm_distil(work: Work) -> AbstractContextManager[Step]:
    """The trainer within llm-distil. It does not shift, so its labels stand where the scored logits are."""
    import torch
    from llm_distil import kd_trainer
    from transformers import TrainingArguments

    def trainer_of(beta: float, **options: Any) -> Any:
        return kd_trainer._DistillationTrainer(
            distillation_method="gkd",
            teacher_model=work.teacher,
            kd_loss_weight=1.0,
            temperature=1.0,
            inject_noise=False,
            noise_scale=0.0,
            lambda_gkd=-1.0,  # generates nothing
            beta_gkd=beta,
            model=work.student,
            args=TrainingArguments(**options),
        )

    labels_BT = torch.roll(work.labels_BT, -1, dims=1)
    return _steps(work, trainer_of, work.inputs | {"labels": labels_BT})


@contextmanager
def _steps(work: Work, trainer_of: Callable[..., Any], inputs: dict[str, Any]) -> Iterator[Step]:
    """Steps of a trainer for each method, made by `trainer_of` from TRL's beta and training arguments."""
    n_scored = work.batch.scored_BT.sum()
    with tempfile.TemporaryDirectory() as folder:
        options = {"output_dir": folder, "report_to": [], "save_strategy": "no"}
        options |= {"use_cpu": not work.is_cuda, "bf16": work.is_cuda}
        options |= {"gradient_checkpointing": False}  # slower, and the bodies are small here
        trainers = {method: trainer_of(METHODS[method][1], **options) for method in work.methods}
        for trainer in trainers.values():
            trainer.model.train()

        def step(method: str) -> float:
            trainer = trainers[method]
            return float(trainer.training_step(trainer.model, dict(inputs), n_scored))

        yield step


def _tokenizer() -> Any:
    """One that trainers accept; nothing is tokenised."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<eos>")
