"""Names that are looked up: what is said of one that is not known."""

import difflib
from collections.abc import Iterable
from typing import Any


def unknown(kind: str, name: Any, known: Iterable[str]) -> ValueError:
    """The error for a name that is not known, with the closest one that is.

    Args:
        kind: what it should be the name of, such as ``optimizer``.
        name: as it was given.
        known: the names that there are.
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, 1)
    hint = f"did you mean {close[0]}" if close else f"known are {', '.join(names)}"
    return ValueError(f"{kind} {name!r} is unknown; {hint}")
