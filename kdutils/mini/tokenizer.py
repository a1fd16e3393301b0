"""The tokenizer of the mini family: words, and numbers below 100.

Sentences that every prompt repeats are single tokens which swallow the whitespace around them, so
that the Alpaca prompt costs four tokens in any of its whitespace variants.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdutils.items import SPLITS
from kdutils.mini import world
from kdutils.mini.arithmetic import OBJECTS
from kdutils.mini.commonsense import HEADS, TRUE_FALSE
from kdutils.mini.items import TASKS_OF, build_data
from kdutils.mini.texts import KINDS

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
UNUSED = "\u2581"  # the WordPiece decoder wants a mark of continued words; no token carries it
CONTEXT = 192  # positions of every mini model

PROMPT_PARTS = (
    "Below is an instruction that describes a task.",
    "Write a response that appropriately completes the request.",
    "### Instruction:",
    "### Response:",
)
KEYWORDS = {"answer": 5, "solution": 2, "ending": 4, "option": 2}  # how many of each
LABELS = tuple(f"{keyword.capitalize()}{i}:" for keyword, n in KEYWORDS.items() for i in range(1, n + 1))
ANSWERS = tuple(f"{keyword}{i}" for keyword, n in KEYWORDS.items() for i in range(1, n + 1))
OFFERED = (("answer", 3), ("answer", 4), *KEYWORDS.items())
FORMATS = ["/".join(f"{keyword}{i}" for i in range(1, n + 1)) for keyword, n in OFFERED]
PHRASES = (
    *PROMPT_PARTS,
    *(head.strip() for head in HEADS.values()),
    TRUE_FALSE.strip(),
    *(f"Answer format: {options}" for options in ("true/false", *FORMATS)),
    *LABELS,
    *("Answer Choices:", "(A)", "(B)", "(C)", "(D)", "(E)"),
)

FIRST_NUMBER = 3 + len(PHRASES) + len(ANSWERS)  # the id of "0"; those of the numbers up to 99 follow

# A keyword with its number is one word; a number is one token up to 99, then it is read two digits at a time.
PIECE = r"(?:answer|solution|ending|option)[1-5]|[A-Za-z]+|[1-9][0-9]|[0-9]|[^\sA-Za-z0-9]"

# Joined by spaces, then repaired; in this order.
REPAIRS = (
    (r" (?=[.,?:])", ""),
    (r" (?=(?:Answer|Ending|Option)1:|Solution[12]:|Answer format: (?!option))", "\n\n"),
    (r"request\. ### Instruction: ", "request. \n\n                ### Instruction:\n                "),
    (r" ### Response:( |$)", "\n\n                ### Response:\n                "),
)


def _every_word() -> Iterator[str]:
    """Texts in which every word of the world, the tasks and the pretraining texts occurs."""
    village = world.shipped_world()
    names = (world.NAMES, world.ENTITIES, world.EVENTS, world.FEELINGS, world.WISHES, OBJECTS)
    yield from map(" ".join, names)
    yield from (" ".join([*words, *words.values()]) for words in (world.STEPS, world.STATES))
    yield from (" ".join(village.values(relation)) for relation in world.RELATIONS + world.HOPS)
    for split in SPLITS:
        for domain in TASKS_OF:
            items = build_data(split=split, n_per_task=200, domain=domain)
            yield from (f"{item.question} {item.response}" for item in items)
    rng = random.Random(0)
    kinds = [tell for kind, tell in KINDS.items() if kind != "prompted"]  # whose words are those of the items
    yield from (tell(rng, village) for tell in kinds for _ in range(300))


def vocabulary() -> list[str]:
    """Every token in the order of its id: special tokens, phrases, answers, words of the world."""
    words = {piece for text in _every_word() for piece in re.findall(PIECE, text)}
    fixed = [PAD, EOS, UNKNOWN, *PHRASES, *ANSWERS, *map(str, range(100))]
    fixed += [*".,?:+-*/=_", *"ABCDE", "true", "false"]
    return fixed + sorted(words - set(fixed))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The fast tokenizer, padding on the right, pad distinct from eos, no token added by itself."""
    ids = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="removed", invert=True)
    tokenizer.add_special_tokens([PAD, EOS, UNKNOWN])
    tokenizer.add_tokens(
        [AddedToken(phrase, lstrip=True, rstrip=True, normalized=False) for phrase in PHRASES]
    )
    repairs = [decoders.Replace(Regex(pattern), text) for pattern, text in REPAIRS]
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix=UNUSED, cleanup=False), decoders.Fuse(), *repairs]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
