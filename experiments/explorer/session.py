"""One open page: what it shows, and what happens to what a person does there.

The state changes at once; what becomes of it is computed in a thread that all pages share, of the newest
state alone, so that no page waits for states that nobody looks at any more.
"""

import base64
import binascii
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from goodteacher.experiments.explorer.charts import COLORS, Charts
from goodteacher.experiments.explorer.edits import Page, after
from goodteacher.experiments.explorer.outlook import Outlook, effects, outlook
from goodteacher.experiments.explorer.readings import effect_text, headline, kind_text, readings
from goodteacher.experiments.explorer.situation import MOST, Situation
from goodteacher.experiments.explorer.starting_points import (
    FIRST,
    PUBLISHED,
    Collection,
    published,
    read_problems,
)
from goodteacher.experiments.explorer.toolkit import toolkit
from goodteacher.sim.files import to_dictionary

_HERE = Path(__file__).parent
_LOG = logging.getLogger(__name__)
_LONGEST = 1 << 24  # characters of a file that is given


class Shown(NamedTuple):
    """What a page shows of its state.

    Attributes:
        outlook: of the state; ``None`` if there is none.
        pinned: of the state that it is compared with.
        effects: of the errors, once they are known.
        error: why there is no outlook.
    """

    outlook: Outlook | None = None
    pinned: Outlook | None = None
    effects: np.ndarray | None = None
    error: str | None = None


def controls_data(page: Page, shown: Shown) -> dict[str, Any]:
    """What the form shows."""
    now, of = page.now, shown.outlook
    of = of if of is not None and of.situation == now else None
    ratios = None if of is None else shown.effects
    best = int(np.argmax(now.truth))
    outputs = [
        {
            "proxy": now.proxy[y],
            "truth": now.truth[y],
            "start": now.start[y],
            "color": COLORS[y],
            "best": y == best,
            "kind": "" if of is None else kind_text(of.kinds[y]),
            "effect": ""
            if of is None or ratios is None
            else effect_text(ratios[y], of.kinds[y], of.time > 0),
        }
        for y in range(len(now.proxy))
    ]
    followed, features = now.followed, now.features
    numbers = {name: getattr(followed, name) for name in ("group", "epsilon", "k", "power")}
    low, high = min(*now.proxy, *now.truth, -1.0), max(*now.proxy, *now.truth, 1.0)
    errors = dict(page.errors)
    if shown.error is not None:
        errors["estimator"] = shown.error
    return {
        "outputs": outputs,
        "range": [low, high],
        "most": MOST,
        "values": {
            **{name: "" if of is None else f"{of:g}" for name, of in numbers.items()},
            "estimator": followed.estimator,
            "preset": followed.preset or "",
            "population": followed.population,
            "dynamic_sampling": followed.dynamic_sampling,
            **{name: f"{getattr(now, name):g}" for name in ("kl", "goal", "horizon")},
            "policy": "tabular" if features is None else "linear",
            "first": "0" if features is None else str(features.first),
            "second": "1" if features is None else str(features.second),
            "angle": 90.0 if features is None else features.angle,
            "length": "1" if features is None else f"{features.length:g}",
        },
        "errors": errors,
        "rejected": dict(page.rejected),
        "published": list(PUBLISHED),
        "prompts": [] if page.source is None else list(page.source.prompts),
        "pinned": page.pinned is not None,
        "link": page.query(),
        "python": now.python(),
    }


def numbers_data(shown: Shown) -> dict[str, Any]:
    """What the table of numbers shows."""
    of, pinned = shown.outlook, shown.pinned
    other = {} if pinned is None else {row.name: row.text for row in readings(pinned)}
    rows = [] if of is None else readings(of)
    return {
        "readings": [{**row._asdict(), "pinned": other.get(row.name, "")} for row in rows],
        "compared": pinned is not None,
    }


def answer_data(shown: Shown, *, busy: bool, sent: int) -> dict[str, Any]:
    """What is said in a sentence, and of which message of the page."""
    of = shown.outlook
    said = (
        "Computing …" if shown.error is None else "No answer: what is followed does not go with the rewards."
    )
    return {
        "headline": said if of is None else headline(of),
        "busy": busy,
        "sent": sent,
        "settled": not busy and (of is None or shown.effects is not None),
    }


def opened(query: str, source: Collection | None) -> Page:
    """The page that a link is of; with a sentence if it is of none."""
    try:
        first = published(FIRST) if source is None else source.situation(0)
        page = Page(first, source=source)
    except ValueError as error:
        page = Page(published(FIRST), source=source, errors={"page": str(error)})
    if not query.removeprefix("?"):
        return page
    try:
        return replace(Page.from_query(query), source=source)
    except ValueError as error:
        return replace(page, errors={"page": f"The link is of no state: {error}."})


