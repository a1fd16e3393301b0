"""The names of tasks, domains and methods.

One entry makes a method, or a task for items from files. The mini world, the released results and simulations
have tables of their own for the tasks that they know. Tasks and domains of a study file (data.study_files)
are in no list: the key of such a task says how it is read, so that it means the same in every process and
table, `birds?answer=letter&choices=A&choices=B`.
"""

from collections.abc import Callable
from typing import NamedTuple

from kdutils.data.tasks import Open, Task, own_task

MATH, COMMONSENSE, INSTRUCTION = TRAIN_DOMAINS = ("math", "commonsense", "instruction")
DOMAINS = (MATH, COMMONSENSE)  # those with released results
MINI = "mini"  # the generated world, kdutils.mini
BENCHMARK = "benchmark"  # real items: of $KDUTILS_DATA/data where that is there, else those of LLM_ADAPTERS
LLM_ADAPTERS = "llm-adapters"  # real items as the authors used them, downloaded once
STUDY = "study-file"  # the items of a study file, data.study_files

DOMAIN_LABELS = Open({MATH: "Math", COMMONSENSE: "Commonsense", INSTRUCTION: "Instruction following"}, str)


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{number}" for number in range(1, count + 1))


ALL_TASKS = {
    "aqua": Task("AQuA", MATH, "letter", tuple("ABCDE"), 254),
    "addsub": Task("AddSub", MATH, "number", (), 395, contaminated=True),
    "gsm8k": Task("GSM8K", MATH, "number", (), 1319),
    "multiarith": Task("MultiArith", MATH, "number", (), 600, contaminated=True),
    "svamp": Task("SVAMP", MATH, "number", (), 1000),
    "singleeq": Task("SingleEq", MATH, "number", (), 508, contaminated=True),
    "arc_c": Task("ARC-c", COMMONSENSE, "keyword", _numbered("answer", 4), 1172),
    "arc_e": Task("ARC-e", COMMONSENSE, "keyword", _numbered("answer", 4), 2376),
    "boolq": Task("BoolQ", COMMONSENSE, "keyword", ("true", "false"), 3270),
    "hellaswag": Task("HellaSwag", COMMONSENSE, "keyword", _numbered("ending", 4), 10042),
    "obqa": Task("OBQA", COMMONSENSE, "keyword", _numbered("answer", 4), 500),
    "piqa": Task("PIQA", COMMONSENSE, "keyword", _numbered("solution", 2), 1838),
    "siqa": Task("SIQA", COMMONSENSE, "keyword", _numbered("answer", 3), 1954),
    "winogrande": Task("WinoGrande", COMMONSENSE, "keyword", _numbered("option", 2), 1267),
    "dolly": Task("Dolly", INSTRUCTION, "text"),
    "selfinst": Task("Self-Instruct", INSTRUCTION, "text"),
    "vicuna": Task("Vicuna", INSTRUCTION, "text"),
}
ALL_TASKS = Open(ALL_TASKS, own_task)
DOMAIN_TASKS = {
    domain: tuple(key for key, task in ALL_TASKS.items() if task.domain == domain) for domain in TRAIN_DOMAINS
}
MATH_TASKS, COMMONSENSE_TASKS, INSTRUCTION_TASKS = DOMAIN_TASKS.values()
TASKS = MATH_TASKS + COMMONSENSE_TASKS
CHOICE_TASKS = {key: ALL_TASKS[key].options for key in COMMONSENSE_TASKS}
TEST_ITEMS = {key: ALL_TASKS[key].test_items for key in TASKS}
CONTAMINATED_TASKS = tuple(key for key, task in ALL_TASKS.items() if task.contaminated)
AVERAGE = "average"  # the mean over a domain's tasks, analysed as one more task
TASK_LABELS = {key: task.label for key, task in ALL_TASKS.items()} | {AVERAGE: "Average"}
TASK_LABELS = Open(TASK_LABELS, lambda key: own_task(key).label)


def is_text(task: object) -> bool:
    """Whether a task has no right answer, so that ROUGE-L is scored; False of an average."""
    is_own = isinstance(task, str) and "?answer=" in task
    return own_task(task).reading == "text" if is_own else task in INSTRUCTION_TASKS


PREFIXES = {  # whose texts a student is trained on
    "gold": "the gold responses",
    "teacher": "texts of the teacher",
    "student": "the student's own samples",
    "mixed": "gold responses and, on some steps, the student's own samples",
}
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "skew_forward", "skew_reverse", "adaptive", "alpha_beta")


class Method(NamedTuple):
    """A way of training a student."""

    label: str
    prefix: str = ""  # a key of PREFIXES; "": it is not trained
    divergence: str = ""  # between teacher and student at each token, of DIVERGENCES; "": cross-entropy

    @property
    def has_teacher(self) -> bool:
        return self.divergence != "" or self.prefix == "teacher"


