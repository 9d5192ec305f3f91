from .experiments.rollouts.collection import Rollouts
from .experiments.rollouts.diagnosis import diagnose
from .experiments.sweeps import open_store, sweep
from .sim.ascent import ascend, optimizer
from .sim.files import read_instance, write_instance
from .sim.flow import Control, final_policy, hitting_time, hitting_times, trajectory
from .sim.goals import Goal, probability_level, reward_increase, reward_level
from .sim.instance import Instance, Parameters, Probabilities, Regularizer
from .sim.itineraries import Itinerary, itineraries
from .sim.learning import learn
from .sim.metrics import measure
from .sim.policies import LinearSoftmax
from .sim.status import Status
from .theory.statements import Statement, verify

__all__ = [
    "Control",
    "Goal",
    "Instance",
    "Itinerary",
    "LinearSoftmax",
    "Parameters",
    "Probabilities",
    "Regularizer",
    "Rollouts",
    "Statement",
    "Status",
    "ascend",
    "diagnose",
    "final_policy",
    "hitting_time",
    "hitting_times",
    "itineraries",
    "learn",
    "measure",
    "open_store",
    "optimizer",
    "probability_level",
    "read_instance",
    "reward_increase",
    "reward_level",
    "sweep",
    "trajectory",
    "verify",
    "write_instance",
]
