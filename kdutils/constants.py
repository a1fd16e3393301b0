"""The names of tasks, domains and methods.

One entry makes a method, or a task for items from files. The mini world, the released results and simulations
have tables of their own for the tasks that they know.
"""

from typing import NamedTuple

MATH, COMMONSENSE, INSTRUCTION = TRAIN_DOMAINS = ("math", "commonsense", "instruction")
DOMAINS = (MATH, COMMONSENSE)  # those with released results
DOMAIN_LABELS = {MATH: "Math", COMMONSENSE: "Commonsense", INSTRUCTION: "Instruction following"}


class Task(NamedTuple):
    """A kind of question."""

    label: str
    domain: str
    reading: str  # how an answer is read from a response, a key of data.answers.READINGS
    options: tuple[str, ...] = ()  # the possible answers, in the words of the prompt; (): it is free
    test_items: int = 0  # in the authors' repository (HellaSwag: the official validation set)
    contaminated: bool = False  # its test questions occur in math_10k (LLM-Adapters' own README)


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
DOMAIN_TASKS = {
    domain: tuple(key for key, task in ALL_TASKS.items() if task.domain == domain) for domain in TRAIN_DOMAINS
}
MATH_TASKS, COMMONSENSE_TASKS, INSTRUCTION_TASKS = DOMAIN_TASKS.values()
TASKS = MATH_TASKS + COMMONSENSE_TASKS
RANKED_TASKS = tuple(key for key, task in ALL_TASKS.items() if task.options)  # by likelihood of the options
CHOICE_TASKS = {key: ALL_TASKS[key].options for key in COMMONSENSE_TASKS}
TEST_ITEMS = {key: ALL_TASKS[key].test_items for key in TASKS}
CONTAMINATED_TASKS = tuple(key for key, task in ALL_TASKS.items() if task.contaminated)
AVERAGE = "average"  # the mean over a domain's tasks, analysed as one more task
TASK_LABELS = {key: task.label for key, task in ALL_TASKS.items()} | {AVERAGE: "Average"}


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
# What LoRA adapts of a block, as in the authors' code, which leaves out o_proj and gate_proj.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")


class Adapter(NamedTuple):
    """A way of adapting a student to its task."""

    label: str
    fields: tuple[str, ...]  # of a run that have an effect with it, and not with every other


_SIZE, _START = ("adapter_parameters", "lora_rank"), ("student_start",)
ADAPTERS = {  # each is built by the function of its name in kdutils.adapters.trainable
    "full": Adapter("Full fine-tuning", ("frozen", "shrink", "perturb", *_START)),
    "lora": Adapter("LoRA", (*_SIZE, "lora_alpha", "lora_dropout", "teacher_adapter", *_START)),
    "dora": Adapter("DoRA", (*_SIZE, "lora_alpha", *_START)),
    "pissa": Adapter("PiSSA", (*_SIZE, *_START)),
    "miss": Adapter("MiSS", (*_SIZE, *_START)),
    "miss_bat": Adapter("MiSS (bat)", (*_SIZE, *_START)),
    "shadow": Adapter("ShadowPEFT", (*_SIZE, "shadow_loss", "detached")),
    "random_mask": Adapter("Random mask", ("adapter_parameters",)),
    "static_mask": Adapter("Static gradient mask", ("adapter_parameters", "mask_exponent")),
    "id3": Adapter("ID3", ("adapter_parameters", "mask_exponent")),
    "spt": Adapter("SPT", (*_SIZE, "lora_alpha")),
}
ADAPTER_FIELDS = sorted({name for adapter in ADAPTERS.values() for name in adapter.fields})
MASKS = ("random_mask", "static_mask", "id3", "spt")  # train single entries, so need to know how many
NOT_OF_PAPER = ("opd", "kd")  # the authors' code has none such
PAPER_METHODS = ("fkl", "revkd", "gkd")  # the three that the paper compares
METHOD_LABELS = {key: method.label for key, method in METHODS.items()}
METHOD_NAMES = {key: label.split(" (")[0] for key, label in METHOD_LABELS.items()}  # without the note
