"""What a person does on the page, as a function from its state to the next; bad input is marked, not lost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from goodteacher.experiments.explorer.situation import Features, Situation, number, replaced
from goodteacher.experiments.explorer.starting_points import Collection, drawn, published

Errors = Mapping[str, str]
_NONE: Errors = MappingProxyType({})


@dataclass(frozen=True)
class Page:
    """All that the page knows.

    Attributes:
        now: the state.
        pinned: the state that it is compared with.
        errors: one sentence for each field with bad input, by :func:`key`.
        rejected: what stands there, likewise.
        source: problems of a file to start from.
    """

    now: Situation
    pinned: Situation | None = None
    errors: Errors = field(default_factory=lambda: _NONE)
    rejected: Errors = field(default_factory=lambda: _NONE)
    source: Collection | None = None

    def query(self) -> str:
        """What stands after the question mark of a link to it."""
        from urllib.parse import quote

        pinned = "" if self.pinned is None else f"&pinned={quote(self.pinned.query(), safe='')}"
        return self.now.query() + pinned

    @classmethod
    def from_query(cls, query: str) -> "Page":
        """The page that a link is of.

        Raises:
            ValueError: naming what is wrong with it.
        """
        from urllib.parse import unquote

        own, _, pinned = query.removeprefix("?").partition("&pinned=")
        return cls(Situation.from_query(own), Situation.from_query(unquote(pinned)) if pinned else None)


def key(what: str, output: int | None = None) -> str:
    """The name of a field."""
    return what if output is None else f"{what}-{output}"


def after(page: Page, message: Mapping[str, Any]) -> Page:
    """The page after a person has done something.

    Args:
        page: before.
        message: ``what`` was done, the ``value`` as text, the ``output`` it is of, if it is of one.

    Returns:
        The next page; where the input is bad, the same state with a sentence at that field.
    """
    what, value = str(message.get("what")), str(message.get("value", ""))
    output = message.get("output")
    at = key(what, output)
    try:
        if what in ("proxy", "truth", "start"):
            name = {"proxy": "proxy reward", "truth": "ground truth", "start": "probability"}[what]
            now = page.now.with_number(what, int(output or 0), number(name, value))
            return _mended(page, at, now=now)
        if what not in _DEEDS:
            raise ValueError(f"{what!r} is nothing that can be done here")
        return _mended(page, at, **_DEEDS[what](page, value, output))
    except ValueError as error:
        sentence = " ".join(str(error).split())
        return replace(page, errors={**page.errors, at: sentence}, rejected={**page.rejected, at: value})


def _mended(page: Page, at: str, **changes: Any) -> Page:
    """Without the sentence at a field; at none, where other outputs stand there now."""
    other = "now" in changes and len(changes["now"].proxy) != len(page.now.proxy)
    errors, rejected = (
        {} if other else {name: said for name, said in of.items() if name != at}
        for of in (page.errors, page.rejected)
    )
    return replace(page, errors=errors, rejected=rejected, **changes)


Deed = Callable[[Page, str, Any], dict[str, Any]]


def _fresh(situation: Situation) -> dict[str, Any]:
    return {"now": situation}


def _followed(name: str, read: Callable[[str], Any]) -> Deed:
    def deed(page: Page, value: str, output: Any) -> dict[str, Any]:
        return {"now": replace(page.now, followed=replaced(page.now.followed, name, read(value)))}

    return deed


def _situation(name: str) -> Deed:
    return lambda page, value, output: {"now": replace(page.now, **{name: number(name, value)})}


def _of_features(name: str, kind: Callable[[float], Any]) -> Deed:
    def deed(page: Page, value: str, output: Any) -> dict[str, Any]:
        features = page.now.features or Features()
        changed = {name: kind(number(name, value))}
        other = {"first": "second", "second": "first"}.get(name)
        if other and changed[name] == getattr(features, other):
            changed[other] = getattr(features, name)  # they change places
        return {"now": replace(page.now, features=replace(features, **changed))}

    return deed


def _policy(page: Page, value: str, output: Any) -> dict[str, Any]:
    return {"now": replace(page.now, features=Features() if value == "linear" else None)}


def _prompt(page: Page, value: str, output: Any) -> dict[str, Any]:
    if page.source is None:
        raise ValueError("prompt is that of no file; open one first")
    return _fresh(page.source.situation(int(number("prompt", value))))


def _seed(page: Page, value: str, output: Any) -> dict[str, Any]:
    seed = number("seed", value)
    if not seed.is_integer():
        raise ValueError(f"seed is {value}; give a whole number from 0")
    return _fresh(drawn(int(seed)))


def _back(page: Page, value: str, output: Any) -> dict[str, Any]:
    if page.pinned is None:
        raise ValueError("nothing is pinned; pin a state first")
    return _fresh(page.pinned)


_TRUE = "true".__eq__

_DEEDS: Mapping[str, Deed] = MappingProxyType(
    {
        "add": lambda page, value, output: {"now": page.now.with_output()},
        "remove": lambda page, value, output: {"now": page.now.without_output(int(output))},
        "published": lambda page, value, output: _fresh(published(value)),
        "prompt": _prompt,
        "seed": _seed,
        "pin": lambda page, value, output: {"pinned": page.now},
        "unpin": lambda page, value, output: {"pinned": None},
        "back": _back,
        "estimator": _followed("estimator", str),
        "group": _followed("group", lambda text: number("group", text) if text else None),
        "epsilon": _followed("epsilon", lambda text: number("epsilon", text) if text else None),
        "power": _followed("power", lambda text: number("power", text)),
        "k": _followed("k", lambda text: number("k", text)),
        "population": _followed("population", _TRUE),
        "dynamic_sampling": _followed("dynamic_sampling", _TRUE),
        "preset": _followed("preset", lambda text: text or None),
        "kl": _situation("kl"),
        "goal": _situation("goal"),
        "horizon": _situation("horizon"),
        "policy": _policy,
        "angle": _of_features("angle", float),
        "length": _of_features("length", float),
        "first": _of_features("first", int),
        "second": _of_features("second", int),
    }
)