METHODS = {
    "base": Method("Base model"),  # as it is, for evaluation
    "sft": Method("SFT", "gold"),
    "fkl": Method("SeqKD† (token forward KL)", "gold", "forward_kl"),
    "seqkd": Method("SeqKD (teacher text)", "teacher"),
    "revkd": Method("RevKD", "gold", "reverse_kl"),
    "gkd": Method("GKD", "mixed", "jsd"),
    "opd": Method("OPD (on-policy reverse KL)", "student", "reverse_kl"),
    "kd": Method("KD"),  # any other prefix and divergence, which are fields of the run
}
LOGIT_METHODS = tuple(key for key, method in METHODS.items() if method.divergence)  # one vocabulary is needed
BY_SEQUENCE = tuple(key for key in LOGIT_METHODS if METHODS[key].prefix == "gold")  # see RunSpec
KD_METHODS = tuple(key for key, method in METHODS.items() if method.has_teacher)  # all that need no fields
# Field of a run -> that of the SFT run which its student starts from.
OF_STARTING_RUN = {"start_items": "train_items", "start_epochs": "epochs"}
OF_STARTING_RUN |= {"start_learning_rate": "learning_rate", "start_wrong_share": "wrong_rationale_share"}
# Field of a run -> the field without which it has no effect.
NEEDED = dict.fromkeys(OF_STARTING_RUN, "student_start") | {"build_compression": "student_build"}
NEEDED |= {"replay_share": "first_domain", "penalty_strength": "penalty"}
OF_TRAINING = (
    *("protocol", "prompt_in_loss", "adapter", "seed", "order_seed", "train_items", "validation_items"),
    *("epochs", "batch_size", "learning_rate", "warmup_share", "weight_decay", "max_grad_norm"),
    *("select_best", "max_tokens", "student_start", "shrink", "perturb", "frozen", "student_build"),
    *("optimiser", "first_domain", "penalty", *NEEDED),
)
SAMPLED = ("student", "mixed")  # prefixes that the student samples
OF_TEACHER = ("teacher_tuned", "teacher_seed", "teacher_items", "teacher_epochs", "teacher_adapter")
USED_BY: dict[str, Callable[[Method], bool]] = {  # field -> has it an effect? One not named here always has
    **dict.fromkeys(("temperature", "noise_sigma"), lambda method: method.divergence != ""),
    "beta": lambda method: method.divergence == "jsd",
    "on_policy_share": lambda method: method.prefix == "mixed",
    **dict.fromkeys(("sampling_temperature", "rollout_steps"), lambda method: method.prefix in SAMPLED),
    "max_new_tokens": lambda method: method.prefix in ("teacher", *SAMPLED),
    **dict.fromkeys(
        ("mean_by_sequence", "kd_weight"), lambda method: method.prefix == "gold" and method.divergence != ""
    ),
    "shadow_loss": lambda method: method.divergence != "",
    **dict.fromkeys(OF_TEACHER, lambda method: method.has_teacher),
    **dict.fromkeys(OF_TRAINING, lambda method: method.prefix != ""),
}
# What LoRA adapts of a block, as in the authors' code, which leaves out o_proj and gate_proj.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")


class Adapter(NamedTuple):
    """A way of adapting a student to its task."""

    label: str
    fields: tuple[str, ...]  # of a run that have an effect with it, and not with every other


_SIZE, _START = ("adapter_parameters", "lora_rank"), ("student_start", "first_domain", "penalty")
_LINEAR = (*_START, "optimiser")  # those that train matrices of linear layers, which Muon steps
ADAPTERS = {  # each is built by the function of its name in kdutils.adapters.trainable
    "full": Adapter("Full fine-tuning", ("frozen", "shrink", "perturb", "student_build", *_LINEAR)),
    "lora": Adapter("LoRA", (*_SIZE, "lora_alpha", "lora_dropout", *_LINEAR)),
    "dora": Adapter("DoRA", (*_SIZE, "lora_alpha", *_LINEAR)),
    "pissa": Adapter("PiSSA", (*_SIZE, *_LINEAR)),
    "miss": Adapter("MiSS", (*_SIZE, *_START)),
    "miss_bat": Adapter("MiSS (bat)", (*_SIZE, *_START)),
    "osf": Adapter("OSF", (*_SIZE, *_START)),
    "unilora": Adapter("Uni-LoRA", ("adapter_parameters", *_START)),
    "shadow": Adapter("ShadowPEFT", (*_SIZE, "shadow_loss", "detached")),
    "random_mask": Adapter("Random mask", ("adapter_parameters",)),
    "static_mask": Adapter("Static gradient mask", ("adapter_parameters", "mask_exponent")),
    "id3": Adapter("ID3", ("adapter_parameters", "mask_exponent")),
    "spt": Adapter("SPT", (*_SIZE, "lora_alpha")),
}
ADAPTER_FIELDS = sorted({name for adapter in ADAPTERS.values() for name in adapter.fields})
BUILDS = {  # of what a student is made before training, by the function of its name in kdutils.builds
    "low_rank": "Low rank, whitened",
    "low_rank_plain": "Low rank",
    "hybrid": "Linear attention",
    "hybrid_distilled": "Linear attention, distilled",
    "pruned": "Pruned",
    "shared": "Shared weights",
}
PENALTIES = {  # terms of the loss, made in kdutils.penalties -> the field that they need
    "l2_sp": "",
    "intervals": "first_domain",
    "features": "student_build",
    "perturbation": "student_build",
}
MASKS = ("random_mask", "static_mask", "id3", "spt")  # train single entries, so need to know how many
NOT_OF_PAPER = ("opd", "kd")  # the authors' code has none such
PAPER_METHODS = ("fkl", "revkd", "gkd")  # the three that the paper compares
METHOD_LABELS = {key: method.label for key, method in METHODS.items()}
METHOD_NAMES = {key: label.split(" (")[0] for key, label in METHOD_LABELS.items()}  # without the note
