"""``make bench``: speed and accuracy, each beside its alternative."""

import os
import platform

import jax

from benchmarks import (
    accelerator,
    accuracy,
    ascent,
    clocks,
    commands,
    exploring,
    hitting_times,
    miniature_runs,
    sampling,
    sweeps,
)

print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores")
print(f"JAX {jax.__version__}, Python {platform.python_version()}")
for benchmark in (
    *(accuracy, ascent, hitting_times, clocks, commands),
    *(miniature_runs, exploring, sampling, sweeps, accelerator),
):
    benchmark.main()
