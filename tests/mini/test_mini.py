"""The mini world: reproducible, disjoint, without shortcuts, readable; and the shipped folders."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from kdutils.bench.mini_ladder import RELEASED
from kdutils.grid.cell_table import model_parameters
from kdutils.grid.study import RELEASED_MODELS
from kdutils.items import SPLITS, Item, alpaca, fingerprint
from kdutils.mini import arithmetic, commonsense, pretrain, texts
from kdutils.mini.family import FAMILY, MINI_MODELS, MODEL_FOLDER, ROWS, WIDE_ROWS
from kdutils.mini.items import DOMAIN_OF, GENERATORS, TASKS_OF, build_data, generate_items
from kdutils.mini.pretrain import LessonNotLearnedError, build_model, encode_texts, plan_batches, train_model
from kdutils.mini.tokenizer import CONTEXT, build_tokenizer
from kdutils.mini.world import ENTITIES, HOPS, NAMES, RELATIONS, WORLD_SEED, draw_world, shipped_world

KEYWORD = re.compile(r"true|false|solution[12]|answer[1-5]|ending[1-4]|option[12]")
PER_TASK = 100


def parse(task: str, text: str) -> str | None:
    """Written again here: last number, first letter, first keyword."""
    pattern = r"[ABCDE]" if task == "aqua" else r"-?\d+\.?\d*" if DOMAIN_OF[task] == "math" else KEYWORD
    found = re.findall(pattern, text.replace(",", ""))
    if not found:
        return None
    return found[-1].rstrip(".") if DOMAIN_OF[task] == "math" and task != "aqua" else found[0]


def everything(split: str, seed: int = 3, n: int = PER_TASK, **options) -> list[Item]:
    """The items of all domains."""
    made = [build_data(seed=seed, split=split, n_per_task=n, domain=domain, **options) for domain in TASKS_OF]
    return [item for items in made for item in items]


@pytest.fixture(scope="module")
def data():
    return {split: everything(split) for split in SPLITS}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


# -- the world and its items


def test_same_seed_gives_the_same_items():
    first, again, other = (everything("train", seed, 20) for seed in (1, 1, 2))
    assert first == again
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_global_random_state_is_neither_read_nor_changed():
    random.seed(5)
    before = random.getstate()
    one = fingerprint(everything("test", 0, 10))
    assert random.getstate() == before
    random.seed(99)
    assert fingerprint(everything("test", 0, 10)) == one


def test_fewer_items_are_the_first_of_more():
    few, more = (build_data(split="test", n_per_task=n, domain="commonsense") for n in (5, 30))
    assert few == [item for item in more if int(item.id.rsplit("-", 1)[1]) < 5]


def test_every_task_has_its_items_and_ids_are_unique(data):
    for split in SPLITS:
        assert len({item.id for item in data[split]}) == len(data[split])
        assert Counter(item.task for item in data[split]) == dict.fromkeys(DOMAIN_OF, PER_TASK)


def test_world_deals_every_value_equally_often():
    world = shipped_world()
    assert world == draw_world(random.Random(WORLD_SEED))
    for relation in RELATIONS + HOPS:
        assert len(set(Counter(world.facts[relation].values()).values())) == 1
        for value in world.values(relation):
            for split in SPLITS:
                assert world.things(relation, value, split), (relation, value, split)
    step, seen = "wash", set()
    while step not in seen:
        seen.add(step)
        step = world.next_step[step]
    assert len(seen) == len(world.next_step)  # one cycle


def test_no_name_has_a_capital_a_to_e():
    assert not [name for name in NAMES if set(name) & set("ABCDE")]


# -- disjoint


def test_no_question_is_in_two_splits_or_twice(data):
    questions = [item.question for split in SPLITS for item in data[split]]
    assert len(set(questions)) == len(questions)


def test_arithmetic_is_disjoint_up_to_numbers(data):
    masked = {}
    for split in SPLITS:
        kept = [
            item.question.split(" Answer Choices")[0]
            for item in data[split]
            if DOMAIN_OF[item.task] == "math"
        ]
        masked[split] = {re.sub(r"\d+(\.\d+)?", "#", question) for question in kept}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not masked[one] & masked[other]


def _asked(item) -> tuple:
    """What a commonsense question is about, names, options and their order put aside."""
    stem = item.question.split("\n\n")[0]
    stem = re.sub(r"\b(" + "|".join(NAMES) + r")\b", "N", stem)
    options = re.findall(
        r"(?:Answer|Solution|Ending|Option)(\d): (.*?)(?= (?:Answer|Ending|Option)|\n|$)", item.question
    )
    gold = next((text for i, text in options if item.answer.endswith(i)), item.answer)
    if item.task in ("obqa", "piqa"):
        return item.task, stem, gold
    if item.task == "winogrande":
        return item.task, stem.rsplit("_", 1)[1], gold
    if item.task == "hellaswag":
        return item.task, *re.search(r"N (\w+) the (\w+)\. And then", stem).groups()
    if item.task == "siqa":  # for the feelings, who is asked about matters too: told by the answer
        return item.task, stem, gold
    return item.task, stem


def test_commonsense_is_disjoint_up_to_names_and_options(data):
    asked = {
        split: {_asked(i) for i in data[split] if DOMAIN_OF[i.task] == "commonsense"} for split in SPLITS
    }
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not asked[one] & asked[other]


def test_a_fact_asked_in_test_is_asked_in_no_task_of_training():
    world, seen = shipped_world(), defaultdict(set)
    for split in SPLITS:
        for task in ("arc_e", "arc_c", "obqa", "boolq", "piqa", "winogrande"):
            rng = random.Random(f"{split}{task}")
            for _ in range(400):
                (fact,) = commonsense.TASKS[task](rng, world, split).facts
                if fact[0] != "step":
                    seen[split].add(fact)
    assert not seen["train"] & seen["test"] and not seen["validation"] & seen["test"]
    assert all(len(seen[split]) > 40 for split in SPLITS)


def test_only_prompted_texts_hold_prompt_and_format_and_none_a_test_wording(data):
    corpus = list(texts.generate_texts(3_000, random.Random(7)))
    prompted = [text for text in corpus if text.startswith("Below is an instruction")]
    plain = "\n".join(text for text in corpus if text not in prompted)
    plain = re.sub(r"The answer is (\d+ )?[A-E]\.", "", plain)  # solved problems with choices end so, too
    for phrase in ("The answer is", "the correct answer is", "Answer format", "Please", "###", "Below is"):
        assert phrase not in plain
    assert 0.04 < len(prompted) / len(corpus) < 0.10
    told = {re.sub(r"\d+", "#", text.split("?")[0]) for text in corpus if "How many" in text}
    asked = {
        re.sub(r"\d+", "#", i.question.split("?")[0]) for i in data["test"] if DOMAIN_OF[i.task] == "math"
    }
    assert len(told) > 200 and not {text.split("Instruction:")[-1].strip() for text in told} & asked


def test_the_share_of_answered_prompts_is_the_models_own():
    rng, world = random.Random(3), shipped_world()
    for share in (0.1, 0.8):
        answered = {"math": share, "commonsense": share, "instruction": share}
        made = [texts.prompted(rng, world, answered).split("Response:")[1] for _ in range(1_000)]
        in_format = [text for text in made if "answer is" in text]
        instructions = texts.PROMPTED["instruction"]  # whose answers have no such words
        assert abs(len(in_format) / 1_000 - share * (1 - instructions)) < 0.06
        assert all(
            parse("boolq", text) is parse("gsm8k", text) is None for text in made if text not in in_format
        )


# -- no shortcut


def _options(item) -> list[str]:
    found = re.findall(
        r"(?:Answer|Solution|Ending|Option)\d: (.*?)(?= (?:Answer\d|Ending\d|Option\d|Answer format)|\n|$)",
        item.question,
    )
    return [text.strip() for text in found]


CHOICE_TASKS = [task for task in GENERATORS["commonsense"] if task != "boolq"]


def _items(task: str, split: str, n: int = 400):
    return generate_items(task, split=split, n=n, rng=random.Random(f"{task}{split}"))


def _within_chance(hits: int, n: int, chance: float, sigmas: float = 3.5) -> bool:
    return abs(hits / n - chance) < sigmas * math.sqrt(chance * (1 - chance) / n)


@pytest.mark.parametrize("task", [*GENERATORS["commonsense"], "aqua"])
def test_answers_are_uniform(task):
    items = _items(task, "test")
    counts = Counter(item.answer for item in items)
    k = len(counts)
    assert k == {"boolq": 2, "aqua": 5}.get(task) or k == len(_options(items[0]))
    assert all(_within_chance(n, len(items), 1 / k) for n in counts.values()), counts


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_length_tells_nothing(task):
    items = _items(task, "test")
    longest = shortest = expected = 0.0
    for item in items:
        options, gold = _options(item), int(item.answer[-1]) - 1
        sizes = [len(option.split()) for option in options]
        for pick in (max, min):
            ties = [i for i, size in enumerate(sizes) if size == pick(sizes)]
            share = (gold in ties) / len(ties)
            longest, shortest = longest + share * (pick is max), shortest + share * (pick is min)
        expected += 1 / len(options)
    sd = math.sqrt(len(items) * 0.25)
    assert abs(longest - expected) < 3.5 * sd and abs(shortest - expected) < 3.5 * sd


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_words_of_the_options_tell_nothing(task):
    """Naive Bayes over the words of an option, learned in training, at chance in test."""
    good, bad = Counter(), Counter()
    for item in _items(task, "train"):
        for i, option in enumerate(_options(item), start=1):
            (good if item.answer.endswith(str(i)) else bad).update(option.rstrip(".").split())
    total_good, total_bad = sum(good.values()), sum(bad.values())

    def weight(option: str) -> float:
        words = option.rstrip(".").split()
        return sum(
            math.log((good[w] + 1) / (total_good + 1)) - math.log((bad[w] + 1) / (total_bad + 1))
            for w in words
        )

    items = _items(task, "test")
    hits = 0
    for item in items:
        options = _options(item)
        hits += max(range(len(options)), key=lambda i: weight(options[i])) + 1 == int(item.answer[-1])
    assert _within_chance(hits, len(items), 1 / len(options)), hits / len(items)


@pytest.mark.parametrize("task", ["boolq", "winogrande", "aqua", "arc_e", "siqa", "hellaswag"])
def test_words_of_the_whole_question_tell_nothing(task):
    """Naive Bayes over all words of the question, answers as classes: at chance in test."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for item in _items(task, "train"):
        counts[item.answer].update(re.findall(r"[A-Za-z]+|\d", item.question))
    totals = {answer: sum(words.values()) for answer, words in counts.items()}
    items = _items(task, "test")
    hits = 0
    for item in items:
        words = re.findall(r"[A-Za-z]+|\d", item.question)
        score = {a: sum(math.log((c[w] + 1) / (totals[a] + 600)) for w in words) for a, c in counts.items()}
        hits += max(score, key=score.get) == item.answer
    assert _within_chance(hits, len(items), 1 / len(counts)), hits / len(items)