class Session:
    """One open page."""

    def __init__(self, document: Any, query: str, source: Collection | None, worker: Executor) -> None:
        """Makes its parts; the first answer is computed when the page is open.

        Args:
            document: of Bokeh.
            query: of the address.
            source: of the problems that it may start from.
            worker: where answers are computed.
        """
        self._document, self._worker = document, worker
        self._page = opened(query, source)
        self._shown, self._sent, self._answered, self._busy = Shown(), 0, 0, False
        controls, answer = _components()
        self.charts = Charts()
        self.controls = controls(data=json.dumps(controls_data(self._page, self._shown)))
        self.answer = answer(data=json.dumps(answer_data(self._shown, busy=True, sent=0)))
        self.numbers = answer(data=json.dumps(numbers_data(self._shown)))
        self.controls.on_msg(lambda event: self._heard(event.data))

    # What a person does ------------------------------------------------------------------------

    def _heard(self, message: Mapping[str, Any]) -> None:
        self._sent = int(message.get("sent", self._sent))
        match message.get("what"):
            case "dark":
                # The first that a page says, once it is there to be given an answer.
                self.charts.paint(dark=message.get("value") == "true")
                if self._shown.outlook is None:
                    self._compute()
            case "export":
                self._export()
            case "file":
                self._turn(_with_file(self._page, message))
            case _:
                self._turn(after(self._page, message))

    def _turn(self, page: Page) -> None:
        before, self._page = self._page, page
        if (before.now, before.pinned) != (page.now, page.pinned):
            self._compute()
            return
        if not self._busy:
            self._answered = self._sent
        self._show()
        self._show_answer()

    def _export(self) -> None:
        try:
            text = json.dumps(to_dictionary(self._page.now.instance()), indent=1) + "\n"
            self.controls._send_msg({"name": "instance.json", "text": text})
        except ValueError as error:
            self._page = replace(self._page, errors={**self._page.errors, "export": str(error)})
            self._show()

    # What becomes of it ------------------------------------------------------------------------

    def _compute(self) -> None:
        """Has the newest state computed, unless something is: it follows then."""
        if self._busy:
            return
        self._busy = True
        page, sent, before = self._page, self._sent, self._shown
        self._later(lambda: _shown(page, before), lambda shown: self._computed(page, sent, shown))

    def _computed(self, page: Page, sent: int, shown: Shown) -> None:
        self._busy, self._shown, self._answered = False, shown, sent
        newer = (page.now, page.pinned) != (self._page.now, self._page.pinned)
        if shown.outlook is not None:
            self.charts.show(shown.outlook, shown.pinned)
        self.numbers.data = json.dumps(numbers_data(shown))
        self._show_answer()
        self._show()
        if newer:
            self._compute()
        elif shown.outlook is not None and shown.effects is None:
            self._judge(page, shown.outlook)

    def _judge(self, page: Page, of: Outlook) -> None:
        """Has the effects of the errors computed, which the pictures do not wait for."""
        self._busy = True

        def judged(found: np.ndarray) -> None:
            self._busy = False
            if self._shown.outlook is of:
                self._shown = self._shown._replace(effects=found)
            if (page.now, page.pinned) != (self._page.now, self._page.pinned):
                self._compute()
            else:
                self._show()
                self._show_answer()

        self._later(lambda: _effects(of), judged)

    def _later(self, compute: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Computes in the thread, and goes on with the result where the page may be changed."""
        hold = toolkit("panel.io").hold

        def work() -> None:
            found = compute()

            def shown() -> None:
                # All that changes in one message, for the browser to lay out and draw once.
                with hold(self._document):
                    then(found)

            self._document.add_next_tick_callback(shown)

        self._worker.submit(work)

    def _show(self) -> None:
        self.controls.data = json.dumps(controls_data(self._page, self._shown))

    def _show_answer(self) -> None:
        self.answer.data = json.dumps(answer_data(self._shown, busy=self._busy, sent=self._answered))


def _shown(page: Page, before: Shown) -> Shown:
    """What becomes of both states of a page, given what is known already."""
    known = {of.situation: of for of in (before.outlook, before.pinned) if of is not None}

    def look(situation: Situation) -> Outlook | str:
        if situation in known:
            return known[situation]
        try:
            return outlook(situation)
        except ValueError as error:
            return " ".join(str(error).split())
        except Exception as error:  # the page goes on, whatever fails
            _LOG.exception("an answer could not be computed")
            return f"this could not be computed: {type(error).__name__}, see the terminal; try another state"

    pinned = None if page.pinned is None else look(page.pinned)
    pinned = None if isinstance(pinned, str) else pinned
    now = look(page.now)
    if isinstance(now, str):
        return Shown(None, pinned, error=now)
    return Shown(now, pinned, before.effects if now is before.outlook else None)


def _effects(of: Outlook) -> np.ndarray:
    """The effects of errors; unknown ones if that fails."""
    try:
        return effects(of.situation, of.time)
    except Exception:  # the page goes on, whatever fails
        _LOG.exception("the effects of the errors could not be computed")
        return np.full(len(of.kinds), np.nan)


def _with_file(page: Page, message: Mapping[str, Any]) -> Page:
    """With the problems of a file that the browser has sent."""
    name, contents = Path(str(message.get("value"))).name, str(message.get("contents", ""))
    try:
        if len(contents) > _LONGEST:
            raise ValueError(
                f"{name} is larger than {_LONGEST >> 20} MB; give it to the command: explore FILE"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(base64.b64decode(contents, validate=True))
            try:
                source = read_problems(path)
            except ValueError as error:
                raise ValueError(str(error).replace(f"{folder}/", "")) from error
        errors = {at: said for at, said in page.errors.items() if at != "file"}
        page = replace(page, source=source, errors=errors)
        return replace(page, now=source.situation(0))
    except (ValueError, OSError, binascii.Error) as error:
        return replace(page, errors={**page.errors, "file": " ".join(str(error).split())})


@cache
def _components() -> tuple[Any, Any]:
    """The two parts of the page that are no pictures."""
    custom, param = toolkit("panel.custom"), toolkit("param")

    def text(name: str) -> str:
        return (_HERE / name).read_text(encoding="utf-8")

    class Controls(custom.JSComponent):
        """The form."""

        data = param.String()
        _esm = text("controls.js")
        _stylesheets = (text("controls.css"),)

    class Answer(custom.JSComponent):
        """What is said."""

        data = param.String()
        _esm = text("answer.js")
        _stylesheets = (text("answer.css"),)

    return Controls, Answer
