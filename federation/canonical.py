"""One text for one value: canonical JSON, and real numbers as decimal strings.

Everything that is hashed, compared or (later) signed passes through here. JSON has many spellings of the same value;
this file writes one of them and refuses to read the others. See docs/spec/messages-1.md, section 1.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from federation.errors import FormatError

Value = None | bool | int | str | Sequence["Value"] | Mapping[str, "Value"]

LARGEST_INTEGER = 2**53 - 1  # beyond this, readers in other languages round
DEPTH_MAX = 16
SAFE = frozenset({str, bool, type(None)})  # nothing to check


def dump(value: Value) -> bytes:
    """`value` as ASCII JSON: sorted names, no spaces, no floats.

    Guarantees: equal values give equal bytes; `load(dump(value))` is `value` with tuples as lists.
    Raises: FormatError `not-canonical` for a float, a name that is not text, or an integer beyond 2**53 - 1.
    """
    return _WRITER.encode(_plain(value)).encode("ascii")


def load(data: bytes) -> Value:
    """The value whose canonical text is exactly `data`; every other text is refused."""
    try:
        text = data.decode("ascii")
        value: Value = _READER.decode(text)
        again = _WRITER.encode(value)
    except (ValueError, RecursionError):  # a decoding error is a ValueError too
        raise _refused("not readable as JSON") from None
    if again != text:
        raise _refused("not the canonical spelling of this value")
    return value


def digest(value: Value) -> str:
    """SHA-256 over the canonical text, 64 hexadecimal characters."""
    return hashlib.sha256(dump(value)).hexdigest()


def decimal(number: float) -> str:
    """A finite real number as the shortest decimal text that reads back to the same float64.

    >>> decimal(0.1), decimal(3)
    ('0.1', '3.0')
    """
    if not math.isfinite(number):
        raise _refused("a number is not finite")
    return repr(float(number))


def number(text: Value) -> float:
    """The opposite of `decimal`; '0.10', '1e0', 'nan' and ' 1.0' are refused."""
    if not isinstance(text, str):
        raise _refused("a real number must travel as text")
    try:
        read = float(text)
    except ValueError:
        raise _refused("a real number is not readable") from None
    if decimal(read) != text:
        raise _refused("a real number is not in its shortest form")
    return read


def _plain(value: Value, depth: int = 0) -> object:
    """Checked, and as the plain dict and list that json.dumps knows: our frozen values hold read-only views."""
    if type(value) in SAFE:
        return value
    if isinstance(value, int):
        return _within(value)
    if depth > DEPTH_MAX:
        raise _refused("nested too deeply")
    if isinstance(value, (list, tuple)):
        if all(map(_is_small, value)):  # a shape, mostly
            return value
        return [item if type(item) in SAFE else _plain(item, depth + 1) for item in value]
    if isinstance(value, (dict, MappingProxyType)):
        if not set(map(type, value)) <= {str}:
            raise _refused("a name is not text")
        return {name: item if type(item) in SAFE else _plain(item, depth + 1) for name, item in value.items()}
    raise _refused("only text, integers, truth values, lists and named values are allowed")


def _is_small(item: object) -> bool:
    return type(item) is int and -LARGEST_INTEGER <= item <= LARGEST_INTEGER


def _within(integer: int) -> int:
    if not -LARGEST_INTEGER <= integer <= LARGEST_INTEGER:
        raise _refused("an integer is too large")
    return integer


def _integer(text: str) -> int:
    return _within(int(text))


def _no_float(text: str) -> NoReturn:
    raise _refused("a real number must travel as text")


def _refused(reason: str) -> FormatError:
    return FormatError("not-canonical", reason, hint="write it with the same version of wardround that reads it")


_WRITER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_READER = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float, parse_int=_integer)