def test_aqua_rank_tells_nothing():
    """Neither the smallest nor the middle nor the largest of the five numbers is right more often."""
    ranks = Counter()
    items = _items("aqua", "test", 800)
    for item in items:
        numbers = [float(x) for x in re.findall(r"\([A-E]\) ([\d.]+)", item.question)]
        ranks[sorted(numbers).index(numbers["ABCDE".index(item.answer)])] += 1
    assert all(_within_chance(ranks[r], len(items), 0.2, sigmas=4.5) for r in range(5)), ranks


# -- responses, wrong rationales


def test_right_responses_parse_to_their_answers(data, tokenizer):
    for split in ("validation", "test"):
        for item in data[split]:
            if DOMAIN_OF[item.task] != "instruction":
                decoded = tokenizer.decode(tokenizer(item.response)["input_ids"])
                assert parse(item.task, decoded) == item.answer, item
            else:
                assert item.response == item.answer


def test_the_stated_share_of_training_rationales_is_wrong(data, tokenizer):
    for task in GENERATORS["math"]:
        items = [item for item in data["train"] if item.task == task]
        decoded = [tokenizer.decode(tokenizer(item.response)["input_ids"]) for item in items]
        wrong = [parse(task, text) != item.answer for text, item in zip(decoded, items, strict=True)]
        assert sum(wrong) == round(0.23 * len(items))
        assert all(re.search(r"The answer is [\d.A-E]+\.$", text) for text in decoded)
    clean = build_data(seed=3, split="train", n_per_task=PER_TASK, domain="math", wrong_rationale_share=0.0)
    for right, item in zip(clean, data["train"], strict=False):
        assert (right.question, right.answer) == (item.question, item.answer)
        assert parse(right.task, right.response) == right.answer


