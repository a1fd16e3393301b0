"""Every causal architecture of transformers that a tiny model can be made of, and what becomes of it.

`python tests/architectures.py` writes the table of kdutils/README.md.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kdutils import encoding, models
from kdutils.adapters import trainable
from kdutils.data import logit_checks
from kdutils.data.model_files import ModelError
from kdutils.io import disk
from kdutils.items import Item
from kdutils.mini.family import MODEL_FOLDER
from kdutils.models import LoadedModel
from kdutils.runs import answers, ranking
from kdutils.runs.store import RunFolder
from kdutils.runs.teacher_outputs import load_trained
from kdutils.spec import RunSpec
from kdutils.teacher import CachedTeacher, States, Teacher
from kdutils.training import _Training

README = Path(__file__).parents[1] / "kdutils/README.md"
KINDS = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind in transformers.CONFIG_MAPPING]
MOST_PARAMETERS = 3_000_000
SIZES = {  # value -> fields that have it, of those that a configuration has
    32: "hidden_size n_embd d_model dim word_embed_proj_dim embedding_size moe_intermediate_size "
    "expert_ffn_hidden_size",
    64: "intermediate_size ffn_dim d_ff decoder_ffn_dim encoder_ffn_dim n_inner "
    "shared_expert_intermediate_size",
    4: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_experts "
    "num_local_experts n_routed_experts moe_num_experts mamba_n_heads",
    2: "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "encoder_attention_heads num_key_value_heads num_kv_heads n_head_kv multi_query_group_num "
    "num_experts_per_tok moe_k moe_topk top_k_experts linear_num_key_heads "
    "linear_num_value_heads",
    16: "head_dim v_head_dim qk_nope_head_dim kv_channels qk_rope_head_dim kv_lora_rank "
    "q_lora_rank mamba_d_head",
    8: "state_size mamba_d_state rotary_dim hidden_size_per_layer_input linear_key_head_dim "
    "linear_value_head_dim",
    1: "n_group topk_group mamba_n_groups n_shared_experts eos_token_id bos_token_id",
    512: "max_position_embeddings n_positions n_ctx max_seq_len",
    608: "vocab_size vocab_size_per_layer_input",
    0: "pad_token_id",
    0.2: "initializer_range init_std",  # so that no logits are nearly equal
}
NOISE = (  # which training adds; a plain computation has none
    "attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop dropout residual_dropout "
    "activation_dropout hidden_dropout_prob attention_probs_dropout_prob ffn_dropout embedding_dropout "
    "resid_dropout layerdrop input_jitter_noise router_jitter_noise"
)
FIELDS = {name: n for n, names in [*SIZES.items(), (0.0, NOISE)] for name in names.split()}
ITEMS = [
    Item(id=question, task="gsm8k", question=question, answer="3", response=response)
    for question, response in {
        "1 plus 2 ?": "The answer is 3.",
        "Tom has 4 apples and eats 1 .": "He has 3 . The answer is 3.",
    }.items()
]
METHODS = ("sft", "fkl", "revkd", "gkd")
STEPS = ("load", *METHODS, "cached", "texts", "ranking", "saved", "lora")
WORDS = (  # of refusals
    "does more to its logits than kdutils knows",
    "has logits that depend on how a row is padded and read",
    "kdutils cannot ask a model of type",
    "empties the row of its padding token at every load",
    "use lora_dropout=0.0 or adapter='full'",
    "use adapter='full'",
)
RIGHT, NOT_TRIED = "Right in every step", "Not tried, since there is no tiny configuration of them"
GROUP = re.compile(r"^\*\*([^*]+)\*\* \(\d+\): ([^.]+)\.$", re.MULTILINE)


def tiny_config(kind: str) -> transformers.PreTrainedConfig | None:
    """A configuration of that kind of model with few weights; None if none can be made from SIZES."""
    empty = transformers.CONFIG_MAPPING[kind]
    try:
        own = vars(empty())
        config = empty(**{name: value for name, value in FIELDS.items() if name in own})
        with torch.device("meta"):
            network = transformers.AutoModelForCausalLM.from_config(config)
    except Exception:  # each configuration has rules of its own
        return None
    return config if network.num_parameters() <= MOST_PARAMETERS else None


def outcomes(kind: str, folder: Path) -> dict[str, str]:
    """What becomes of each of STEPS, of `load` alone if it is not right; {} where no tiny model can be made.

    `right`, `refused: ...` in our words, `wrong: ...`, or `raw: ...` for an error in other words than ours.
    """
    config = tiny_config(kind)
    if config is None:
        return {}
    tried, found = _Tried(config, folder), {}
    for step in STEPS:
        try:
            what = tried.step_of(step) if step in METHODS else getattr(tried, step)()
            tried.student.network.eval()
            found[step] = f"wrong: {what}" if what else "right"
        except ModelError as error:
            found[step] = f"refused: {str(error).partition(': ')[2]}"
        except Exception as error:
            found[step] = f"raw: {type(error).__name__}: {error}"
        if found["load"] != "right":
            break
    return found


class _Tried:
    """A student and its teacher, of one configuration and other weights. Each step says what is wrong."""

    def __init__(self, config: transformers.PreTrainedConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.kept = RunFolder(folder / "runs" / "full")

    def load(self) -> str:
        source = self.folder / "student"
        teacher, network = self.network(1), self.network(0)
        network.save_pretrained(source)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODEL_FOLDER / "mini-qwen-0.5B" / name, source)
        self.student = models.load(str(source), trains_all=True)
        if self.config.model_type in models.KNOWN:
            logit_checks.check_logits(self.student, [5, 6, 7, 8, 9, 10], in_batches=True)
        self.teacher = Teacher(replace(self.student, network=teacher.requires_grad_(False)))
        return other_logits(replace(self.student, network=network), self.student)

    def network(self, seed: int) -> transformers.PreTrainedModel:
        """With no weight at a value of initialisation, such as the zeros of biases and of padding."""
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(self.config).eval()
        with torch.no_grad():
            for weight in made.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        return made

    def step_of(self, method: str) -> str:
        """Loss and gradient, in training mode, against plain ones; whether a step goes downhill."""
        run = self.training(method)
        batch, weights = run.batch(0)[0], list(run.state.weights.values())
        self.student.network.train()
        loss = run.gradients(batch, 0)
        found = [w.grad for w in weights]
        run.state.optimiser.zero_grad()
        expected = plain_loss(self.student, self.teacher.model, batch, method)
        if what := difference("loss", loss, expected.item()):
            return what
        plain = torch.autograd.grad(expected, weights, allow_unused=True)
        if [g is None for g in found] != [g is None for g in plain]:
            return "a weight has no gradient"
        found, plain = (
            flat(torch.zeros_like(w) if g is None else g for g, w in zip(side, weights, strict=True))
            for side in (found, plain)
        )
        size, error = float(plain.norm()), float((found - plain).norm())
        if not size > 0 or not error <= 1e-3 * size:
            return f"gradient of {size:.4g} off by {error:.4g}"
        before = flat(weights)
        run._step(0)
        return "" if (flat(weights) - before) @ plain < 0 else "a step goes uphill"

    def cached(self) -> str:
        online, states = self.training("fkl"), States(self.folder / "states")
        encoded = encoding.encode(ITEMS, self.student.tokenizer, **online.spec.encoding)
        states.write(self.teacher.model, encoded)
        kept = CachedTeacher(states.open(), load=lambda: self.teacher.model, device="cpu")
        cached = self.training("fkl", teacher=kept)
        return difference("loss", *(run.gradients(run.batch(0)[0], 0) for run in (cached, online)))

    def texts(self) -> str:
        prompts, model = self.prompts(), self.student
        references = [[20, 21, 22], [23]][: len(prompts)]
        both = answers.texts_and_likeliest(model, prompts, references, max_new_tokens=6)
        for prompt, own, text, found in zip(prompts, references, *both, strict=True):
            likeliest = logprobs(model, prompt + own)[len(prompt) - 1 : -1].argmax(-1).tolist()
            if likeliest != found:
                return f"likeliest tokens {found} for {likeliest}"
            ids, eos = list(prompt), model.tokenizer.eos_token_id
            while len(ids) < len(prompt) + 6 and (token := int(logprobs(model, ids)[-1].argmax())) != eos:
                ids.append(token)
            if ids[len(prompt) :] != list(text.token_ids):
                return f"text {text.token_ids} for {ids[len(prompt) :]}"
        return ""

    def ranking(self) -> str:
        prompts, options = self.prompts(), [[[20, 21], [22]], [[23], [24, 25, 26]]]
        ranked = ranking.option_logprobs(self.student, prompts, options)
        for prompt, own, values in zip(prompts, options, ranked, strict=True):
            for option, value in zip(own, values, strict=True):
                found = logprobs(self.student, prompt + option)[len(prompt) - 1 : -1]
                expected = found.gather(1, torch.tensor(option)[:, None]).sum().item()
                if what := difference("log-probability", value, expected):
                    return what
        return ""

    def saved(self) -> str:
        disk.write_model(self.kept.model, self.student.network, self.student.tokenizer)
        self.loaded = load_trained(self.spec("sft"), self.kept)
        return other_logits(self.student, self.loaded)

    def lora(self) -> str:
        """As `adapted`, with the remedy where it is refused."""
        try:
            return self.adapted(self.loaded)
        except ModelError as error:
            if "use lora_dropout=0.0" not in str(error):
                raise
            if what := self.adapted(models.load(str(self.kept.model)), lora_dropout=0.0):
                return f"without dropout, {what}"
            raise

    def adapted(self, model: LoadedModel, **fields) -> str:
        """A LoRA of the student that was saved; reloaded and merged, it must have the same logits."""
        spec, base = self.spec("sft", adapter="lora", **fields), str(self.kept.model)
        model = trainable.make_trainable(model, spec, seed=0)
        run = _Training(model, ITEMS, spec, rate=1e-2)
        model.network.train()
        run._step(0)
        model.network.eval()
        if other_logits(model, self.student) == "":
            return "a step changes nothing"
        kept = RunFolder(self.folder / "runs" / "lora")
        disk.write_model(kept.model, model.network, model.tokenizer)
        loaded = load_trained(spec, kept, base=base)
        if what := other_logits(model, loaded):
            return what
        what = other_logits(model, replace(loaded, network=loaded.network.merge_and_unload()))
        return what and f"merged, {what}"

    def spec(self, method: str, **fields) -> RunSpec:
        fields |= {} if method == "sft" else {"teacher": "teacher"}
        fields |= {"on_policy_share": 1.0, "max_new_tokens": 6} if method == "gkd" else {}
        return RunSpec(student="student", method=method, domain="math", epochs=1, batch_size=2, **fields)

    def training(self, method: str, teacher: Teacher | None = None) -> _Training:
        teacher = None if method == "sft" else teacher or self.teacher
        return _Training(self.student, ITEMS, self.spec(method), rate=1e-5, teacher=teacher)

    def prompts(self) -> list[list[int]]:
        return encoding.prompt_ids([item.question for item in ITEMS], self.student.tokenizer)


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])


def difference(what: str, value: float, expected: float) -> str:
    same = abs(value - expected) <= 1e-3 * abs(expected)
    return "" if same else f"{what} {value:.6g} for {expected:.6g}"


@torch.no_grad()
def other_logits(model: LoadedModel, other: LoadedModel) -> str:
    ids = list(range(5, 25))
    error = float((logprobs(model, ids) - logprobs(other, ids)).abs().max())
    return "" if error < 1e-4 else f"log-probabilities off by {error:.3g}"


def logprobs(model: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Log-probabilities (T, V) in float64 of the model asked alone, without a cache."""
    logits = model.causal(torch.tensor([ids]), use_cache=False).logits[0, :, : model.vocabulary_size]
    return logits.double().log_softmax(-1)


