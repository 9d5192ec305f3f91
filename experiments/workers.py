"""Tasks side by side, each in a process of its own: compiling, which is most of the work, uses one core."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from goodteacher.experiments.compilation import keep_compiled


def cores() -> int:
    """How many cores the process may run on; all of the machine's where the system does not say, as macOS."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


@contextlib.contextmanager
def workers(tasks: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A ``map`` in as many processes as there are cores, whose results come as they are done.

    In this process, and in order, if there is a single task or core, or an accelerator, which is not shared.
    """
    count = min(tasks, cores())
    if count == 1 or jax.default_backend() != "cpu":
        yield map
        return
    # Not a fork, which would share the locks of JAX's threads.
    with multiprocessing.get_context("spawn").Pool(count, keep_compiled) as pool:
        yield partial(pool.imap_unordered, chunksize=1)