def _steps(text: str) -> list[bool]:
    found = re.findall(r"([\d.]+) ([-+*/]) ([\d.]+) = (\d+(?:\.\d+)?)", text)
    apply = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    return [abs(apply[op](float(a), float(b)) - float(c)) < 1e-6 for a, op, b, c in found]


def test_every_number_has_a_token(data):
    items = [item for split in SPLITS for item in data[split] if DOMAIN_OF[item.task] == "math"]
    told = [f"{item.question} {item.response}" for item in items]
    told += texts.generate_texts(3_000, random.Random(2))
    assert max(int(number) for text in told for number in re.findall(r"\d+", text)) <= arithmetic.LARGEST


def test_a_wrong_rationale_slips_in_exactly_one_step():
    for task in GENERATORS["math"]:
        items = generate_items(task, split="train", n=200, rng=random.Random(task), wrong_rationale_share=0.5)
        for item in items:
            right = parse(task, item.response) == item.answer
            assert _steps(item.response).count(False) == (0 if right else 1), item.response


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "gsm8k", "split": "dev", "n": 1}, "unknown split"),
        ({"task": "gsm8k", "split": "train", "n": 1, "wrong_rationale_share": 1.5}, "not in"),
        ({"task": "boolq", "split": "validation", "n": 100_000}, "different questions"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate_items(**arguments, rng=random.Random(0))


def test_a_rationale_is_said_in_many_ways():
    """Of one task and question kind hardly two rationales are alike, numbers masked; all are right."""
    forms = Counter()
    for item in generate_items("addsub", split="train", n=300, rng=random.Random(1)):
        assert all(_steps(item.response))
        forms[re.sub(r"\d+", "#", item.response)] += 1
    assert max(forms.values()) <= 3


def test_steps_come_in_more_than_one_order():
    items = generate_items("gsm8k", split="test", n=400, rng=random.Random(1))
    kept = [item for item in items if item.question.count("bags with") == 2]
    firsts = []
    for item in kept:
        f, g, h, i = map(int, re.findall(r"\d+", item.question)[:4])
        first = {int(n) for n in re.findall(r"(\d+) \* (\d+)", item.response)[0]}
        if {f, g} != {h, i}:
            firsts.append(first == {f, g})
    assert 0.3 < sum(firsts) / len(firsts) < 0.7 and len(firsts) > 50


# -- tokenizer


def test_round_trip_without_unknown_tokens(data, tokenizer):
    for split in SPLITS:
        for item in data[split]:
            text = alpaca(item.question) + item.response
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
            assert len(ids) + 1 <= CONTEXT
            assert (
                tokenizer(alpaca(item.question))["input_ids"]
                == ids[: len(ids) - len(tokenizer(item.response)["input_ids"])]
            )
    for text in texts.generate_texts(3_000, random.Random(1)):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids).split() == text.split()


