"""The parameters of a notebook: what its tagged cell declares, and what may be given for them.

The cell is parsed and not executed, so that what smuggles code in is refused before a kernel starts.
"""

import ast
import difflib
import io
import json
import keyword
import tokenize
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from kdutils.grid.profile import PARAMETER_CHOICES, none_twice
from kdutils.io.disk import REPOSITORY
from kdutils.io.records import Text
from kdutils.io.text_safety import shown

NOTEBOOKS = REPOSITORY / "notebooks"
TAG = "parameters"  # the cell tag that papermill looks for
BOOLEANS = {"true": True, "false": False}
LIST = Field(min_length=1), AfterValidator(none_twice)
NAMES = TypeAdapter(Annotated[list[Annotated[Text, Field(min_length=1)]], *LIST])
INTS = TypeAdapter(Annotated[list[int], *LIST])
FLOATS = TypeAdapter(Annotated[list[FiniteFloat], *LIST])
SEVERAL = "at least one and none twice"
TYPES: dict[str, tuple[TypeAdapter, Callable[[str], Any], str]] = {  # values, one read from text, an example
    "str": (TypeAdapter(Text), str, "give text on one line"),
    "int": (TypeAdapter(int), int, "give a whole number such as 3"),
    "float": (TypeAdapter(FiniteFloat), float, "give a finite number such as 0.5 or 1e-4"),
    "bool": (TypeAdapter(bool), lambda text: BOOLEANS[text.strip().lower()], "give true or false"),
    "list[str]": (NAMES, str, f'give names such as a,b or \'["a", "b"]\', {SEVERAL}'),
    "list[int]": (INTS, int, f"give whole numbers such as 1,2 or '[1, 2]', {SEVERAL}"),
    "list[float]": (FLOATS, float, f"give finite numbers such as 0.5,1 or '[0.5, 1]', {SEVERAL}"),
}


class ParameterError(ValueError):
    """A parameter declared or given wrongly. The message is one line and holds the remedy."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    type: str  # one of TYPES, with " | None" after it if None is a value too
    default: Any
    help: str = ""  # the comment at the end of the line

    @property
    def optional(self) -> bool:
        """Whether None is a value."""
        return self.type.endswith(" | None")

    @property
    def base(self) -> str:
        """The type without None, one of TYPES."""
        return self.type.removesuffix(" | None")

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return self.base.startswith("list[")


def declared(notebook: Path) -> dict[str, Parameter]:
    """The parameters that a notebook file declares, in their order.

    Raises:
        ParameterError: if the file cannot be read, has not exactly one cell tagged `parameters`,
            or that cell holds anything but `name: type = literal`; names the file and the line. A parameter
            whose default is None may be None, whether or not its type says so.
    """
    source = _tagged_source(notebook)
    where = f"{notebook}, parameters cell"
    try:
        statements = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ParameterError(f"{where}, line {line}: not Python; use `name: type = literal`") from None
    comments = {at.start[0]: at.string.lstrip("# ") for at in tokens if at.type == tokenize.COMMENT}
    parameters: dict[str, Parameter] = {}
    for statement in statements:
        try:
            parameter = _declaration(statement, comments)
            if parameter.name in parameters:
                raise ParameterError(f"{parameter.name} is declared twice; keep one")
        except ParameterError as error:
            raise ParameterError(f"{where}, line {statement.lineno}: {error}") from None
        parameters[parameter.name] = parameter
    return parameters


def check(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, each value read as the type that its parameter declares; names are checked first."""
    check_names(parameters, given)
    return {name: coerce(parameters[name], value) for name, value in given.items()}


def check_names(parameters: Mapping[str, Parameter], names: Iterable[str]) -> None:
    """Raise a ParameterError for the first name that is no identifier or not declared."""
    for name in names:
        if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
            raise ParameterError(
                f"parameter name {name!r} is not a Python identifier and would be run as code; "
                f"declared are {describe(parameters)}"
            )
        if name not in parameters:
            raise undeclared(name, parameters)


