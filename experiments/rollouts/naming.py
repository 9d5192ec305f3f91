"""Names of prompts: their texts on one line, shortened so that different prompts have different names."""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

_MOST = 80  # characters of a name
_BEFORE = 20  # characters before a place, whose words are shown with it
_NEAR = 30  # characters behind a place, which are shown with it
_PIECES = 2  # of a text, which a name shows
_KEPT = 1 << 27  # characters of all texts that are kept, beside which others are seen to differ
_GAP = "..."


def on_one_line(value: Any) -> str:
    """A text without what cannot be printed, and with single spaces."""
    text = " ".join(str(value).split())
    if text.isprintable():
        return text
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def label(value: Any, most: int = _MOST) -> str:
    """A text on one line, shortened."""
    text = on_one_line(value)
    return text if len(text) <= most else text[: most - len(_GAP)] + _GAP


@dataclass
class _Named:
    """A prompt that has a name: its number, its text, and places of it where others differ."""

    number: int
    text: str
    places: set[int] = field(default_factory=set)


class Names:
    """Names of prompts in their order.

    Of texts that begin alike is shown where they differ; those that are alike on one line are numbered.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._taken: dict[str, _Named] = {}
        self._left = _KEPT

    def add(self, text: str) -> None:
        """Adds the name of a prompt."""
        its = _Named(len(self._names), on_one_line(text))
        name = _excerpt(its.text, its.places)
        while name in self._taken:
            other = self._taken[name]
            place = _common(its.text, other.text)
            if place in its.places or its.text == other.text:
                name = self._numbered(name)
                break
            other.places.add(place)
            self._rename(other)
            its.places.add(place)
            name = _excerpt(its.text, its.places)
        self._names.append(name)
        if len(its.text) > self._left:
            its.text = name
        self._left -= len(its.text)
        self._taken[name] = its

    def __iter__(self) -> Iterator[str]:
        """All of them."""
        return iter(self._names)

    def _rename(self, other: _Named) -> None:
        """Shows where others differ from a prompt; its former name stays taken, and leads to it."""
        name = _excerpt(other.text, other.places)
        if name not in self._taken:
            self._names[other.number] = name
            self._taken[name] = other

    def _numbered(self, name: str) -> str:
        return next(new for i in itertools.count(2) if (new := f"{name} ({i})") not in self._taken)


def _excerpt(text: str, places: Collection[int]) -> str:
    """What stands in a text from the words of some places on, or from its beginning; all of a short text."""
    if len(text) <= _MOST:
        return text
    starts: list[int] = []
    for place in sorted(places or [0]):
        if not starts or place > starts[-1] + _NEAR:
            starts.append(place)
    del starts[_PIECES:]
    room = (_MOST - len(_GAP) * (len(starts) + (starts[0] > 0))) // len(starts)
    said, end = "", 0
    for place in starts:
        least = max(place - _BEFORE, 0)
        space = text.find(" ", least, place)
        begin = max(least if space < 0 else space + 1, end)
        said += (_GAP if begin > end else "") + text[begin : begin + room]
        end = begin + room
    return said + (_GAP if end < len(text) else "")


def _common(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