def test_a_number_is_one_token_and_the_prompt_is_cheap(tokenizer):
    ids = tokenizer("12 + 3 = 15")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["12", "+", "3", "=", "15"]
    item = build_data(split="test", n_per_task=1, domain="math")[0]
    text = alpaca(item.question)
    assert len(tokenizer(text)["input_ids"]) == len(tokenizer(item.question)["input_ids"]) + 4
    training_form = text.replace("request. \n", "request.  \n").replace("\n\n   ", "\n                \n   ")
    assert tokenizer(training_form)["input_ids"] == tokenizer(text)["input_ids"]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id and len(tokenizer) < ROWS


# -- the family


def test_the_family_is_the_released_one():
    stands_for = {model.name: model.stands_for for model in FAMILY}
    assert list(stands_for.values()) == list(RELEASED_MODELS) == list(RELEASED)
    for name, released in stands_for.items():
        assert model_parameters(name) == model_parameters(released)


@pytest.mark.parametrize("name", MINI_MODELS)
def test_shipped_folder(name, tokenizer):
    network = AutoModelForCausalLM.from_pretrained(MODEL_FOLDER / name)
    classes = {"qwen": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "hybrid": "Qwen3_5ForCausalLM"}
    shipped = PreTrainedTokenizerFast.from_pretrained(MODEL_FOLDER / name)
    model = MINI_MODELS[name]
    assert network.config.architectures == [classes[model.architecture]]
    assert network.get_input_embeddings().weight.shape == (model.rows, model.hidden)
    assert network.get_input_embeddings().weight is network.get_output_embeddings().weight
    assert network.num_parameters() < 2_000_000
    assert network.dtype == torch.bfloat16
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert {file.name for file in (MODEL_FOLDER / name).iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_two_largest_qwen_like_models_have_more_padding_rows():
    qwen = [model for model in FAMILY if model.architecture == "qwen"]
    assert [model.rows for model in qwen] == [ROWS] * 3 + [WIDE_ROWS] * 2
    assert {model.rows for model in FAMILY if model.architecture == "llama"} == {ROWS}


def test_all_folders_fit_in_twenty_megabytes():
    assert sum(file.stat().st_size for file in MODEL_FOLDER.rglob("*")) <= 20_000_000


TINY = replace(FAMILY[0], texts=150)


def test_pretraining_is_deterministic():
    ids, starts = encode_texts(TINY.texts, random.Random(0))
    again, _ = encode_texts(TINY.texts, random.Random(0))
    assert np.array_equal(ids, again)
    sizes = texts.lesson_sizes(TINY.texts)
    planned = sorted(i for lesson in plan_batches(starts, sizes) for step in lesson for i in step)
    assert planned == list(range(sum(sizes)))  # each text once
    weights = []
    for _ in range(2):
        network, _ = train_model(TINY, ids, starts, pad=0, eos=1, seed=4)
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(*weights)


def test_a_lesson_ends_at_the_bar_and_the_last_with_its_texts(monkeypatch):
    ids, starts = encode_texts(TINY.texts, random.Random(0))
    sizes = texts.lesson_sizes(TINY.texts)
    n_steps = [len(lesson) for lesson in plan_batches(starts, sizes)]
    monkeypatch.setattr(pretrain, "BAR_PASSES", 2)
    least, most = n_steps[-1] + len(n_steps) - 1, n_steps[-1] + 2 * (len(n_steps) - 1)
    for bar, allowed in ((0.0, range(least, most + 1)), (1.1, [sum(n_steps)])):
        lessons = tuple((size, bar, mix) for size, _, mix in texts.LESSONS)
        monkeypatch.setattr(pretrain, "LESSONS", lessons)
        _, losses = train_model(TINY, ids, starts, pad=0, eos=1, seed=4)
        assert len(losses) in allowed
    with pytest.raises(LessonNotLearnedError, match="lesson 1 of"):  # its bar is above all that can be
        train_model(TINY, ids, starts, pad=0, eos=1, seed=4, required=1)


def test_a_model_that_misses_a_required_lesson_begins_anew_with_the_next_seed(monkeypatch, tmp_path):
    seeds, real = [], train_model

    def misses_once(*arguments, seed, required, **rest):
        seeds.append(seed)
        if len(seeds) == 1:
            raise LessonNotLearnedError
        return real(*arguments, seed=seed, **rest)

    monkeypatch.setitem(MINI_MODELS, TINY.name, TINY)
    monkeypatch.setattr(pretrain, "train_model", misses_once)
    for name in ("set_num_threads", "set_flush_denormal"):  # of the process, which goes on
        monkeypatch.setattr(torch, name, lambda _: None)
    pretrain.rebuild_one(TINY.name, tmp_path)
    assert seeds == [WORLD_SEED, WORLD_SEED + 1] and (tmp_path / TINY.name / "model.safetensors").is_file()


@pytest.mark.parametrize("architecture", ["qwen", "llama"])
def test_heads_begin_with_their_habits(architecture, tokenizer):
    """The first head of layer 1 looks at the token before, that of layer 2 at a token like its own."""
    model = max((model for model in FAMILY if model.architecture == architecture), key=lambda m: m.hidden)
    network = build_model(model, pad=0, eos=1, generator=torch.Generator().manual_seed(0))
    network.set_attn_implementation("eager")
    ids = tokenizer("(A) 17 (B) 35 (C) 44. 17", return_tensors="pt")["input_ids"]
    attentions = network(input_ids=ids, output_attentions=True).attentions
    assert (attentions[0][0, 0, 2:].diagonal(1) > 0.5).all()


def test_untrained_weights_depend_on_the_generator_alone():
    torch.manual_seed(1)
    one = build_model(FAMILY[0], pad=0, eos=1, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    other = build_model(FAMILY[0], pad=0, eos=1, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_arithmetic_keeps_no_template_without_its_numbers():
    rng = random.Random(0)
    for task in arithmetic.TASKS:
        for _ in range(100):
            problem = arithmetic.TASKS[task](rng, shipped_world(), "train")
            assert "{" not in problem.question + problem.response and "#" not in problem.question
    assert len(ENTITIES) == 40