def undeclared(name: str, parameters: Mapping[str, Parameter]) -> ParameterError:
    """The error for a name that no parameter has."""
    known = f"{_did_you_mean(name, parameters)}; declared are {describe(parameters)}"
    return ParameterError(f"unknown parameter {name!r}{known}")


def describe(parameters: Mapping[str, Parameter]) -> str:
    """`selection: str, seeds: list[int]`."""
    return ", ".join(f"{parameter.name}: {parameter.type}" for parameter in parameters.values()) or "none"


def coerce(parameter: Parameter, value: Any) -> Any:
    """`value` as the declared type: text is read as on a command line, all else must fit as it is.

    A list is read from JSON or from commas; null and none are None where None is allowed.

    Raises:
        ParameterError: naming value, parameter, what is expected, and the nearest choice.
    """
    if not isinstance(value, str):
        return strict(parameter, value)
    if parameter.optional and value.strip().lower() in ("null", "none"):
        return None
    read = TYPES[parameter.base][1]
    try:
        if not parameter.is_list:
            found = read(value)
        elif value.lstrip().startswith("["):
            found = json.loads(value)
        else:
            found = [read(part.strip()) for part in value.split(",")]
    except (ValueError, KeyError, RecursionError):
        raise _wrong(parameter, value) from None
    return strict(parameter, found)


def strict(parameter: Parameter, value: Any) -> Any:
    """`value` if it already is of the declared type and allowed; an int passes where a float is declared."""
    if value is None and parameter.optional:
        return None
    try:
        found = TYPES[parameter.base][0].validate_python(value, strict=True)
    except ValidationError:
        raise _wrong(parameter, value) from None
    choices = PARAMETER_CHOICES.get(parameter.name, ())
    for text in found if parameter.is_list else [found]:
        is_file = parameter.name == "profile" and str(text).endswith(".toml")
        if choices and isinstance(text, str) and text not in choices and not is_file:
            known = f"{_did_you_mean(text, choices)}; choose from {', '.join(choices)}"
            raise ParameterError(f"{parameter.name}={text!r} is not a known value{known}")
    return found


def _wrong(parameter: Parameter, value: Any) -> ParameterError:
    _, _, example = TYPES[parameter.base]
    return ParameterError(f"{parameter.name}={shown(value)} is not {parameter.type}; {example}")


def _did_you_mean(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _tagged_source(notebook: Path) -> str:
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if TAG in cell.get("metadata", {}).get("tags", [])]
    except OSError as error:
        raise ParameterError(f"{notebook}: cannot be read ({error.strerror}); check its path") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ParameterError(f"{notebook}: not a Jupyter notebook; restore the file") from None
    if len(tagged) != 1:
        raise ParameterError(f"{notebook}: {len(tagged)} cells are tagged {TAG!r}; tag exactly one")
    source = tagged[0].get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _declaration(statement: ast.stmt, comments: Mapping[int, str]) -> Parameter:
    """The parameter that one statement declares; the caller adds file and line to an error."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as literal):
            written = ast.unparse(statement.annotation)
        case _:
            code = " ".join(ast.unparse(statement).split())
            raise ParameterError(f"`{code[:60]}`: use `name: type = literal`")
    if name.startswith("_"):
        raise ParameterError(f"{name} starts with an underscore; give it a public name")
    if written.removesuffix(" | None") not in TYPES:
        raise ParameterError(f"{name} has type {written}; use {', '.join(TYPES)}, or one of them | None")
    try:
        default = ast.literal_eval(literal)
    except (ValueError, TypeError):
        raise ParameterError(f"{name} has a derived value; give a literal, derive in a later cell") from None
    text = comments.get(statement.end_lineno or 0) or comments.get(statement.lineno, "")
    if default is None and not written.endswith(" | None"):  # papermill's own inspection knows no `|`
        written += " | None"
    parameter = Parameter(name=name, type=written, default=None, help=text)
    return replace(parameter, default=strict(parameter, default))
