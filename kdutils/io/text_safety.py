"""Untrusted text made safe to print in a message, a table or Markdown, and text without secrets.

Imports the standard library only: it is needed to report bad input before anything else is loaded.
"""

import json
import os
import re
import unicodedata
from typing import Any

MOST_SHOWN = 80  # characters of a value in a message
# Categories of Unicode: controls, formats such as right-to-left, lone surrogates.
INVISIBLE = ("Cc", "Cf", "Cs")
JOINERS = "\u200c\u200d\u00ad"  # formats that scripts and emoji need, and the soft hyphen
SECRETS = re.compile(
    r"(?P<hub>\bhf_)[A-Za-z0-9]{20,}"
    r"|(?P<api>\bsk-)[A-Za-z0-9_-]{20,}"  # OpenAI and others with the same form
    r"|(?P<wandb>\bwandb_v1_)[A-Za-z0-9_]{20,}"
    r"|(?P<git>\bgh[opsur]_|\bgithub_pat_)[A-Za-z0-9_]{20,}"
    r"|(?P<named>\b[A-Z][A-Z0-9_]*(?:API_KEY|TOKEN|SECRET|PASSWORD)['\"\\]*\s*[=:]\s*['\"\\]*)[^\s'\"\\,;}]{8,}"
    r"|(?P<url>://)[^\s/:@'\"\\]+:[^\s/:@'\"\\]+(?=@)"  # user:password
)
SECRET_VARIABLE = re.compile(r"(API_KEY|TOKEN|SECRET|PASSWORD|PASSWD)$")
OWN_VARIABLES = ("KDUTILS_RUN_TOKEN",)  # an identifier, no secret
SHORTEST_SECRET = 8  # characters: shorter ones may be part of a word


def shown(value: Any) -> str:
    """`value` as Python writes it, on one line and at most MOST_SHOWN characters long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write an int of more than some thousand digits
        text = f"<{type(value).__name__} of too many digits>"
    except RecursionError:
        text = f"<{type(value).__name__} of too many levels>"
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def visible(text: str) -> str:
    """`text` with invisible characters written out, which could hide or reorder others.

    Controls become their pictures (␀, ␛), other formats and lone surrogates their code, such as \\u202e.
    Tabs, line ends and JOINERS stay.
    """
    return "".join(map(_visible, text)) if not text.isprintable() else text


def _visible(character: str) -> str:
    if character in "\t\n" + JOINERS or unicodedata.category(character) not in INVISIBLE:
        return character
    if character < " ":
        return chr(0x2400 + ord(character))
    return "\u2421" if character == "\x7f" else f"\\u{ord(character):04x}"


def without_markup(text: str) -> str:
    """Markdown whose tags, links and images are shown as text; emphasis and code stay."""
    return visible(text).replace("<", "&lt;").replace("[", "&#91;")


def scrub(text: str) -> str:
    """`text` without keys and access tokens: those of known forms and those in environment variables."""
    for secret in _secrets_of_environment():
        text = text.replace(secret, "(removed)")
    return SECRETS.sub(lambda match: f"{match[match.lastgroup]}(removed)", text)


def _secrets_of_environment() -> list[str]:
    """Longest first, each also with JSON's escapes, since notebooks are scrubbed as files."""
    values = {
        value
        for name, value in os.environ.items()
        if SECRET_VARIABLE.search(name.upper()) and name not in OWN_VARIABLES
        if len(value) >= SHORTEST_SECRET
    }
    values |= {json.dumps(value, ensure_ascii=False)[1:-1] for value in values}
    return sorted(values, key=len, reverse=True)
