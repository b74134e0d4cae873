"""Times in documents: UTC, whole seconds, one spelling. Documents are compared by the second, people read the text."""

import re
import time
from datetime import UTC, datetime

from federation.errors import FormatError

FORM = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DAY_S = 86400


def text(seconds: float) -> str:
    """
    >>> text(1767225600)
    '2026-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> str:
    return text(time.time())


def seconds(written: object) -> int:
    """The opposite of `text`. Raises: FormatError `not-canonical`."""
    try:
        if isinstance(written, str) and FORM.fullmatch(written):
            return int(datetime.strptime(written, "%Y-%m-%dT%H:%M:%S%z").timestamp())
    except ValueError:
        pass
    raise FormatError("not-canonical", "a time is not of the form 2030-01-31T09:00:00Z", hint="times are UTC")