def plain_loss(
    student: LoadedModel, teacher: LoadedModel | None, batch: encoding.Batch, method: str
) -> torch.Tensor:
    """The mean over scored tokens of a method's loss, by its definition, row by row."""

    def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        return (log_p.exp() * (log_p - log_q)).sum()

    total = torch.zeros((), dtype=torch.float64)
    for ids_T, real_T, scored_T in zip(batch.input_ids_BT, batch.attention_BT, batch.scored_BT, strict=True):
        ids, places = ids_T[real_T.bool()], scored_T.nonzero()[:, 0]
        own = logprobs(student, ids.tolist())[places - 1]
        if method == "sft":
            total = total - own.gather(1, ids[places, None]).sum()
            continue
        with torch.no_grad():
            theirs = logprobs(teacher, ids.tolist())[places - 1]
        if method == "gkd":
            middle = torch.logaddexp(own, theirs) - math.log(2)
            total = total + (kl(theirs, middle) + kl(own, middle)) / 2
        else:
            total = total + (kl(theirs, own) if method == "fkl" else kl(own, theirs))
    return total / batch.scored_BT.sum()


def group_of(found: dict[str, str]) -> str:
    """Under which heading an architecture with these outcomes is shown."""
    if not found:
        return NOT_TRIED
    for step, what in found.items():
        if what.startswith("refused"):
            return f"Refused in `{step}`, “{next(words for words in WORDS if words in what)}”"
        if what != "right":
            return f"{what} in `{step}`"
    return RIGHT


