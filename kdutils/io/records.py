"""Frozen dataclasses that check what they are given, have a digest, and are written and read as JSON."""

import dataclasses
import hashlib
import json
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Self, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, Field, ValidationError

from kdutils.io.text_safety import shown

SCHEMA_VERSION = 1  # part of every digest; raised when a default changes its meaning


def _printable(text: str) -> str:
    if not text.isprintable():  # spec.json could not be written, or read by people
        raise ValueError("must be text on one line that can be printed")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: give a name, a folder or a file")
    return text


def between(least: float, greatest: float) -> Any:
    """The bounds of a number, both legal, for Annotated."""
    return Field(ge=least, le=greatest)


Text = Annotated[str, AfterValidator(_printable)]
Name = Annotated[Text, AfterValidator(_not_blank)]


@cache
def defaults_of(kind: type, *names: str) -> dict[str, Any]:
    """Field -> default of a dataclass, of the fields that are named, or of all."""
    found = {entry.name: entry.default for entry in dataclasses.fields(kind)}
    return {name: found[name] for name in names} if names else found


@dataclass_transform(kw_only_default=True, frozen_default=True)
def record(kind: type) -> Any:
    """A frozen pydantic dataclass, strict about types (an int may be a float), with one-line errors."""
    config = pydantic.ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
    made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(kind)
    validate = made.__init__

    def init(self: Any, /, **fields: Any) -> None:
        try:
            validate(self, **fields)
        except ValidationError as error:
            raise ValueError(_in_one_line(made, error, fields)) from None

    made.__init__ = init
    return made


def _in_one_line(kind: type, error: ValidationError, fields: dict[str, Any]) -> str:
    """The first thing that is wrong: field, value, and what it must be."""
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:  # of `__post_init__`
        return str(first["ctx"]["error"])
    name = first["loc"][0]
    if name not in defaults_of(kind):
        return f"{kind.__name__} has no field {shown(name)}; use those of {sorted(defaults_of(kind))}"
    if name not in fields:
        return f"{kind.__name__} needs {name}: give {name}=..."
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{name}={shown(fields[name])} {reason}"


class Hashed:
    """A record with a canonical form and its digest."""

    APART: ClassVar[tuple[str, ...]] = ()  # fields that say how it is computed: not in digest and equality

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults; those without a default are always among them."""
        return {
            name: getattr(self, name)
            for name, default in defaults_of(type(self)).items()
            if default is dataclasses.MISSING or getattr(self, name) != default
        }

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the canonical form.

        Fields that are APART or at their default are left out: one that is added changes no old digest.
        """
        changes = {name: value for name, value in self.changes().items() if name not in self.APART}
        canonical = {"schema": SCHEMA_VERSION, "kind": type(self).__name__} | changes
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def apart(self) -> tuple[Any, ...]:
        """The fields that are APART: what a cache of equal specs must know besides."""
        return tuple(getattr(self, name) for name in self.APART)

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return {name: getattr(self, name) for name in defaults_of(type(self))}  # flat, so nothing is copied

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The record with these fields, the inverse of `to_dict`; a ValueError says what is wrong."""
        return cls(**fields)
