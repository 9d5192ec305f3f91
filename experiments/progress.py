"""Progress of what takes longer than two seconds, and long computations that heed Ctrl-C."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, TypeVar

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    import optax

T = TypeVar("T")

_PATIENCE = 2.0  # seconds without a line
_INTERVAL = 10.0  # seconds from one line to the next
_REPORTS, _MOST_UPDATES = 200, 10_000  # at least so many of an ascent, and between two of them


class Progress:
    """On a terminal a bar with the remaining time, which vanishes in the end; elsewhere a line now and then.

    Both on standard error.
    """

    def __init__(self, task: str, total: int | None = None):
        """Progress of a task of so many parts, or of one that cannot tell how far it is."""
        columns = (TaskProgressColumn(), TimeRemainingColumn()) if total else (TimeElapsedColumn(),)
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task, self._total = task, total
        self._id = self._bar.add_task(task, total=total)
        self._start, self._next_line = time.monotonic(), _PATIENCE

    def __enter__(self) -> Self:
        """Shows it."""
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Removes it."""
        self._bar.stop()

    def __call__(self, done: int, now: str = "") -> None:
        """Says how many parts are done, and what is being done now."""
        self._bar.update(self._id, completed=done, description=f"{self._task} {now}".rstrip())
        elapsed = time.monotonic() - self._start
        if self._bar.disable and self._total and 0 < done < self._total and elapsed >= self._next_line:
            self._next_line = elapsed + _INTERVAL
            left = elapsed * (self._total - done) / done
            part = f"{self._task} {now}".rstrip()
            print(
                f"{part}: {done / self._total:.0%} done, about {left:.0f} s left", file=sys.stderr, flush=True
            )

    def watch(self, transformation: "optax.GradientTransformation") -> "optax.GradientTransformation":
        """An optimiser that does the same and reports its updates, from inside compiled code."""
        import optax  # takes long, and few commands need it

        assert self._total is not None
        interval = min(max(self._total // _REPORTS, 1), _MOST_UPDATES)

        def count(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            done = state + 1
            jax.lax.cond(
                done % interval == 0,
                lambda: jax.debug.callback(lambda value: self(int(value)), done),
                lambda: None,
            )
            return updates, done

        counter = optax.GradientTransformation(lambda params: jnp.zeros((), int), count)
        return optax.chain(transformation, counter)


def interruptible(compute: Callable[[], T]) -> T:
    """What a function returns or raises; Ctrl-C is heeded at once, even while compiled code runs.

    The function then goes on in a thread of its own until the process ends.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(compute())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result()
