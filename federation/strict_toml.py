"""TOML that a person wrote, read into frozen dataclasses without any guessing: plan.toml and site.toml.

One definition serves both: a frozen dataclass whose fields carry their limits (`Annotated[int, Field(ge=1)]`). Pydantic
checks it in strict mode. An unknown key is an error that names the nearest known one; `"0.8"` is not a number, `1.0` is
not an integer, `true` is neither, and TOML's `inf` and `nan` are refused: a budget of `inf` is no budget.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from federation.errors import FedError, printable

T = TypeVar("T")
Refuse = Callable[[str, str, str], FedError]  # (end of the code, message, hint) -> the caller's kind of error

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def parse(kind: type[T], text: str, refuse: Refuse) -> T:
    """The value that `text` spells, or the error that `refuse` makes."""
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise refuse(
            "not-toml", "the file is not readable as TOML", "check quotes, brackets and equals signs"
        ) from None
    except (ValueError, RecursionError):  # more digits or more brackets than Python reads
        raise _endless(refuse) from None
    return check(kind, read, refuse)


def check(kind: type[T], read: Any, refuse: Refuse) -> T:
    """The frozen dataclass `kind` made of plain tables and values; dates, inf and nan are refused."""
    try:
        text = json.dumps(read, allow_nan=False)  # strict mode reads a dataclass from JSON only
        value: T = _reader(cast(Any, kind)).validate_json(text)
        return value
    except RecursionError:
        raise _endless(refuse) from None
    except (TypeError, ValueError) as error:
        if isinstance(error, ValidationError):
            found = error.errors(include_url=False, include_input=False)
            # A misspelt key is both unknown and missing; the spelling is what a person has to look at.
            found.sort(key=lambda one: one["type"] != "unexpected_keyword_argument")
            raise _explained(kind, found[0], refuse) from None
        raise refuse("value", "a value is infinite, not a number, or a date", "write a finite number") from None


def _endless(refuse: Refuse) -> FedError:
    said = "the file nests too deeply, or has a number of too many digits"
    return refuse("not-toml", said, "look for what is repeated, and remove it")


def known_keys(kind: type[object], before: str = "") -> list[str]:
    """Every key that this file may have, as `section.key`."""
    keys: list[str] = []
    hints = get_type_hints(kind)
    for item in fields(kind):  # type: ignore[arg-type]
        inner = hints[item.name]
        keys.append(before + item.name)
        for table in (inner, *get_args(inner)):  # `Table | None` and `tuple[Table, ...]` hold tables too
            if is_dataclass(table) and isinstance(table, type):
                keys += known_keys(table, f"{before}{item.name}.")
    return keys


@cache
def _reader(kind: type[Any]) -> TypeAdapter[Any]:
    """Pydantic needs milliseconds to make one of these, and a site reads a plan in every round."""
    return TypeAdapter(kind)


def _explained(kind: type[object], error: ErrorDetails, refuse: Refuse) -> FedError:
    where = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "unexpected_keyword_argument":
        unnumbered = re.sub(r"\.[0-9]+(?=\.)", "", where)
        near = difflib.get_close_matches(unnumbered, known_keys(kind), n=1, cutoff=0.0)
        return refuse("unknown-key", f"unknown key {_shown(where)}", f"the nearest known key is {near[0]}")
    if error["type"] in ("missing", "missing_argument"):
        return refuse("value", f"{where} is missing", f"add {where}")
    reason = error["msg"].removeprefix("Value error, ")
    return refuse("value", f"{where}: {reason[:1].lower()}{reason[1:]}", "see the list of keys in the documentation")


def _shown(key: str) -> str:
    """A key as a person typed it, short and printable."""
    return printable(key[:80])
