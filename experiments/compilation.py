"""What JAX compiles: quickly, and kept on disk, so that what one command has compiled, the next one reads."""

import os
from pathlib import Path

import jax
from jaxlib.version import __version__ as jaxlib_version

_LARGEST = 1 << 29  # bytes; what has not been used for longest goes
_QUICKLY = "--xla_cpu_use_fusion_emitters=false"


def compile_quickly() -> None:
    """Has programs for the CPU compiled in two thirds of the time; some run a sixth slower.

    To be called before JAX is used. Does nothing if the user has flags for XLA, nor under a jaxlib that is
    not known to have this one: XLA ends the process at a flag that it does not know, as 0.12 would.
    """
    if jaxlib_version.startswith("0.10."):
        os.environ.setdefault("XLA_FLAGS", _QUICKLY)


def keep_compiled() -> None:
    """Keeps what is compiled in ``~/.cache/goodteacher``, unless the user has said where, or not to.

    To be called before anything is compiled. Where the folder cannot be written nothing is kept.
    """
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] is not None or not chosen["jax_enable_compilation_cache"]:
        return
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "goodteacher" / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    # Of a command that computes for milliseconds most is compiling what takes milliseconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
