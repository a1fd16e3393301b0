"""What can be asked for: the names of the study.

Every key that appears in a table, a parameter or a file name is defined here once.
"""

MATH_TASKS = ("aqua", "addsub", "gsm8k", "multiarith", "svamp", "singleeq")
COMMONSENSE_TASKS = ("arc_c", "arc_e", "boolq", "hellaswag", "obqa", "piqa", "siqa", "winogrande")
DOMAINS = ("math", "commonsense")  # those with released results
TASKS = MATH_TASKS + COMMONSENSE_TASKS
INSTRUCTION_TASKS = ("dolly", "selfinst", "vicuna")
TRAIN_DOMAINS = (*DOMAINS, "instruction")
DOMAIN_TASKS = {"math": MATH_TASKS, "commonsense": COMMONSENSE_TASKS, "instruction": INSTRUCTION_TASKS}
ALL_TASKS = TASKS + INSTRUCTION_TASKS
CHOICE_TASKS = {  # commonsense task -> its answers, in the words of the prompt
    "arc_c": ("answer1", "answer2", "answer3", "answer4"),
    "arc_e": ("answer1", "answer2", "answer3", "answer4"),
    "boolq": ("true", "false"),
    "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
    "obqa": ("answer1", "answer2", "answer3", "answer4"),
    "piqa": ("solution1", "solution2"),
    "siqa": ("answer1", "answer2", "answer3"),
    "winogrande": ("option1", "option2"),
}
AVERAGE = "average"  # the mean over a domain's tasks, analysed as one more task

TASK_LABELS = {
    "aqua": "AQuA",
    "addsub": "AddSub",
    "gsm8k": "GSM8K",
    "multiarith": "MultiArith",
    "svamp": "SVAMP",
    "singleeq": "SingleEq",
    "arc_c": "ARC-c",
    "arc_e": "ARC-e",
    "boolq": "BoolQ",
    "hellaswag": "HellaSwag",
    "obqa": "OBQA",
    "piqa": "PIQA",
    "siqa": "SIQA",
    "winogrande": "WinoGrande",
    "dolly": "Dolly",
    "selfinst": "Self-Instruct",
    "vicuna": "Vicuna",
    AVERAGE: "Average",
}
DOMAIN_LABELS = {
    "math": "Math",
    "commonsense": "Commonsense",
    "instruction": "Instruction following",
}

# Size of each test set, as in the authors' repository (HellaSwag: the official validation set).
TEST_ITEMS = {
    "aqua": 254,
    "addsub": 395,
    "gsm8k": 1319,
    "multiarith": 600,
    "svamp": 1000,
    "singleeq": 508,
    "arc_c": 1172,
    "arc_e": 2376,
    "boolq": 3270,
    "hellaswag": 10042,
    "obqa": 500,
    "piqa": 1838,
    "siqa": 1954,
    "winogrande": 1267,
}

# Tasks whose test questions occur in math_10k, the training set (LLM-Adapters' own README).
CONTAMINATED_TASKS = ("addsub", "multiarith", "singleeq")

METHOD_LABELS = {
    "base": "Base model",
    "sft": "SFT",
    "fkl": "SeqKD† (token forward KL)",
    "seqkd": "SeqKD (teacher text)",
    "revkd": "RevKD",
    "gkd": "GKD",
}
METHOD_NAMES = {method: label.split(" (")[0] for method, label in METHOD_LABELS.items()}  # without the note
KD_METHODS = ("fkl", "seqkd", "revkd", "gkd")
# What LoRA adapts of a block, as in the authors' code, which leaves out o_proj and gate_proj.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
PAPER_METHODS = ("fkl", "revkd", "gkd")  # the three that the paper compares
PROTOCOLS = ("careful", "paper")
TOGETHER = "together"  # every factor in which the protocols differ (grid.profile.FACTORS)
RUN_FACTORS = ("prompt", "sequences", "sampling", TOGETHER)  # those for which there are runs to make
SOURCES = ("published", "live")  # where cells come from
SOURCE_LABELS = {"published": "Released", "live": "Live"}
SELECTIONS = ("best_on_test", "temperature_1")

RELEASED_MODELS = (  # students and teachers of the released tables
    *("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B", "Qwen2.5-14B"),
    *("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"),
)

RELEASED_PAIRS = (  # (teacher, student) of the released tables
    *(("Qwen2.5-3B", student) for student in ("Qwen2.5-0.5B", "Qwen2.5-1.5B")),
    *(("Qwen2.5-7B", student) for student in ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B")),
    *(("Qwen2.5-14B", student) for student in ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B")),
    *(("Llama-3.1-8B", student) for student in ("Llama-3.2-1B", "Llama-3.2-3B")),
)

SECTIONS = {
    "00": "00_overview",
    "01": "01_effectiveness",
    "02": "02_size_correlation",
    "03": "03_teacher_quality",
    "04": "04_agreement",
    "05": "05_fidelity",
    "06": "06_noise",
    "07": "07_temperature",
    "08": "08_claims",
}

BEYOND = {  # ask more of the runs of a section, that of their first two digits
    "01b": "01b_beyond_effectiveness",
}
OWN_SECTIONS = {  # no sections of the paper; they plan runs of their own
    "11": "11_protocol",
}
PLANNED = SECTIONS | BEYOND | OWN_SECTIONS

NOTEBOOKS = (
    *sorted([*SECTIONS.values(), *BEYOND.values()]),
    "09_performance",  # this one and the next are no sections of the paper and plan no runs
    "10_calibration",
    "11_protocol",
)
AT_ONCE = ("10_calibration",)  # need nothing that is trained, and measure no time
ALONE = ("09_performance",)  # measure time
LONG = (
    "08_claims",
    "05_fidelity",
    "01_effectiveness",
    "04_agreement",
    "01b_beyond_effectiveness",
    "02_size_correlation",
)  # the longest first

PERFORMANCE_CASES = ("mini", "smollm", "qwen-vocabulary")  # of notebook 09, see work.case_of

# Fields of a run, and of an evaluation, that follow from the needs of a profile: no setting of its own.
OF_NEEDS = ("student", "teacher", "method", "domain", "seed", "temperature", "noise_sigma", "teacher_tuned")
OF_PROFILE = ("data", "protocol")
OF_EVALUATION = ("tasks", "items_per_task", "scoring")
