from .experiments.sweeps import open_store, sweep
from .sim.ascent import ascend, optimizer
from .sim.files import read_instance, write_instance
from .sim.flow import (
    HittingTime,
    Status,
    final_policies,
    final_policy,
    hitting_time,
    hitting_times,
    trajectory,
)
from .sim.goals import Goal, probability_level, reward_increase, reward_level
from .sim.instance import Instance
from .sim.learning import learn
from .sim.metrics import measure
from .theory.statements import Statement, registry, verify

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
