"""Several processes at one sweep, started with ``jax.distributed``; and the devices of each."""

import contextlib
from collections.abc import Callable, Set
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from goodteacher.experiments.workers import cores

T = TypeVar("T")


def use_all_cores() -> None:
    """Makes every core that the process may run on a device, unless the user has said how many there are.

    It changes nothing where there is an accelerator, or if JAX has already looked for devices.
    """
    if jax.config.values["jax_num_cpu_devices"] == -1:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores())


def start(text: str) -> None:
    """Starts ``jax.distributed``; to be called before JAX has looked for devices.

    Args:
        text: ``auto`` on a cluster that JAX knows, such as Slurm; or ``HOST:PORT,PROCESS,PROCESSES``: where
            the first process listens, the number of this one from 0 on, and how many there are.

    Raises:
        ValueError: if the text is malformed, no cluster is known, or the others cannot be reached.
    """
    arguments: dict[str, Any] = {}
    if text != "auto":
        try:
            address, process, processes = text.split(",")
            _, port = address.split(":")
            if not (0 < int(port) < 1 << 16 and 0 <= int(process) < int(processes)):
                raise ValueError
        except ValueError:
            form = "HOST:PORT,PROCESS,PROCESSES such as localhost:1234,0,2"
            raise ValueError(f"distributed is {text!r}; give auto, or {form}") from None
        arguments = {"process_id": int(process), "num_processes": int(processes)}
        arguments["coordinator_address"] = address
    try:
        jax.distributed.initialize(**arguments)
    except (ValueError, RuntimeError) as error:
        fix = "give HOST:PORT,PROCESS,PROCESSES" if text == "auto" else "see that all processes are started"
        raise ValueError(f"distributed is {text!r}, which fails ({_first_line(error)}); {fix}") from error


def end() -> None:
    """Ends ``jax.distributed``: from then on, no process is stopped when another one dies."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    return jax.process_index() == 0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def together(act: Callable[[], T]) -> T:
    """What a function gives, once it has been called in all processes.

    Raises:
        ValueError: what the function raises, or if it fails in another process.
    """
    if jax.process_count() == 1:
        return act()
    result, failure = None, None
    try:
        result = act()
    except ValueError as error:
        failure = error
    failed = multihost_utils.process_allgather(np.array(failure is not None))
    if failure is not None:
        raise failure
    if failed.any():
        raise ValueError(f"process {failed.argmax()} cannot take part; see what it says")
    return cast(T, result)


def agreed(numbers: Set[int], total: int) -> list[int]:
    """Numbers below a total as the first process has them, in order."""
    chosen = np.isin(np.arange(total), list(numbers))
    if jax.process_count() > 1:
        chosen = np.asarray(multihost_utils.process_allgather(chosen))[0]
    return np.flatnonzero(chosen).tolist()
