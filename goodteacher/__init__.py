"""Exact policy gradient on softmax policies, and what theory says of rewards as teachers.

The names here are the public ones; each is loaded when it is first asked for. Deeper ones stand in the four
rooms: :mod:`goodteacher.sim`, :mod:`goodteacher.theory`, :mod:`goodteacher.experiments` and
:mod:`goodteacher.figures`.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

import jax

if "JAX_ENABLE_X64" not in os.environ:
    # Hitting times at 1e50 and relative errors of 1e-9 need double precision.
    jax.config.update("jax_enable_x64", True)

if TYPE_CHECKING:
    from goodteacher.experiments.sweeps import open_store, sweep
    from goodteacher.sim.ascent import ascend, optimizer
    from goodteacher.sim.files import read_instance, write_instance
    from goodteacher.sim.flow import (
        HittingTime,
        Status,
        final_policies,
        final_policy,
        hitting_time,
        hitting_times,
        trajectory,
    )
    from goodteacher.sim.goals import Goal, probability_level, reward_increase, reward_level
    from goodteacher.sim.instance import Instance
    from goodteacher.sim.learning import learn
    from goodteacher.sim.metrics import measure
    from goodteacher.theory.statements import Statement, registry, verify

__all__ = [
    "Goal",
    "HittingTime",
    "Instance",
    "Statement",
    "Status",
    "ascend",
    "final_policies",
    "final_policy",
    "hitting_time",
    "hitting_times",
    "learn",
    "measure",
    "open_store",
    "optimizer",
    "probability_level",
    "read_instance",
    "registry",
    "reward_increase",
    "reward_level",
    "sweep",
    "trajectory",
    "verify",
    "write_instance",
]

_ROOMS = {
    "experiments.sweeps": ("open_store", "sweep"),
    "sim.ascent": ("ascend", "optimizer"),
    "sim.files": ("read_instance", "write_instance"),
    "sim.flow": (
        "HittingTime",
        "Status",
        "final_policies",
        "final_policy",
        "hitting_time",
        "hitting_times",
        "trajectory",
    ),
    "sim.goals": ("Goal", "probability_level", "reward_increase", "reward_level"),
    "sim.instance": ("Instance",),
    "sim.learning": ("learn",),
    "sim.metrics": ("measure",),
    "theory.statements": ("Statement", "registry", "verify"),
}
_HOMES = {name: f"{__name__}.{room}" for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that it stands in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
