"""TOML files that people write: read, checked by pydantic, and refused in one line that names the place."""

import contextlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic import ValidationError as PydanticError

from kdutils.io.text_safety import shown


class Refused(ValueError):  # noqa: N818 - an error of the file's author
    """One line: key, value, what it must be; and the key, to find its line by."""

    def __init__(self, message: str, key: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.key = key


def read(path: Path) -> dict[str, Any]:
    """The entries of a file.

    Raises:
        ValueError: if it cannot be read, or is not TOML in UTF-8.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error.reason}); use that encoding") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.name} is not TOML ({reason}); use KEY = VALUE lines and [tables]") from None


def checked(
    kind: Any, entries: Any, *, within: Sequence[str] = (), inner: Mapping[str, Any] | None = None
) -> Any:
    """The entries as a pydantic dataclass `kind`.

    Args:
        within: the key at which they stand in the file.
        inner: key -> the dataclass of the tables there.

    Raises:
        Refused: for the first thing that is wrong.
    """
    with one_line_errors(within, {"": kind} | (inner or {})):
        return TypeAdapter(kind).validate_python(entries)


@contextlib.contextmanager
def one_line_errors(within: Sequence[str] = (), kinds: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Within the block, the first thing that pydantic refuses is a Refused.

    Raises:
        Refused: naming the key, its value and what it must be.
    """
    try:
        yield
    except PydanticError as error:
        raise _first_of(error, within, kinds or {}) from None


def _first_of(error: PydanticError, within: Sequence[str], kinds: Mapping[str, Any]) -> Refused:
    unknown = "unexpected_keyword_argument"  # first, since a misspelt key is missing under its right name
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != unknown)
    place = (*within, *(part for part in first["loc"] if part not in ("[key]", "Profile", "Live", "Need")))
    key = ".".join(map(str, place))
    if first["type"] == "missing":
        return Refused(f"{key} is missing; give it", place[:-1])
    if first["type"] == unknown:
        kind = next((kinds[part] for part in place if part in kinds), kinds.get(""))
        known = f"use one of {[each.name for each in fields(kind)]}" if kind else "leave it out"
        return Refused(f"{key} is unknown; {known}", place)
    message = first["msg"].removeprefix("Value error, ").replace(" after validation", "")
    if first["type"] == "value_error" and not message.startswith("it must"):  # of `__post_init__`
        own = getattr(first["ctx"]["error"], "key", ())
        named = re.match(r"(\w+)=", message)
        return Refused(message, own or ((*place, named[1]) if named else place))
    message = re.sub("^[A-Z][a-z]+ should (be|have)", r"it must \1", message)
    message = message.replace("a valid tuple", "a list")
    return Refused(f"{key}={shown(first['input'])}: {message}", place)


def placed(path: Path, error: ValueError) -> str:
    """What is wrong with a file, with the line of the key that the error, or else its first word, names.

    An error that names its file is left as it is.
    """
    message = str(error)
    if str(path.parent) in message.split(":")[0]:
        return message
    key = getattr(error, "key", ()) or _named(path, message)
    line = f", line {line_of(path.read_text(encoding='utf-8'), key)}" if key else ""
    return f"{path}{line}: {message}"


def _named(path: Path, message: str) -> Sequence[str | int]:
    """The key of [live], or of a table within, that a message begins with, with its value.

    That of [live] where none is named so. Empty where all have other values (the one that is refused was not
    given in the file) or several have it.
    """
    named = re.match(r"(?:RunSpec has no field ')?(\w+)(?:'|=(.*))", message)
    if not named:
        return ()
    entries = _within(read(path).get("live", {}), ("live",))
    keys = {key: rf"{re.escape(shown(value))}(\.0)?(?!\w|\.\d)" for key, value in entries if named[1] in key}
    if not keys:
        return ("live",)
    fitting = [key for key, form in keys.items() if not named[2] or re.match(form, named[2])]
    return fitting[0] if len(fitting) == 1 or fitting and not named[2] else ()


def _within(values: Any, above: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """All keys below one, with their values."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values if type(values) is list else ())
    for name, value in pairs:
        yield (*above, name), value
        yield from _within(value, (*above, name))


def line_of(text: str, key: Sequence[str | int]) -> int:
    """The line, from 1, of a key of a TOML text; that of the table it would stand in where it is missing."""
    key = [part for part in key if part != "settings"]
    tables: Counter[tuple] = Counter()
    table: tuple = ()
    deepest, found = 0, 1
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.match(r"\s*(\[{1,2})\s*([^\[\]#]+?)\s*\]|\s*([\w.\"'-]+)\s*=", line)
        if not match:
            continue
        names = tuple(part.strip(" \"'") for part in (match[2] or match[3]).split("."))
        if match[1]:
            here = table = names if match[1] == "[" else (*names, tables[names])
            tables[names] += 1
        else:
            here = (*table, *names)
        if len(here) > deepest and list(here) == key[: len(here)]:
            deepest, found = len(here), number
    return found