def shown() -> dict[str, list[str]]:
    """Heading -> architectures, as the README has them."""
    found = GROUP.findall(README.read_text())
    return {" ".join(heading.split()): re.split(r",\s", kinds) for heading, kinds in found}


def table(groups: dict[str, list[str]]) -> str:
    """What the README shows of these groups."""
    rows = ["| step | right | refused | wrong | raw error |", "|---|--:|--:|--:|--:|"]
    reached = len(KINDS) - len(groups.get(NOT_TRIED, []))
    for step in STEPS:
        own = {heading.split()[0]: 0 for heading in groups}
        for heading, kinds in groups.items():
            own[heading.split()[0]] += len(kinds) * (f"`{step}`" in heading)
        refused, wrong, raw = (own.get(word, 0) for word in ("Refused", "wrong:", "raw:"))
        right = reached - refused - wrong - raw
        rows.append(f"| `{step}` | {right} | {refused} | {wrong} | {raw} |")
        reached = right if step == "load" else reached
    parts = ["\n".join(rows)]
    for heading, kinds in sorted(groups.items(), key=lambda group: (group[0] != RIGHT, -len(group[1]))):
        text = f"**{heading}** ({len(kinds)}): {', '.join(kinds)}."
        parts.append(textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Try all, and write what became of them into the README."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    groups: dict[str, list[str]] = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            groups.setdefault(group_of(outcomes(kind, Path(folder))), []).append(kind)
    before, _, _ = README.read_text().partition("| step |")
    README.write_text(before + table(groups))


if __name__ == "__main__":
    main()
