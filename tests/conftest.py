"""Array shapes and types of every annotated function of `sim` and `theory` are enforced in the tests."""

import ctypes
import functools
import gc
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
import jaxtyping
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from goodteacher.experiments.compilation import compile_quickly

_MOST_CHECKED = 50  # calls of a function in a test
_checked: Counter[FunctionType] = Counter()


def _of_first_calls(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """What decorates functions and classes for the import hook, but checks only the first calls in each test.

    Loops in NumPy call the same functions a million times with the same shapes: checks of each call were half
    of the time of all tests that solve flows.
    """

    def decorator(*, typechecker: object) -> Callable[[Any], Any]:
        def decorate(of: Any) -> Any:
            enforced = jaxtyped(of, typechecker=typechecker)
            if not isinstance(of, FunctionType):
                return enforced

            @functools.wraps(of)
            def call(*args: Any, **keywords: Any) -> Any:
                if _checked[of] == _MOST_CHECKED:
                    return of(*args, **keywords)
                _checked[of] += 1
                return enforced(*args, **keywords)

            return call

        return decorate

    return decorator


jaxtyping.jaxtyped = _of_first_calls(jaxtyping.jaxtyped)
install_import_hook(["goodteacher.sim", "goodteacher.theory"], "beartype.beartype")

compile_quickly()

# What a test finds does not depend on the machine.
jax.config.update("jax_num_cpu_devices", 1)

# Compilation is most of the suite's time: what one test or run has compiled, the next one reads.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("default")


_MOST_MEMORY = 1.6 * 2**30  # bytes of a worker, from which on it forgets what it has compiled
_RESIDENT = Path("/proc/self/statm")


@pytest.fixture(autouse=True)
def _checked_anew():
    _checked.clear()


@pytest.fixture(autouse=True)
def _bounded_memory():
    """Executables are most of a worker's memory; what is needed again is on disk.

    The C library gives nothing back unless it is told. Where neither is known, as on macOS, nothing is done.
    """
    yield
    if _RESIDENT.exists() and int(_RESIDENT.read_text().split()[1]) * resource.getpagesize() > _MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
